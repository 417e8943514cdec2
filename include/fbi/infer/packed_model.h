#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "fbi/config/run_config.h"
#include "fbi/eval/language_model.h"
#include "fbi/kernels/decode.h"
#include "fbi/kernels/gemv.h"

/// The 1-bit runtime: a binarized LLaMA that runs from its sign bits, without LibTorch.
namespace fbi::infer {

enum class Device {
  kCpu,
  kCuda,  ///< the first GPU, in builds with FBI_CUDA=ON; exact activations
  kAuto,  ///< a GPU where there is one that runs the model so
};

struct PackedOptions {
  kernels::Activations activations = kernels::Activations::kExact;
  /// Of the head; by default as the file has it (BF16 as fp32).
  std::optional<kernels::Storage> head;
  /// Keeps an 8-bit copy of the head besides, which tells the tokens that cannot be drawn, so that
  /// greedy, top-k and min-p decoding read a few of its full rows instead of all: the same text,
  /// sooner. On the processor.
  bool head_screen = true;
  kernels::CacheType cache = kernels::CacheType::kFp32;
  int threads = 0;  ///< 0: all processors
  Device device = Device::kCpu;
};

/// Whether a folder holds a packed export. DataError where its tensors cannot be read at all.
bool is_packed_folder(const std::filesystem::path& directory);

/// A packed export, or a native one whose signs are taken at load. One call at a time, its
/// sessions' included. A token's logits do not depend, bit for bit, on the number of threads, on
/// how its sequence is cut into calls, or on what else is in the batch.
class PackedModel final : public eval::LanguageModel {
 public:
  /// Throws DataError: no such model, files that differ from its checksums.json, missing, unused or
  /// misshapen tensors, pad bits that are not 0, values that are not finite. UsageError: a device
  /// that is not there, lacks an option, or has too little memory.
  explicit PackedModel(const std::filesystem::path& directory, const PackedOptions& options = {});
  /// Random signs of a given architecture: as fast as a real model of that shape, and as large.
  explicit PackedModel(const config::ModelConfig& model, const PackedOptions& options = {});
  ~PackedModel() override;

  const config::ModelConfig& config() const;
  bool on_gpu() const;
  int threads() const;
  /// What one decoded token must read: signs as the kernels keep them, scales, norms, head (what
  /// feed_to_draw has read of it on average). The row of the embedding and the cache come on top.
  std::uint64_t bytes_per_token() const;
  /// Keys and values that a token reads of each position before it.
  std::uint64_t cache_bytes_per_position() const;
  /// Bytes per second at which its device, or its threads, read a buffer of that size.
  double read_bandwidth(std::uint64_t bytes);
  /// The signs among these, and at one bit each.
  std::uint64_t sign_bytes() const;
  std::uint64_t binarized_weights() const;

  // eval::LanguageModel
  std::int64_t vocab_size() const override;
  std::int64_t max_position() const override;
  std::string dtype_description() const override;
  void logits(std::span<const std::int32_t> tokens, std::int64_t batch, std::int64_t seq,
              std::span<float> out) override;
  void token_nll(std::span<const std::int32_t> tokens, std::int64_t batch, std::int64_t seq,
                 std::span<float> out) override;
  std::vector<double> log_likelihoods(std::span<const eval::ScoredText> texts) override;
  std::unique_ptr<eval::DecodingSession> start_decoding() override;

  /// The texts of one model that an Engine writes at the same time, for measuring: feeds each of up
  /// to 64 sessions, which start_decoding() gave, its next token. `logits` [sessions, V] as of
  /// DecodingSession::feed_to_draw.
  void feed_each(std::span<const std::unique_ptr<eval::DecodingSession>> sessions,
                 std::span<const std::int32_t> ids, const eval::Drawable& drawable,
                 std::span<float> logits);

 private:
  friend class Engine;
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fbi::infer
