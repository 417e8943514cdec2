#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/kernels/distill_loss.h"
#include "infer/packed_model_impl.h"

namespace fbi::infer {
namespace {

using eval::ScoredText;

/// The position whose logits tell the first scored id.
std::int64_t first_prediction(const ScoredText& text) {
  return std::ssize(text.ids) - 1 - text.scored;
}

/// How many texts, from the first on, begin with its context and are scored behind it only.
std::size_t alike(std::span<const ScoredText> texts) {
  const std::int64_t shared = first_prediction(texts[0]);
  if (shared == 0) return 1;
  const auto begins_like_first = [&](const ScoredText& text) {
    return first_prediction(text) >= shared &&
           std::equal(text.ids.begin(), text.ids.begin() + shared, texts[0].ids.begin());
  };
  return static_cast<std::size_t>(std::ranges::find_if_not(texts, begins_like_first) -
                                  texts.begin());
}

void check(const ScoredText& text) {
  if (text.scored < 1 || first_prediction(text) < 0)
    throw UsageError(concat("log_likelihoods: ", text.scored, " of ", text.ids.size(),
                            " ids are to be scored, at least one and fewer than all can be"));
}

/// One text on its way: its cache holds the `shared` positions that it has in common with the text
/// `leader`.
struct Scoring {
  const ScoredText* text;
  std::size_t leader;
  std::int64_t shared;
  std::unique_ptr<SequenceCache> cache;
  std::int64_t rows() const { return std::ssize(text->ids) - 1 - shared; }  ///< of its own
};

void add_rows(std::vector<TokenRow>& rows, const Scoring& scoring, std::int64_t first,
              std::int64_t last) {
  for (std::int64_t position = first; position < last; ++position)
    rows.push_back({scoring.text->ids[position], position, scoring.cache.get()});
}

}  // namespace

std::vector<double> PackedModel::log_likelihoods(std::span<const ScoredText> texts) {
  for (const ScoredText& text : texts) {
    check(text);
    impl_->check_ids(text.ids);
    impl_->check_length(std::ssize(text.ids) - 1);
  }
  std::vector<double> sums;
  while (!texts.empty()) {
    // No more than fill the rows that run together: every text has its own keys and values.
    std::size_t together = 0;
    for (std::int64_t rows = 0; together < texts.size() && rows < Forward::kMaxRows;) {
      const auto group = texts.subspan(together, alike(texts.subspan(together)));
      for (const ScoredText& text : group) rows += text.scored;
      together += group.size();
    }
    impl_->score(texts.first(together), sums);
    texts = texts.subspan(together);
  }
  return sums;
}

/// A row's bits don't depend on the rows beside it: what texts share is computed once, and the rest
/// of all of them side by side.
void PackedModel::Impl::score(std::span<const ScoredText> texts, std::vector<double>& sums) {
  std::vector<Scoring> all;
  std::vector<TokenRow> rows;
  while (all.size() < texts.size()) {
    const std::size_t leader = all.size();
    const auto group = texts.subspan(leader, alike(texts.subspan(leader)));
    const std::int64_t shared = first_prediction(group[0]);
    for (const ScoredText& text : group) {
      const std::int64_t last = std::ssize(text.ids) - 1;
      all.push_back({&text, leader, shared, forward_->new_cache(last)});
      all.back().cache->reserve(last);
    }
    add_rows(rows, all[leader], 0, shared);
  }
  run(rows, [](std::int64_t, std::int64_t) {});

  rows.clear();
  std::vector<std::int32_t> targets;
  for (std::size_t t = 0; t < all.size(); ++t) {
    const auto& ids = all[t].text->ids;
    if (all[t].leader != t) all[t].cache->copy(*all[all[t].leader].cache, all[t].shared);
    add_rows(rows, all[t], all[t].shared, std::ssize(ids) - 1);
    targets.insert(targets.end(), ids.begin() + all[t].shared + 1, ids.end());
  }
  std::vector<float> nll(rows.size()),
      logits(static_cast<std::size_t>(std::min(Forward::kMaxRows, std::ssize(rows)) *
                                      config_.vocab_size));
  run(rows, [&](std::int64_t first, std::int64_t count) {
    forward_->logits(0, count, logits.data());
    kernels::next_token_nll(logits.data(), targets.data() + first, count, config_.vocab_size,
                            nll.data() + first, team_.pool());
  });

  auto next = nll.begin();
  for (const Scoring& scoring : all) {
    next += scoring.rows();
    sums.push_back(-std::accumulate(next - scoring.text->scored, next, 0.0));
  }
}

}  // namespace fbi::infer
