#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <utility>

#include "fbi/core/error.h"
#include "infer/gpu_forward.h"
#include "infer/gpu_weights.h"
#include "infer/rotary.h"

namespace fbi::infer::gpu {
namespace {

namespace cuda = kernels::cuda;

/// Keys and values of one sequence, [position] of what cuda::DecodeRow describes, so that growing
/// is one copy.
class DeviceCache final : public SequenceCache {
 public:
  DeviceCache(std::int64_t position_bytes, std::int64_t most, const cuda::Queue& queue)
      : position_bytes_(position_bytes), most_(most), queue_(queue) {}
  ~DeviceCache() override {
    // No step uses it, and a wait would spoil the graph that another thread may be recording.
    if (capacity_ == 0) return;
    try {
      queue_.wait();  // a step may still use it
    } catch (const cuda::CudaError&) {
      // whoever uses the queue next hears of it
    }
  }

  void reserve(std::int64_t positions) override {
    if (positions <= capacity_) return;
    constexpr std::int64_t kFirst = 128;
    const std::int64_t doubled = std::max({kFirst, positions, 2 * capacity_});
    const std::int64_t capacity = std::max(positions, std::min(doubled, most_));
    cuda::DeviceMemory grown(static_cast<std::size_t>(capacity * position_bytes_),
                             concat("the key-value cache of a text of ", positions, " tokens"));
    cuda::copy_on_device(grown.data(), memory_.data(), memory_.size(), queue_.stream());
    queue_.wait();
    memory_ = std::move(grown);
    capacity_ = capacity;
  }
  void copy(const SequenceCache& other, std::int64_t positions) override {
    cuda::copy_on_device(memory_.data(), static_cast<const DeviceCache&>(other).data(),
                         static_cast<std::size_t>(positions * position_bytes_), queue_.stream());
  }
  std::uint64_t bytes() const override { return memory_.size(); }
  std::uint64_t position_bytes() const override {
    return static_cast<std::uint64_t>(position_bytes_);
  }
  std::unique_ptr<SequenceCache> trimmed(std::int64_t positions) const override {
    auto part = std::make_unique<DeviceCache>(position_bytes_, positions, queue_);
    part->reserve(positions);
    part->copy(*this, positions);
    return part;
  }
  std::byte* data() const { return memory_.data(); }

 private:
  std::int64_t position_bytes_, most_;
  const cuda::Queue& queue_;
  std::int64_t capacity_ = 0;
  cuda::DeviceMemory memory_;
};

/// A vector of kMaxRows tokens between two launches, for up to three products.
struct Passed {
  std::array<float*, cuda::Readers::kMost> scaled = {}, sums = {};
  float* squares = nullptr;
  std::int64_t width = 0, parts = 0;

  Passed() = default;
  Passed(Places& places, int products, std::int64_t width_, std::int64_t parts_)
      : width(width_), parts(parts_) {
    for (int n = 0; n < products; ++n) {
      scaled[n] = places.take<float>(Forward::kMaxRows * width);
      sums[n] = places.take<float>(Forward::kMaxRows * parts);
    }
    squares = places.take<float>(Forward::kMaxRows * parts);
  }

  /// For those products that read it next; null: one without scales.
  cuda::Readers to(std::initializer_list<const cuda::RepackedMatrix*> products,
                   const float* norm) const {
    cuda::Readers readers;
    readers.width = width;
    readers.parts = parts;
    readers.norm = norm;
    readers.squares = squares;
    for (const cuda::RepackedMatrix* w : products) {
      const bool columns = w && w->strides.column != 0;
      const int n = readers.count++;
      readers.reader[n] = {columns ? w->alpha : nullptr, columns ? w->beta : nullptr, scaled[n],
                           sums[n]};
    }
    return readers;
  }
};

/// What the host sends for some tokens, in one piece.
struct StepInput {
  cuda::DecodeRow* rows;
  float* angles;  // [tokens, head_dim]

  StepInput(std::byte* base, std::int64_t tokens)
      : rows(reinterpret_cast<cuda::DecodeRow*>(base)),
        angles(reinterpret_cast<float*>(rows + tokens)) {}
  static std::size_t bytes(std::int64_t head_dim, std::int64_t tokens) {
    return static_cast<std::size_t>(tokens) *
           (sizeof(cuda::DecodeRow) + static_cast<std::size_t>(head_dim) * sizeof(float));
  }
};

/// A step is one graph, recorded the second time that so many rows are run together (the first time
/// loads the kernels). Ids, positions, caches and angles are its input.
///
/// A prompt passes in steps of kMaxRows through the same kernels, which keeps every token's bits
/// and costs each the arithmetic of a decoded token, without its waiting for memory and launches:
/// of the 7B shape 0.34 ms by gemv.cu's bound, or 3,000 tokens/s.
class GpuForward final : public Forward {
 public:
  GpuForward(const ModelParts& parts, const PackedOptions& options, ParallelFor& parallel);

  std::unique_ptr<SequenceCache> new_cache(std::int64_t most) override {
    return std::make_unique<DeviceCache>(shape_.position_bytes(), most, queue_);
  }
  void run(std::span<const TokenRow> rows) override;
  void logits(std::int64_t first, std::int64_t count, float* out) override;
  double read_bandwidth(std::uint64_t bytes) override;

 private:
  void place_scratch(Places& places);
  void send(std::span<const TokenRow> rows);
  void enqueue(std::int64_t tokens);
  void layer(std::int64_t index, const StepInput& input, std::int64_t tokens);
  cuda::Readers readers_of(std::int64_t layer) const;
  cuda::ProductInput from(const Passed& passed, int product, bool normed) const;

  config::ModelConfig model_;
  cuda::Queue queue_;
  Weights weights_;
  Rotary rotary_;
  cuda::AttentionShape shape_;

  std::byte* input_ = nullptr;
  float* residual_ = nullptr;
  Passed hidden_, mixed_, inner_;
  float *queries_ = nullptr, *workspace_ = nullptr, *logits_ = nullptr;
  unsigned* counters_ = nullptr;
  cuda::DeviceMemory scratch_;
  cuda::PinnedMemory host_input_, host_logits_;
  std::array<cuda::Graph, kMaxRows> graphs_;  // by rows - 1
  std::array<bool, kMaxRows> seen_ = {};
};

GpuForward::GpuForward(const ModelParts& parts, const PackedOptions& options, ParallelFor& parallel)
    : model_(parts.config()), weights_(parts, options.head, parallel, queue_), rotary_(model_) {
  shape_.heads = model_.num_attention_heads;
  shape_.key_value_heads = model_.num_key_value_heads;
  shape_.head_dim = model_.head_dim;
  shape_.layers = model_.num_hidden_layers;
  shape_.cache = options.cache;
  shape_.most_positions = model_.max_position_embeddings;
  scratch_ = placed("a step of the model", [this](Places& places) { place_scratch(places); });
  host_input_ = cuda::PinnedMemory(StepInput::bytes(model_.head_dim, kMaxRows));
  host_logits_ =
      cuda::PinnedMemory(static_cast<std::size_t>(kMaxRows * model_.vocab_size) * sizeof(float));
  facts_ = {concat("cuda (", cuda::device_name(), ")"), weights_.sign_bytes(),
            weights_.head_bytes(), weights_.head().storage};
}

void GpuForward::place_scratch(Places& places) {
  const std::int64_t heads = shape_.heads, head_dim = shape_.head_dim, queries = heads * head_dim;
  const auto plain = [&](int products, std::int64_t width) {
    return Passed(places, products, width, cuda::reader_parts(1, width));
  };
  input_ = places.take<std::byte>(
      static_cast<std::int64_t>(StepInput::bytes(model_.head_dim, kMaxRows)));
  residual_ = places.take<float>(kMaxRows * model_.hidden_size);
  hidden_ = plain(3, model_.hidden_size);
  mixed_ = Passed(places, 1, queries, cuda::reader_parts(heads, head_dim));
  inner_ = plain(1, model_.intermediate_size);
  queries_ = places.take<float>(kMaxRows * queries);
  workspace_ = places.take<float>(cuda::attend_workspace(shape_, kMaxRows));
  counters_ = places.take<unsigned>(cuda::attend_counters(shape_, kMaxRows));
  logits_ = places.take<float>(kMaxRows * model_.vocab_size);
}

void GpuForward::run(std::span<const TokenRow> rows) {
  const auto count = std::ssize(rows);
  const auto n = static_cast<std::size_t>(count - 1);
  queue_.wait();  // the step before has read its input
  send(rows);
  if (!graphs_[n] && seen_[n]) graphs_[n] = cuda::Graph(queue_, [&] { enqueue(count); });
  if (graphs_[n]) return graphs_[n].launch(queue_);
  enqueue(count);
  seen_[n] = true;
}

/// Into pinned memory, from where the step copies it.
void GpuForward::send(std::span<const TokenRow> rows) {
  const StepInput input(host_input_.data(), std::ssize(rows));
  for (std::size_t t = 0; t < rows.size(); ++t) {
    std::byte* cache = static_cast<DeviceCache&>(*rows[t].cache).data();
    input.rows[t] = {rows[t].position, cache, rows[t].id};
    rotary_.angles(rows[t].position, input.angles + static_cast<std::int64_t>(t) * model_.head_dim);
  }
}

void GpuForward::enqueue(std::int64_t tokens) {
  cuda::copy_to_device(input_, host_input_, StepInput::bytes(model_.head_dim, tokens),
                       queue_.stream());
  const StepInput input(input_, tokens);
  cuda::embed(weights_.embedding(), input.rows, tokens, residual_, readers_of(0), queue_.stream());
  for (std::int64_t index = 0; index < shape_.layers; ++index) layer(index, input, tokens);
}

void GpuForward::layer(std::int64_t index, const StepInput& input, std::int64_t tokens) {
  const LayerMatrices& w = weights_.layers()[static_cast<std::size_t>(index)];
  const cuda::Stream stream = queue_.stream();
  cuda::AttentionShape shape = shape_;
  shape.layer = index;
  cuda::project({w.q, w.k, w.v, from(hidden_, 0, true), from(hidden_, 1, true),
                 from(hidden_, 2, true), shape, tokens, input.rows, input.angles, queries_},
                stream);
  cuda::attend({shape, tokens, input.rows, queries_, workspace_, counters_},
               mixed_.to({&w.o}, nullptr), stream);
  cuda::multiply_add(w.o, from(mixed_, 0, false), tokens, residual_,
                     hidden_.to({&w.gate, &w.up}, w.post_attention_norm), stream);
  cuda::gate(w.gate, from(hidden_, 0, true), w.up, from(hidden_, 1, true), tokens,
             inner_.to({&w.down}, nullptr), stream);
  cuda::multiply_add(w.down, from(inner_, 0, false), tokens, residual_, readers_of(index + 1),
                     stream);
}

/// Who reads the hidden states before a layer, the last of which is the head.
cuda::Readers GpuForward::readers_of(std::int64_t layer) const {
  if (layer == shape_.layers) return hidden_.to({nullptr}, weights_.final_norm());
  const LayerMatrices& w = weights_.layers()[static_cast<std::size_t>(layer)];
  return hidden_.to({&w.q, &w.k, &w.v}, w.input_norm);
}

cuda::ProductInput GpuForward::from(const Passed& passed, int product, bool normed) const {
  return {passed.scaled[product], passed.sums[product], normed ? passed.squares : nullptr,
          passed.parts, static_cast<float>(model_.rms_norm_eps)};
}

void GpuForward::logits(std::int64_t first, std::int64_t count, float* out) {
  cuda::ProductInput input = from(hidden_, 0, true);
  input.scaled += first * hidden_.width;
  input.sums += first * hidden_.parts;
  input.squares += first * hidden_.parts;
  const auto bytes = static_cast<std::size_t>(count * model_.vocab_size) * sizeof(float);
  cuda::multiply_dense(weights_.head(), input, count, logits_, queue_.stream());
  cuda::copy_to_host(host_logits_, logits_, bytes, queue_.stream());
  queue_.wait();
  std::memcpy(out, host_logits_.data(), bytes);
}

double GpuForward::read_bandwidth(std::uint64_t bytes) {
  constexpr int kPasses = 5, kReads = 10;  // so many at once that their start does not count
  const std::uint64_t whole = std::max<std::uint64_t>(bytes, 1 << 20) / 16 * 16;
  const cuda::DeviceMemory memory(whole, "measuring the bandwidth"), sink(16, "it");
  double best = 0;
  for (int pass = 0; pass <= kPasses; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
    for (int k = 0; k < kReads; ++k) {
      cuda::read_all(memory.data(), static_cast<std::int64_t>(whole),
                     reinterpret_cast<unsigned*>(sink.data()), queue_.stream());
    }
    queue_.wait();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    if (pass > 0) best = std::max(best, kReads * static_cast<double>(whole) / seconds.count());
  }
  return best;
}

}  // namespace

std::string why_not(const config::ModelConfig& model, const PackedOptions& options) {
  const std::string missing = cuda::why_no_device();
  if (!missing.empty()) return "no GPU is found (" + missing + ")";
  if (options.activations != kernels::Activations::kExact) {
    return "activations int8 are for the processor";
  }
  if (model.head_dim > cuda::kMaxHeadDim) {
    return concat("its kernels take heads of up to ", cuda::kMaxHeadDim,
                  " values, and the model's head_dim is ", model.head_dim);
  }
  return {};
}

std::unique_ptr<Forward> make_forward(std::unique_ptr<ModelParts> parts,
                                      const PackedOptions& options, ParallelFor& parallel) {
  return std::make_unique<GpuForward>(*parts, options, parallel);
}

}  // namespace fbi::infer::gpu
