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

/// Whether `text` begins with the first `count` ids of `other`, and is scored behind them only.
bool begins_like(const ScoredText& other, std::int64_t count, const ScoredText& text) {
  return first_prediction(text) >= count &&
         std::equal(other.ids.begin(), other.ids.begin() + count, text.ids.begin());
}

void check(const ScoredText& text) {
  if (text.scored < 1 || first_prediction(text) < 0)
    throw UsageError(concat("log_likelihoods: ", text.scored, " of ", text.ids.size(),
                            " ids are to be scored, at least one and fewer than all can be"));
}

/// One text on its way: its cache holds what it shares with the text `leader`, the first of several
/// that begin alike.
struct Scoring {
  const ScoredText* text;
  std::size_t leader;
  std::int64_t shared;
  std::unique_ptr<SequenceCache> cache;
};

void add_rows(std::vector<TokenRow>& rows, const Scoring& scoring, std::int64_t first,
              std::int64_t last) {
  for (std::int64_t position = first; position < last; ++position)
    rows.push_back({scoring.text->ids[position], position, scoring.cache.get()});
}

}  // namespace

/// A row's bits don't depend on the rows beside it: what texts share is computed once, and the rest
/// of all of them side by side.
std::vector<double> PackedModel::log_likelihoods(std::span<const ScoredText> texts) {
  std::vector<Scoring> all;
  std::vector<TokenRow> rows;
  for (const ScoredText& text : texts) {
    check(text);
    impl_->check_ids(text.ids);
    const std::int64_t last = std::ssize(text.ids) - 1;
    impl_->check_length(last);
    auto cache = impl_->forward().new_cache(last);
    cache->reserve(last);
    const bool follows =
        !all.empty() && begins_like(*all[all.back().leader].text, all.back().shared, text);
    const std::size_t leader = follows ? all.back().leader : all.size();
    const std::int64_t shared = follows ? all.back().shared : first_prediction(text);
    all.push_back({&text, leader, shared, std::move(cache)});
    if (!follows) add_rows(rows, all.back(), 0, shared);
  }
  impl_->run(rows, [](std::int64_t, std::int64_t) {});

  rows.clear();
  std::vector<std::int32_t> targets;
  for (const Scoring& scoring : all) {
    const auto& ids = scoring.text->ids;
    const SequenceCache& shared = *all[scoring.leader].cache;
    if (&shared != scoring.cache.get()) scoring.cache->copy(shared, scoring.shared);
    add_rows(rows, scoring, scoring.shared, std::ssize(ids) - 1);
    targets.insert(targets.end(), ids.begin() + scoring.shared + 1, ids.end());
  }
  std::vector<float> nll(rows.size()),
      logits(
          static_cast<std::size_t>(std::min(Forward::kMaxRows, std::ssize(rows)) * vocab_size()));
  impl_->run(rows, [&](std::int64_t first, std::int64_t count) {
    impl_->forward().logits(0, count, logits.data());
    kernels::next_token_nll(logits.data(), targets.data() + first, count, vocab_size(),
                            nll.data() + first, impl_->team().pool());
  });

  std::vector<double> sums;
  auto next = nll.begin();
  for (const Scoring& scoring : all) {
    const auto end = next + (std::ssize(scoring.text->ids) - 1 - scoring.shared);
    sums.push_back(-std::accumulate(end - scoring.text->scored, end, 0.0));
    next = end;
  }
  return sums;
}

}  // namespace fbi::infer
