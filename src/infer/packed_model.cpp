#include "fbi/infer/packed_model.h"

#include <algorithm>
#include <future>
#include <vector>

#include "fbi/config/load.h"
#include "fbi/config/model_size.h"
#include "fbi/core/error.h"
#include "fbi/formats/checksums.h"
#include "fbi/kernels/distill_loss.h"
#include "infer/packed_model_impl.h"

namespace fbi::infer {

namespace {

/// A template over Impl, which is private to PackedModel.
template <class Impl>
class Decoding final : public eval::DecodingSession {
 public:
  explicit Decoding(Impl& model)
      : model_(model), cache_(model.forward().new_cache(model.config().max_position_embeddings)) {}

  void feed(std::span<const std::int32_t> ids, std::span<float> logits) override {
    feed(ids, logits, [&](std::int64_t last) { model_.forward().logits(last, 1, logits.data()); });
  }
  void feed_to_draw(std::span<const std::int32_t> ids, const eval::Drawable& drawable,
                    std::span<float> logits) override {
    feed(ids, logits, [&](std::int64_t last) {
      model_.forward().logits_to_draw(last, {&drawable, 1}, logits.data());
    });
  }
  std::int64_t position() const override { return position_; }

  /// For a run together with others, after which it has advance()d.
  TokenRow next_row(std::int32_t id) {
    model_.check_length(position_ + 1);
    cache_->reserve(position_ + 1);
    return {id, position_, cache_.get()};
  }
  void advance() { ++position_; }

 private:
  /// then(row of the last one's hidden state)
  template <class Then>
  void feed(std::span<const std::int32_t> ids, std::span<float> logits, const Then& then) {
    if (ids.empty()) throw UsageError("decoding: no token to feed");
    const std::int64_t vocab = model_.config().vocab_size;
    if (std::ssize(logits) != vocab) {
      throw UsageError(
          concat("decoding: expected room for ", vocab, " logits, found ", logits.size()));
    }
    model_.feed(ids, position_, *cache_, [&](std::int64_t first, std::int64_t count) {
      if (first + count == std::ssize(ids)) then(count - 1);
    });
    position_ += std::ssize(ids);
  }

  Impl& model_;
  std::unique_ptr<SequenceCache> cache_;
  std::int64_t position_ = 0;
};

}  // namespace

PackedModel::PackedModel(const std::filesystem::path& directory, const PackedOptions& options) {
  // Beside the weights' way into the kernels' layout, which takes longer.
  auto checked =
      std::async(std::launch::async, [&directory] { formats::Checksums(directory).check_model(); });
  try {
    impl_ = std::make_unique<Impl>(
        options, [&](ParallelFor& parallel) { return file_parts(directory, parallel); });
  } catch (const DataError&) {
    checked.get();  // an altered file is the better explanation
    throw;
  }
  checked.get();
}

PackedModel::PackedModel(const config::ModelConfig& model, const PackedOptions& options)
    : impl_(std::make_unique<Impl>(options, [&](ParallelFor&) {
        config::ModelConfig resolved = model;
        config::resolve(resolved);
        if (resolved.binarize == config::Binarize::kNone) {
          throw UsageError("a packed model needs binarize column, row or single, found none");
        }
        return random_parts(resolved);
      })) {}

PackedModel::~PackedModel() = default;

const config::ModelConfig& PackedModel::config() const {
  return impl_->config();
}
bool PackedModel::on_gpu() const {
  return !impl_->forward().facts().device.empty();
}
int PackedModel::threads() const {
  return impl_->team().size();
}

std::uint64_t PackedModel::sign_bytes() const {
  return impl_->forward().facts().sign_bytes;
}

double PackedModel::read_bandwidth(std::uint64_t bytes) {
  return impl_->forward().read_bandwidth(bytes);
}

std::uint64_t PackedModel::bytes_per_token() const {
  const config::ModelConfig& model = config();
  const auto size = config::parameter_counts(model);
  const std::int64_t norms = (2 * model.num_hidden_layers + 1) * model.hidden_size;
  return sign_bytes() + static_cast<std::uint64_t>(size.scales + norms) * sizeof(float) +
         static_cast<std::uint64_t>(impl_->forward().head_bytes_to_draw());
}

std::uint64_t PackedModel::cache_bytes_per_position() const {
  const std::int64_t values = config().num_hidden_layers * config().num_key_value_heads *
                              kernels::padded_head(config().head_dim);
  return static_cast<std::uint64_t>(2 * values * kernels::size_of(impl_->options().cache));
}

std::uint64_t PackedModel::binarized_weights() const {
  return static_cast<std::uint64_t>(config::parameter_counts(config()).binarized);
}

std::int64_t PackedModel::vocab_size() const {
  return config().vocab_size;
}
std::int64_t PackedModel::max_position() const {
  return config().max_position_embeddings;
}

std::string PackedModel::dtype_description() const {
  const PackedOptions& options = impl_->options();
  const Forward::Facts& facts = impl_->forward().facts();
  return concat(
      "1-bit weights, ",
      options.activations == kernels::Activations::kExact ? "fp32 activations" : "int8 activations",
      facts.head == kernels::Storage::kFp32   ? ", fp32 head"
      : facts.head == kernels::Storage::kFp16 ? ", fp16 head"
                                              : ", int8 head",
      options.cache == kernels::CacheType::kFp16 ? ", fp16 cache" : "",
      facts.device.empty() ? "" : ", on " + facts.device);
}

void PackedModel::logits(std::span<const std::int32_t> tokens, std::int64_t batch, std::int64_t seq,
                         std::span<float> out) {
  const std::int64_t vocab = vocab_size();
  if (std::ssize(tokens) != batch * seq || std::ssize(out) != batch * seq * vocab) {
    throw UsageError(concat("logits: expected ", batch, " x ", seq, " tokens, found ",
                            tokens.size(), ", and room for ", batch * seq * vocab,
                            " logits, found ", out.size()));
  }
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto cache = impl_->forward().new_cache(seq);
    impl_->feed(tokens.subspan(static_cast<std::size_t>(b * seq), static_cast<std::size_t>(seq)), 0,
                *cache, [&](std::int64_t first, std::int64_t count) {
                  impl_->forward().logits(0, count, out.data() + (b * seq + first) * vocab);
                });
  }
}

void PackedModel::token_nll(std::span<const std::int32_t> tokens, std::int64_t batch,
                            std::int64_t seq, std::span<float> out) {
  if (std::ssize(tokens) != batch * seq || std::ssize(out) != batch * (seq - 1)) {
    throw UsageError(concat("token_nll: expected ", batch, " x ", seq, " tokens, found ",
                            tokens.size(), ", and room for ", batch * (seq - 1), ", found ",
                            out.size()));
  }
  impl_->check_ids(tokens);  // the last token of a row is a target only
  const std::int64_t vocab = vocab_size();
  std::vector<float> logits(static_cast<std::size_t>(Forward::kMaxRows * vocab));
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int32_t* row = tokens.data() + b * seq;
    const auto cache = impl_->forward().new_cache(seq);
    impl_->feed({row, static_cast<std::size_t>(seq - 1)}, 0, *cache,
                [&](std::int64_t first, std::int64_t count) {
                  impl_->forward().logits(0, count, logits.data());
                  kernels::next_token_nll(logits.data(), row + first + 1, count, vocab,
                                          out.data() + b * (seq - 1) + first, impl_->team().pool());
                });
  }
}

std::unique_ptr<eval::DecodingSession> PackedModel::start_decoding() {
  return std::make_unique<Decoding<Impl>>(*impl_);
}

void PackedModel::feed_each(std::span<const std::unique_ptr<eval::DecodingSession>> sessions,
                            std::span<const std::int32_t> ids, const eval::Drawable& drawable,
                            std::span<float> logits) {
  const auto count = std::ssize(sessions);
  if (count < 1 || count > Forward::kMaxRows || std::ssize(ids) != count ||
      std::ssize(logits) != count * vocab_size())
    throw UsageError(concat(
        "feed_each: expected 1 to ", Forward::kMaxRows, " sessions with a token and room for ",
        vocab_size(), " logits each, found ", count, ", ", ids.size(), " and ", logits.size()));
  impl_->check_ids(ids);
  std::vector<TokenRow> rows;
  for (std::size_t n = 0; n < sessions.size(); ++n)
    rows.push_back(static_cast<Decoding<Impl>&>(*sessions[n]).next_row(ids[n]));
  impl_->forward().run(rows);
  impl_->forward().logits_to_draw(0, std::vector(sessions.size(), drawable), logits.data());
  for (const auto& session : sessions) static_cast<Decoding<Impl>&>(*session).advance();
}

}  // namespace fbi::infer
