#include "fbi/eval/choice.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "eval/option_checks.h"
#include "eval/python_text.h"
#include "fbi/core/error.h"

namespace fbi::eval {
namespace {

struct Request {
  std::size_t item = 0, choice = 0;
  ScoredText text;
  std::size_t longest = 0;  ///< ids of its item's longest choice
};

class Encoder {
 public:
  Encoder(const text::Tokenizer& tokenizer, std::int64_t vocab_size, std::int64_t max_position,
          bool add_bos)
      : tokenizer_(tokenizer),
        vocab_size_(vocab_size),
        max_ids_(static_cast<std::size_t>(max_position) + 1),
        add_bos_(add_bos) {}

  /// The harness's rules: white space at the end of the context belongs to the choice, both are
  /// encoded together and cut where the context alone would end; an empty context is a BOS; what is
  /// too long loses its beginning.
  ScoredText encode(const ChoiceItem::Continuation& choice, const std::string& place) const {
    const std::size_t kept = length_without_trailing_space(choice.context);
    const std::string whole = choice.context + choice.text;
    ScoredText text;
    std::size_t context_ids = 1;
    if (choice.context.empty()) {
      text.ids = tokenizer_.encode(choice.text);
      if (text.ids.empty() || text.ids[0] != tokenizer_.bos_id())
        text.ids.insert(text.ids.begin(), tokenizer_.bos_id());
    } else {
      text.ids = with_bos(whole);
      context_ids = with_bos(std::string_view(whole).substr(0, kept)).size();
    }
    if (context_ids == 0 || context_ids >= text.ids.size()) {
      throw DataError(
          concat(place, ": ", context_ids == 0 ? "the context" : "the choice", " has no token"));
    }
    text.scored = static_cast<std::int64_t>(text.ids.size() - context_ids);
    if (static_cast<std::size_t>(text.scored) >= max_ids_) {
      throw DataError(concat(place, ": a choice of ", text.scored,
                             " tokens, the model's context is ", max_ids_ - 1));
    }
    for (const std::int32_t id : text.ids) {
      if (id < 0 || id >= vocab_size_)
        throw DataError(concat(place, ": token id ", id, " is outside the model's vocabulary of ",
                               vocab_size_, "; the tokenizer is another model's"));
    }
    if (text.ids.size() > max_ids_)
      text.ids.erase(text.ids.begin(), text.ids.end() - static_cast<std::ptrdiff_t>(max_ids_));
    return text;
  }

 private:
  std::vector<std::int32_t> with_bos(std::string_view text) const {
    std::vector<std::int32_t> ids = tokenizer_.encode(text);
    if (add_bos_) ids.insert(ids.begin(), tokenizer_.bos_id());
    return ids;
  }

  const text::Tokenizer& tokenizer_;
  std::int64_t vocab_size_;
  std::size_t max_ids_;
  bool add_bos_;
};

struct ItemRange {
  std::size_t first = 0, last = 0;
};

ItemRange items_of(const ChoiceTask& task, const ChoiceOptions& options) {
  const auto count = static_cast<std::int64_t>(task.items.size());
  return {static_cast<std::size_t>(count * options.part / options.parts),
          static_cast<std::size_t>(count * (options.part + 1) / options.parts)};
}

std::vector<Request> encode_items(const Encoder& encoder, const ChoiceTask& task, std::size_t first,
                                  std::size_t last) {
  std::vector<Request> requests;
  for (std::size_t item = first; item < last; ++item) {
    const std::size_t begin = requests.size();
    std::size_t longest = 0;
    for (std::size_t choice = 0; choice < task.items[item].choices.size(); ++choice) {
      const std::string place = concat(task.name, ", item ", item, ", choice ", choice);
      ScoredText text = encoder.encode(task.items[item].choices[choice], place);
      longest = std::max(longest, text.ids.size());
      requests.push_back({item - first, choice, std::move(text)});
    }
    for (Request& request : std::span(requests).subspan(begin)) request.longest = longest;
  }
  // Long ones first: little padding, and what does not fit into memory fails at once. Choices of an
  // item stay together, as they share its context.
  std::ranges::stable_sort(requests, std::greater(), &Request::longest);
  return requests;
}

std::int64_t largest(std::span<const double> values) {
  return std::max_element(values.begin(), values.end()) - values.begin();
}

}  // namespace

ChoiceItemResult judge(const ChoiceItem& item, std::vector<double> log_likelihoods) {
  ChoiceItemResult result;
  result.gold = item.gold;
  result.chosen = largest(log_likelihoods);
  std::vector<double> per_character;
  for (std::size_t i = 0; i < log_likelihoods.size(); ++i) {
    per_character.push_back(log_likelihoods[i] /
                            static_cast<double>(std::max<std::int64_t>(item.characters[i], 1)));
  }
  result.chosen_norm = largest(per_character);
  result.log_likelihoods = std::move(log_likelihoods);
  return result;
}

void check_choices(const text::Tokenizer& tokenizer, const ChoiceTask& task,
                   std::int64_t vocab_size, std::int64_t max_position,
                   const ChoiceOptions& options) {
  check_batch_and_part(options.batch, options.part, options.parts);
  const auto [first, last] = items_of(task, options);
  encode_items(Encoder(tokenizer, vocab_size, max_position, options.add_bos), task, first, last);
}

ChoiceResult evaluate_choices(LanguageModel& model, const text::Tokenizer& tokenizer,
                              const ChoiceTask& task, const ChoiceOptions& options) {
  check_batch_and_part(options.batch, options.part, options.parts);
  const auto [first, last] = items_of(task, options);
  const auto count = static_cast<std::int64_t>(task.items.size());
  ChoiceResult result{task.name,
                      task.has_acc_norm,
                      model.dtype_description(),
                      options.add_bos,
                      static_cast<std::int64_t>(first),
                      count,
                      {}};
  for (std::size_t item = first; item < last; ++item) {
    result.items.emplace_back().log_likelihoods.resize(task.items[item].choices.size());
  }
  std::vector<Request> requests =
      encode_items(Encoder(tokenizer, model.vocab_size(), model.max_position(), options.add_bos),
                   task, first, last);
  for (std::size_t begin = 0; begin < requests.size();) {
    const auto batch = std::span(requests).subspan(
        begin, std::min(static_cast<std::size_t>(options.batch), requests.size() - begin));
    std::vector<ScoredText> texts;
    for (Request& request : batch) texts.push_back(std::move(request.text));
    const std::vector<double> sums = model.log_likelihoods(texts);
    for (std::size_t b = 0; b < batch.size(); ++b) {
      if (!options.allow_non_finite && !std::isfinite(sums[b])) {
        throw DataError(concat(task.name, ", item ", first + batch[b].item, ", choice ",
                               batch[b].choice, ": log-likelihood is ", sums[b], " (model in ",
                               model.dtype_description(), ")"));
      }
      result.items[batch[b].item].log_likelihoods[batch[b].choice] = sums[b];
    }
    begin += batch.size();
    if (options.on_progress)
      options.on_progress(
          {static_cast<std::int64_t>(begin), static_cast<std::int64_t>(requests.size())});
  }
  for (std::size_t i = 0; i < result.items.size(); ++i)
    result.items[i] = judge(task.items[first + i], std::move(result.items[i].log_likelihoods));
  return result;
}

}  // namespace fbi::eval
