// The CUDA kernels on one matrix of the 7B model and 2,048 tokens: memory traffic per second, and
// its share of what a copy on the device reaches in the same run. Builds with FBI_CUDA=ON; ends
// with the reason where there is no GPU.
#include <benchmark/benchmark.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "fbi/kernels/cuda.h"
#include "fbi/kernels/cuda_decode.h"

namespace fbi::kernels::cuda {
namespace {

constexpr MatrixShape kShape = {11008, 4096};
constexpr std::int64_t kElements = kShape.rows * kShape.columns;
constexpr std::int64_t kBitBytes = kShape.rows * row_bytes(kShape.columns);
constexpr std::int64_t kTokens = 2048, kVocab = 32000, kWidth = 4096, kHeads = 32, kHead = 128;
constexpr auto kColumns = ScaleStrides::per_column();
constexpr AdamWStep kStep = {.lr = 1e-6, .weight_decay = 0.1, .bias_correction1 = 0.5};

void must(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

/// Device memory filled with 0x3B, as numbers about 0.003 in fp32 and bf16.
class Memory {
 public:
  explicit Memory(std::int64_t bytes, int fill = 0x3B) {
    must(cudaMalloc(&data_, static_cast<std::size_t>(bytes)));
    must(cudaMemset(data_, fill, static_cast<std::size_t>(bytes)));
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { cudaFree(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  float* floats() const { return as<float>(); }

 private:
  void* data_ = nullptr;
};

/// Seconds of one call, by events around it.
class Timer {
 public:
  Timer() {
    must(cudaEventCreate(&begin_));
    must(cudaEventCreate(&end_));
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  /// What a call reads comes from memory, not from the second-level cache, and its launches wait in
  /// the queue already when the time begins: another write is before them.
  double seconds(const std::function<void()>& call) {
    must(cudaMemsetAsync(between_.as<void>(), 0, kBetweenBytes, nullptr));
    must(cudaEventRecord(begin_));
    call();
    must(cudaEventRecord(end_));
    must(cudaEventSynchronize(end_));
    float ms = 0;
    must(cudaEventElapsedTime(&ms, begin_, end_));
    return ms * 1e-3;
  }

 private:
  static constexpr std::int64_t kBetweenBytes = std::int64_t{1} << 29;

  const Memory between_{kBetweenBytes};
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

/// Bytes read and written per second by copying 1 GiB on the device; the best of ten.
double copy_bandwidth() {
  static const double measured = [] {
    constexpr std::int64_t kBytes = std::int64_t{1} << 30;
    const Memory from(kBytes), to(kBytes);
    Timer timer;
    double best = 0;
    for (int k = 0; k < 10; ++k) {
      const double seconds = timer.seconds([&] {
        must(cudaMemcpyAsync(to.as<void>(), from.as<void>(), kBytes, cudaMemcpyDeviceToDevice,
                             nullptr));
      });
      best = std::max(best, 2.0 * kBytes / seconds);
    }
    return best;
  }();
  return measured;
}

/// bytes: the least possible memory traffic of one call.
void measure(benchmark::State& state, std::int64_t bytes, const std::function<void()>& call) {
  using benchmark::Counter;
  const double copy = copy_bandwidth();
  Timer timer;
  for (int k = 0; k < 3; ++k) timer.seconds(call);
  for (auto _ : state) state.SetIterationTime(timer.seconds(call));
  const double all = static_cast<double>(bytes) * static_cast<double>(state.iterations());
  state.counters["GB/s"] = Counter(all / 1e9, Counter::kIsRate);
  state.counters["of_copy"] = Counter(all / copy, Counter::kIsRate);
}

void pack(benchmark::State& state) {
  const Memory latent(4 * kElements), bits(kBitBytes);
  measure(state, 4 * kElements + kBitBytes,
          [&] { pack_signs(latent.floats(), kShape, bits.as<std::uint8_t>(), nullptr); });
}

void effective(benchmark::State& state, Element type) {
  const std::int64_t size = type == Element::kFp32 ? 4 : 2;
  const Memory bits(kBitBytes), alpha(4 * kShape.columns), beta(4 * kShape.columns),
      out(size * kElements);
  measure(state, size * kElements + kBitBytes, [&] {
    effective_weight(bits.as<std::uint8_t>(), alpha.floats(), beta.floats(), kColumns, kShape, type,
                     out.as<void>(), nullptr);
  });
}

void gradients(benchmark::State& state, ScaleStrides strides) {
  const Memory raw_grad(4 * kElements), bits(kBitBytes), alpha(4 * kShape.rows),
      dalpha(4 * kShape.rows), dbeta(4 * kShape.rows), squares(8),
      workspace(8 * scale_gradients_workspace(strides, kShape));
  measure(state, 4 * kElements + kBitBytes, [&] {
    scale_gradients(raw_grad.floats(), bits.as<std::uint8_t>(), alpha.floats(), strides, kShape,
                    dalpha.floats(), dbeta.floats(), squares.as<double>(), workspace.as<double>(),
                    nullptr);
  });
}

void norm(benchmark::State& state) {
  const Memory x(4 * kElements), out(8), workspace(8 * sum_of_squares_workspace(kElements));
  measure(state, 4 * kElements, [&] {
    sum_of_squares(x.floats(), kElements, out.as<double>(), workspace.as<double>(), nullptr);
  });
}

void dense_update(benchmark::State& state) {
  const Memory value(4 * kElements), moment1(4 * kElements), moment2(4 * kElements),
      grad(4 * kElements);
  measure(state, 28 * kElements, [&] {
    adamw(value.floats(), moment1.floats(), moment2.floats(), grad.floats(), kElements, kStep,
          nullptr);
  });
}

void latent_update(benchmark::State& state) {
  const Memory latent(4 * kElements), moment1(4 * kElements), moment2(4 * kElements),
      grad(4 * kElements), alpha(4 * kShape.columns), bits(kBitBytes), flips(8, 0);
  measure(state, 28 * kElements + kBitBytes, [&] {
    adamw_latent(latent.floats(), moment1.floats(), moment2.floats(), grad.floats(), alpha.floats(),
                 kColumns, kShape, bits.as<std::uint8_t>(), kStep, flips.as<std::int64_t>(),
                 nullptr);
  });
}

/// The gradient replaces the logits and is then taken as logits: values differ, work does not.
void loss(benchmark::State& state, Element type, double next_token, double distill,
          double temperature) {
  const std::int64_t size = type == Element::kFp32 ? 4 : 2, row = kTokens * kVocab;
  const Memory logits(size * row), teacher(size * row), targets(4 * kTokens, 0), next(4 * kTokens),
      soft(4 * kTokens);
  DistillLossArgs args;
  args.logits = logits.as<void>();
  args.teacher_logits = distill != 0 ? teacher.as<void>() : nullptr;
  args.type = type;
  args.targets = targets.as<std::int32_t>();
  args.tokens = kTokens;
  args.vocab_size = kVocab;
  args.next_token = next_token;
  args.distill = distill;
  args.temperature = temperature;
  args.loss_next = next.floats();
  args.loss_distill = soft.floats();
  measure(state, (distill != 0 ? 3 : 2) * size * row, [&] { distill_loss(args, nullptr); });
}

void nll(benchmark::State& state) {
  const Memory logits(2 * kTokens * kVocab), targets(4 * kTokens, 0), out(4 * kTokens);
  measure(state, 2 * kTokens * kVocab, [&] {
    next_token_nll(logits.as<void>(), Element::kBf16, targets.as<std::int32_t>(), kTokens, kVocab,
                   out.floats(), nullptr);
  });
}

RmsNormArgs norm_args(const Memory& x, const Memory& weight) {
  RmsNormArgs args;
  args.x = x.as<void>();
  args.weight = weight.floats();
  args.tokens = kTokens;
  args.width = kWidth;
  return args;
}

void norm_forward(benchmark::State& state) {
  const Memory x(4 * kTokens * kWidth), weight(4 * kWidth), out(2 * kTokens * kWidth),
      inverse_rms(4 * kTokens);
  measure(state, 6 * kTokens * kWidth, [&] {
    rms_norm(norm_args(x, weight), 1e-5, out.as<void>(), Element::kBf16, inverse_rms.floats(),
             nullptr);
  });
}

void norm_backward(benchmark::State& state) {
  const Memory x(4 * kTokens * kWidth), weight(4 * kWidth), dout(2 * kTokens * kWidth),
      dx(4 * kTokens * kWidth), inverse_rms(4 * kTokens), dweight(4 * kWidth),
      workspace(4 * rms_norm_backward_workspace(kTokens, kWidth));
  measure(state, 10 * kTokens * kWidth, [&] {
    rms_norm_backward(norm_args(x, weight), inverse_rms.floats(), dout.as<void>(), Element::kBf16,
                      dx.as<void>(), dweight.floats(), workspace.floats(), nullptr);
  });
}

void signs_e4m3(benchmark::State& state) {
  const Memory bits(kBitBytes), out(kElements);
  measure(state, kElements + kBitBytes, [&] {
    unpack_signs_e4m3(bits.as<std::uint8_t>(), kShape, out.as<std::uint8_t>(), nullptr);
  });
}

void quantize(benchmark::State& state, bool for_signs) {
  const Memory x(2 * kTokens * kWidth), values(kTokens * kWidth), scales(4 * kTokens),
      alpha(4 * kWidth), beta(4 * kWidth), sums(4 * kTokens);
  const ColumnScales columns =
      for_signs ? ColumnScales{alpha.floats(), beta.floats(), sums.floats()} : ColumnScales{};
  measure(state, 3 * kTokens * kWidth, [&] {
    quantize_rows(x.as<void>(), Element::kBf16, kTokens, kWidth, columns, values.as<std::uint8_t>(),
                  scales.floats(), nullptr);
  });
}

/// Every token has an id of its own: each row of the gradient is read and written once.
void embedding_gradient(benchmark::State& state) {
  std::vector<std::int64_t> numbers(kTokens);
  std::iota(numbers.begin(), numbers.end(), 0);
  const Memory ids(8 * kTokens), dx(2 * kTokens * kWidth), grad(4 * kVocab * kWidth, 0);
  must(cudaMemcpy(ids.as<void>(), numbers.data(), 8 * kTokens, cudaMemcpyHostToDevice));
  EmbeddingGradientArgs args;
  args.ids = args.order = ids.as<std::int64_t>();
  args.dx = dx.as<void>();
  args.type = Element::kBf16;
  args.tokens = kTokens;
  args.rows = kVocab;
  args.width = kWidth;
  args.grad = grad.floats();
  measure(state, 10 * kTokens * kWidth, [&] { accumulate_embedding_gradient(args, nullptr); });
}

void rotate(benchmark::State& state) {
  const Memory x(2 * kTokens * kWidth), out(2 * kTokens * kWidth), cos(kTokens * kHead),
      sin(kTokens * kHead);
  RotaryArgs args;
  args.x = x.as<void>();
  args.out = out.as<void>();
  args.type = Element::kBf16;
  args.x_strides = {kTokens * kWidth, kHead, kWidth};
  args.out_strides = {kTokens * kWidth, kTokens * kHead, kHead};
  args.batch = 1;
  args.heads = kHeads;
  args.positions = kTokens;
  args.head_dim = kHead;
  args.cos = cos.as<void>();
  args.sin = sin.as<void>();
  measure(state, 4 * kTokens * kWidth, [&] { rotary(args, nullptr); });
}

void silu(benchmark::State& state, bool backward) {
  constexpr std::int64_t kCount = kTokens * kShape.rows;
  const Memory gate(2 * kCount), up(2 * kCount), dout(2 * kCount), dgate(2 * kCount),
      dup(2 * kCount);
  measure(state, (backward ? 10 : 6) * kCount, [&] {
    if (backward) {
      silu_product_backward(dout.as<void>(), gate.as<void>(), up.as<void>(), Element::kBf16, kCount,
                            dgate.as<void>(), dup.as<void>(), nullptr);
    } else {
      silu_product(gate.as<void>(), up.as<void>(), Element::kBf16, kCount, dgate.as<void>(),
                   nullptr);
    }
  });
}

/// One token. A matrix fits into the L2 cache, where it stays from call to call, unless others come
/// in between: so eight of them take turns.
void product(benchmark::State& state, bool gated) {
  constexpr int kMatrices = 8;
  const std::int64_t bytes = repacked_bytes(kShape), parts = reader_parts(1, kShape.columns);
  const Memory words(kMatrices * bytes), x(4 * kShape.columns), sums(4 * parts), y(4 * kShape.rows),
      scaled(4 * kShape.rows), out_sums(4 * reader_parts(1, kShape.rows));
  const ProductInput input = {x.floats(), sums.floats(), sums.floats(), parts, 1e-5f};
  Readers readers;
  readers.reader[0] = {nullptr, nullptr, scaled.floats(), out_sums.floats()};
  readers.count = 1;
  readers.width = kShape.rows;
  readers.parts = reader_parts(1, kShape.rows);
  int turn = 0;
  const auto next = [&] {
    return RepackedMatrix{words.as<std::uint8_t>() + turn++ % kMatrices * bytes, nullptr, nullptr,
                          kColumns, kShape};
  };
  measure(state, gated ? 2 * bytes : bytes, [&] {
    if (gated) {
      gate(next(), input, next(), input, 1, readers, nullptr);
    } else {
      multiply_add(next(), input, 1, y.floats(), readers, nullptr);
    }
  });
}

void repack(benchmark::State& state) {
  const Memory bits(kBitBytes), words(repacked_bytes(kShape));
  measure(state, 2 * kBitBytes,
          [&] { repack_signs(bits.as<std::uint8_t>(), kShape, 0, words.as<void>(), nullptr); });
}

/// What one token leaves for the next product: a vector of kWidth.
struct Published {
  Published() : scaled(4 * kWidth), sums(4 * parts), squares(4 * parts), norm(4 * kWidth) {
    readers.reader[0] = {nullptr, nullptr, scaled.floats(), sums.floats()};
    readers.count = 1;
    readers.width = kWidth;
    readers.parts = parts;
    readers.norm = norm.floats();
    readers.squares = squares.floats();
  }
  ProductInput input() const {
    return {scaled.floats(), sums.floats(), squares.floats(), parts, 1e-5f};
  }
  std::int64_t parts = reader_parts(1, kWidth);
  Memory scaled, sums, squares, norm;
  Readers readers;
};

/// One row of the fp16 table, for one token: a launch, more than memory traffic.
void embedding(benchmark::State& state) {
  const Memory table(2 * kVocab * kWidth), rows(sizeof(DecodeRow), 0), residual(4 * kWidth);
  const Published out;
  measure(state, 10 * kWidth, [&] {
    embed({table.as<void>(), nullptr, Storage::kFp16, {kVocab, kWidth}, 2 * kWidth},
          rows.as<DecodeRow>(), 1, residual.floats(), out.readers, nullptr);
  });
}

/// Queries, keys and values of one token; matrices take turns as in `product`.
void projection(benchmark::State& state) {
  constexpr int kMatrices = 24;
  constexpr MatrixShape shape = {kWidth, kWidth};
  const std::int64_t bytes = repacked_bytes(shape);
  const AttentionShape attention_shape = {kHeads, kHeads, kHead, 0, 1, CacheType::kFp16, 1};
  const Memory words(kMatrices * bytes), cache(attention_shape.position_bytes()),
      rows(sizeof(DecodeRow)), angles(4 * kHead), queries(4 * kWidth);
  const DecodeRow row = {0, cache.as<std::byte>(), 0};
  must(cudaMemcpy(rows.as<void>(), &row, sizeof row, cudaMemcpyHostToDevice));
  const Published x;
  int turn = 0;
  const auto next = [&] {
    return RepackedMatrix{words.as<std::uint8_t>() + turn++ % kMatrices * bytes, nullptr, nullptr,
                          kColumns, shape};
  };
  measure(state, 3 * bytes, [&] {
    ProjectArgs args;
    args.q = next(), args.k = next(), args.v = next();
    args.q_input = args.k_input = args.v_input = x.input();
    args.shape = attention_shape;
    args.tokens = 1;
    args.rows = rows.as<DecodeRow>();
    args.angles = angles.floats();
    args.queries = queries.floats();
    project(args, nullptr);
  });
}

/// Of 2,048 positions of a 7B layer in fp16, one token.
void attention(benchmark::State& state) {
  constexpr std::int64_t kPositions = 2048;
  const AttentionShape shape = {32, 32, 128, 0, 1, CacheType::kFp16, kPositions};
  const std::int64_t bytes = kPositions * shape.position_bytes(),
                     width = shape.heads * shape.head_dim;
  const Memory cache(bytes), rows(sizeof(DecodeRow)), queries(4 * width),
      workspace(4 * attend_workspace(shape, 1)), counters(4 * attend_counters(shape, 1), 0),
      scaled(4 * width), sums(4 * reader_parts(shape.heads, shape.head_dim));
  const DecodeRow row = {kPositions - 1, cache.as<std::byte>(), 0};
  must(cudaMemcpy(rows.as<void>(), &row, sizeof row, cudaMemcpyHostToDevice));
  Readers readers;
  readers.reader[0] = {nullptr, nullptr, scaled.floats(), sums.floats()};
  readers.count = 1;
  readers.width = width;
  readers.parts = reader_parts(shape.heads, shape.head_dim);
  measure(state, bytes, [&] {
    attend({shape, 1, rows.as<DecodeRow>(), queries.floats(), workspace.floats(),
            counters.as<unsigned>()},
           readers, nullptr);
  });
}

/// The fp16 head of a 7B model, one token.
void head(benchmark::State& state) {
  constexpr MatrixShape shape = {32000, 4096};
  const std::int64_t bytes = 2 * shape.rows * shape.columns, parts = reader_parts(1, shape.columns);
  const Memory weights(bytes), x(4 * shape.columns), sums(4 * parts), y(4 * shape.rows);
  measure(state, bytes, [&] {
    multiply_dense({weights.as<void>(), nullptr, Storage::kFp16, shape, 2 * shape.columns},
                   {x.floats(), sums.floats(), sums.floats(), parts, 1e-5f}, 1, y.floats(),
                   nullptr);
  });
}

void register_all() {
  const auto add = [](const char* name, auto function) {
    benchmark::RegisterBenchmark(name, function)->UseManualTime()->Unit(benchmark::kMicrosecond);
  };
  add("pack_signs", pack);
  add("effective_weight/fp32", [](auto& state) { effective(state, Element::kFp32); });
  add("effective_weight/bf16", [](auto& state) { effective(state, Element::kBf16); });
  add("scale_gradients/column", [](auto& state) { gradients(state, kColumns); });
  add("scale_gradients/row", [](auto& state) { gradients(state, ScaleStrides::per_row()); });
  add("sum_of_squares", norm);
  add("adamw", dense_update);
  add("adamw_latent", latent_update);
  add("distill_loss/fp32/distill", [](auto& state) { loss(state, Element::kFp32, 0, 1, 1); });
  add("distill_loss/bf16/distill", [](auto& state) { loss(state, Element::kBf16, 0, 1, 1); });
  add("distill_loss/bf16/next_token", [](auto& state) { loss(state, Element::kBf16, 1, 0, 1); });
  add("distill_loss/bf16/mixed_temperature_2",
      [](auto& state) { loss(state, Element::kBf16, 0.5, 0.5, 2); });
  add("next_token_nll/bf16", nll);
  add("unpack_signs_e4m3", signs_e4m3);
  add("quantize_rows/bf16", [](auto& state) { quantize(state, false); });
  add("quantize_rows/bf16/for_signs", [](auto& state) { quantize(state, true); });
  add("accumulate_embedding_gradient/bf16", embedding_gradient);
  add("rms_norm", norm_forward);
  add("rms_norm_backward", norm_backward);
  add("rotary/bf16", rotate);
  add("repack_signs", repack);
  add("embed/fp16", embedding);
  add("project", projection);
  add("multiply_add", [](auto& state) { product(state, false); });
  add("gate", [](auto& state) { product(state, true); });
  add("attend/fp16", attention);
  add("multiply_dense/fp16", head);
  add("silu_product/bf16", [](auto& state) { silu(state, false); });
  add("silu_product_backward/bf16", [](auto& state) { silu(state, true); });
}

}  // namespace
}  // namespace fbi::kernels::cuda

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    std::printf("no GPU, nothing measured: %s\n", cudaGetErrorString(status));
    return 0;
  }
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) == cudaSuccess)
    benchmark::AddCustomContext("GPU", properties.name);
  benchmark::AddCustomContext("copy GB/s",
                              std::to_string(fbi::kernels::cuda::copy_bandwidth() / 1e9));
  fbi::kernels::cuda::register_all();
  benchmark::RunSpecifiedBenchmarks();
}
