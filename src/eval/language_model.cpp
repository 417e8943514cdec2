#include "fbi/eval/language_model.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace fbi::eval {

/// Padding stands behind the ids, where none that counts can see it.
std::vector<double> LanguageModel::log_likelihoods(std::span<const ScoredText> texts) {
  std::size_t length = 0;
  for (const ScoredText& text : texts) length = std::max(length, text.ids.size());
  std::vector<std::int32_t> tokens(texts.size() * length, 0);
  for (std::size_t t = 0; t < texts.size(); ++t)
    std::ranges::copy(texts[t].ids, tokens.begin() + static_cast<std::ptrdiff_t>(t * length));
  std::vector<float> nll(texts.size() * (length - 1));
  token_nll(tokens, std::ssize(texts), static_cast<std::int64_t>(length), nll);
  std::vector<double> sums;
  for (std::size_t t = 0; t < texts.size(); ++t) {
    const auto end =
        nll.begin() + static_cast<std::ptrdiff_t>(t * (length - 1) + texts[t].ids.size() - 1);
    sums.push_back(-std::accumulate(end - texts[t].scored, end, 0.0));
  }
  return sums;
}

}  // namespace fbi::eval
