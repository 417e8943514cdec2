#include "infer/prefix_cache.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace fbi::infer {

namespace {

/// Whether `whole` serves every prompt that `part` serves.
bool holds(const Prefix& whole, const Prefix& part) {
  return std::ranges::mismatch(whole.ids, part.ids).in2 == part.ids.end() &&
         (!part.score_best || part.score_best == whole.score_best);
}

}  // namespace

void PrefixCache::keep(Sequence& ended) {
  Prefix prefix = ended.prefix();
  const auto room = static_cast<std::int64_t>(limit_ / ended.cache->position_bytes());
  const std::int64_t count = std::min(ended.fed, room);
  const auto fed = static_cast<std::size_t>(count);
  prefix.ids = prefix.ids.first(fed);
  prefix.scores = prefix.scores.first(std::min(fed, prefix.scores.size()));
  if (count < Sequence::kLeastPrefix) return;
  const auto same = std::ranges::find_if(
      kept_, [&prefix](const Kept& kept) { return holds(kept.prefix, prefix); });
  if (same != kept_.end()) return kept_.splice(kept_.begin(), kept_, same);

  // All that may fail comes before anything is taken. Others do not go for room that it reserves.
  std::unique_ptr<SequenceCache> part;
  const std::uint64_t used = static_cast<std::uint64_t>(count) * ended.cache->position_bytes();
  if (bytes_ + ended.cache->bytes() > limit_ && ended.cache->bytes() > used)
    part = ended.cache->trimmed(count);
  std::list<Kept> added(1);
  Kept& kept = added.front();
  kept.ids.assign(prefix.ids.begin(), prefix.ids.end());
  kept.scores.assign(prefix.scores.begin(), prefix.scores.end());
  for (auto other = kept_.begin(); other != kept_.end();) {
    const auto next = std::next(other);
    if (holds(prefix, other->prefix)) drop(other);
    other = next;
  }
  kept.cache = part ? std::move(part) : std::move(ended.cache);
  kept.prefix = {kept.ids, kept.cache.get(), prefix.score_best, kept.scores};
  bytes_ += kept.cache->bytes();
  while (bytes_ > limit_) drop(std::prev(kept_.end()));
  kept_.splice(kept_.begin(), added);
}

PrefixCache::Found PrefixCache::find(const Sequence& sequence) {
  auto best = kept_.end();
  std::int64_t most = 0;
  for (auto kept = kept_.begin(); kept != kept_.end(); ++kept) {
    const std::int64_t shared = sequence.shared_with(kept->prefix);
    if (shared > most) {
      most = shared;
      best = kept;
    }
  }
  if (best == kept_.end()) return {};
  kept_.splice(kept_.begin(), kept_, best);
  return {&best->prefix, most};
}

bool PrefixCache::give_up() {
  if (kept_.empty()) return false;
  drop(std::prev(kept_.end()));
  return true;
}

void PrefixCache::drop(std::list<Kept>::iterator kept) {
  bytes_ -= kept->cache->bytes();
  kept_.erase(kept);
}

}  // namespace fbi::infer
