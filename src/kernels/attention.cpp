#include "fbi/kernels/attention.h"

#include <algorithm>
#include <cmath>

#include "fbi/kernels/aligned_memory.h"
#include "kernels/dispatch.h"

namespace fbi::kernels {
namespace {

/// Queries whose scores exist at a time: a multiple of every level's kTileRows, and few enough that
/// the scores of some hundred positions stay in the second-level cache.
constexpr std::int64_t kQueries = 48;
constexpr std::int64_t kGroup = 12;  // a multiple of kTileRows, too
static_assert(kQueries % kLanes == 0 && kQueries % kGroup == 0);

std::int64_t round_up_to_lanes(std::int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

/// Floats of one size, each array from a cache line on.
class Workspace {
 public:
  Workspace(std::int64_t arrays, std::int64_t floats)
      : floats_(round_up_to_lanes(floats)),
        memory_(static_cast<std::size_t>(arrays * floats_) * sizeof(float)) {}
  float* operator[](std::int64_t array) { return memory_.as<float>() + array * floats_; }

 private:
  std::int64_t floats_;
  AlignedMemory memory_;
};

/// A thread's part of the work, and copies of what it is at: in a caller's tensor the rows of a
/// head lie far apart, often by a power of two, and would meet in few lines of the first-level
/// cache.
class HeadWorker {
 public:
  enum class Pass { kForward, kBackward };
  HeadWorker(const AttentionInput& input, Pass pass)
      : in_(input),
        kernels_(cpu_kernels()),
        dim_(input.head_dim),
        scale_(static_cast<float>(1 / std::sqrt(static_cast<double>(input.head_dim)))),
        stride_(round_up_to_lanes(input.positions) + kLanes),
        of_scores_(pass == Pass::kForward ? 1 : 2, kQueries * stride_),
        of_queries_(pass == Pass::kForward ? 1 : 2, kQueries * dim_),
        of_keys_(pass == Pass::kForward ? 2 : 5, round_up_to_lanes(input.positions) * dim_) {}

  void forward(std::int64_t batch, std::int64_t key_head, float* out, const SoftmaxRows& rows);
  void backward(std::int64_t batch, std::int64_t key_head, const SoftmaxRows& rows,
                const HeadValues& dout, const AttentionGradients& gradients);

 private:
  /// Queries [first, first + count) of a head see the positions before end().
  struct Block {
    std::int64_t batch, head, first, count;
    std::int64_t end() const { return first + count; }
  };
  template <class Body>
  void for_blocks(std::int64_t batch, std::int64_t key_head, const Body& body) {
    const std::int64_t groups = in_.heads / in_.key_value_heads;
    for (std::int64_t head = key_head * groups; head < (key_head + 1) * groups; ++head) {
      for (std::int64_t first = 0; first < in_.positions; first += kQueries) {
        body(Block{batch, head, first, std::min(kQueries, in_.positions - first)});
      }
    }
  }

  static const float* start(const HeadValues& values, std::int64_t batch, std::int64_t head) {
    return values.x + batch * values.batch_stride + head * values.head_stride;
  }
  /// Element of a contiguous [batch, positions, heads, head_dim].
  std::int64_t place(std::int64_t batch, std::int64_t position, std::int64_t heads,
                     std::int64_t head) const {
    return ((batch * in_.positions + position) * heads + head) * dim_;
  }
  std::int64_t softmax_row(const Block& block) const {
    return (block.batch * in_.heads + block.head) * in_.positions + block.first;
  }

  /// Positions [first, first + count) of one head.
  void copy_rows(const HeadValues& values, std::int64_t batch, std::int64_t head,
                 std::int64_t first, std::int64_t count, float* out) {
    const float* x = start(values, batch, head) + first * values.position_stride;
    for (std::int64_t t = 0; t < count; ++t)
      std::copy_n(x + t * values.position_stride, dim_, out + t * dim_);
  }
  void copy_block(const HeadValues& values, const Block& block, float* out) {
    copy_rows(values, block.batch, block.head, block.first, block.count, out);
  }
  /// All positions in blocks of 16, [blocks, head_dim, 16], the order in which products with
  /// queries read it. What lies behind the last position is never used.
  void transpose_head(const HeadValues& values, std::int64_t batch, std::int64_t head, float* out) {
    const float* x = start(values, batch, head);
    for (std::int64_t t = 0; t < in_.positions; t += kLanes) {
      const std::int64_t count = std::min<std::int64_t>(kLanes, in_.positions - t);
      kernels_.transpose(x + t * values.position_stride, values.position_stride, count, dim_,
                         nullptr, out + t * dim_, kLanes);
    }
  }
  /// body(first, count) for groups of the block's queries, by which products skip most of what lies
  /// behind the diagonal. Skipped products are with zeros: no bit depends on the size of a group.
  template <class Body>
  static void for_groups(const Block& block, const Body& body) {
    for (std::int64_t first = 0; first < block.count; first += kGroup)
      body(first, std::min(kGroup, block.count - first));
  }
  /// body(first, count, begin, end): queries [first, first + count) of the block with positions
  /// [begin, end), in parts that together hold all that a query sees.
  template <class Body>
  static void for_seen(const Block& block, const Body& body) {
    body(0, block.count, 0, block.first);
    for_groups(block, [&](std::int64_t first, std::int64_t count) {
      body(first, count, block.first, block.first + first + count);
    });
  }
  /// scores [count, end] = rows [count, head_dim] · a transposed head
  void score(const float* rows, const float* transposed, const Block& block, float* scores) {
    const auto multiply = [&](std::int64_t first, std::int64_t count, std::int64_t begin,
                              std::int64_t end) {
      kernels_.multiply({.a = rows + first * dim_,
                         .a_row = dim_,
                         .a_depth = 1,
                         .b = transposed + begin * dim_,
                         .b_block = kLanes * dim_,
                         .b_depth = kLanes,
                         .c = scores + first * stride_ + begin,
                         .c_row = stride_,
                         .rows = count,
                         .columns = round_up_to_lanes(end - begin),
                         .depth = dim_},
                        false);
    };
    for_seen(block, multiply);
  }
  /// out [count, head_dim] = scores [count, end] · rows [end, head_dim], into a tensor of all heads
  void mix(const float* scores, const float* rows, const Block& block, float* out) {
    const auto multiply = [&](std::int64_t first, std::int64_t count, std::int64_t begin,
                              std::int64_t end) {
      kernels_.multiply({.a = scores + first * stride_ + begin,
                         .a_row = stride_,
                         .a_depth = 1,
                         .b = rows + begin * dim_,
                         .b_block = kLanes,
                         .b_depth = dim_,
                         .c = out + place(block.batch, block.first + first, in_.heads, block.head),
                         .c_row = in_.heads * dim_,
                         .rows = count,
                         .columns = dim_,
                         .depth = end - begin},
                        begin > 0);
    };
    for_seen(block, multiply);
  }
  /// out [end, head_dim] += transposed scores [end, count] · rows [count, head_dim]
  void spread(const float* scores, const float* rows, const Block& block, float* out) {
    const auto multiply = [&](std::int64_t position, std::int64_t positions, std::int64_t first) {
      kernels_.multiply({.a = scores + first * stride_ + position,
                         .a_row = 1,
                         .a_depth = stride_,
                         .b = rows + first * dim_,
                         .b_block = kLanes,
                         .b_depth = dim_,
                         .c = out + position * dim_,
                         .c_row = dim_,
                         .rows = positions,
                         .columns = dim_,
                         .depth = block.count - first},
                        true);
    };
    multiply(0, block.first, 0);
    for_groups(block, [&](std::int64_t first, std::int64_t count) {
      multiply(block.first + first, count, first);
    });
  }

  const AttentionInput& in_;
  const CpuKernels& kernels_;
  const std::int64_t dim_;
  const float scale_;
  const std::int64_t stride_;  ///< of scores
  Workspace of_scores_;        ///< [kQueries, stride_]
  Workspace of_queries_;       ///< [kQueries, head_dim]
  Workspace of_keys_;          ///< [positions, head_dim]
};

void HeadWorker::forward(std::int64_t batch, std::int64_t key_head, float* out,
                         const SoftmaxRows& rows) {
  float *scores = of_scores_[0], *queries = of_queries_[0];
  float *transposed_keys = of_keys_[0], *values = of_keys_[1];
  transpose_head(in_.keys, batch, key_head, transposed_keys);
  copy_rows(in_.values, batch, key_head, 0, in_.positions, values);
  for_blocks(batch, key_head, [&](const Block& block) {
    copy_block(in_.queries, block, queries);
    score(queries, transposed_keys, block, scores);
    float* inverse_sum = rows.inverse_sum + softmax_row(block);
    for (std::int64_t query = 0; query < block.count; ++query) {
      float* row = scores + query * stride_;
      const std::int64_t seen = block.first + query + 1;
      const float max = kernels_.max(row, seen);
      rows.max[softmax_row(block) + query] = max;
      inverse_sum[query] = static_cast<float>(1 / kernels_.exp_row(row, seen, max, scale_));
      std::fill(row + seen, row + block.end(), 0.0f);
    }
    mix(scores, values, block, out);
    for (std::int64_t query = 0; query < block.count; ++query) {
      float* row = out + place(batch, block.first + query, in_.heads, block.head);
      for (std::int64_t d = 0; d < dim_; ++d) row[d] *= inverse_sum[query];
    }
  });
}

void HeadWorker::backward(std::int64_t batch, std::int64_t key_head, const SoftmaxRows& rows,
                          const HeadValues& dout, const AttentionGradients& gradients) {
  float *probabilities = of_scores_[0], *dscores = of_scores_[1];
  float *queries = of_queries_[0], *dmixed = of_queries_[1];
  float *transposed_keys = of_keys_[0], *transposed_values = of_keys_[1], *keys = of_keys_[2];
  float *dkeys = of_keys_[3], *dvalues = of_keys_[4];
  transpose_head(in_.keys, batch, key_head, transposed_keys);
  transpose_head(in_.values, batch, key_head, transposed_values);
  copy_rows(in_.keys, batch, key_head, 0, in_.positions, keys);
  std::fill_n(dkeys, in_.positions * dim_, 0.0f);
  std::fill_n(dvalues, in_.positions * dim_, 0.0f);
  for_blocks(batch, key_head, [&](const Block& block) {
    copy_block(in_.queries, block, queries);
    copy_block(dout, block, dmixed);
    score(queries, transposed_keys, block, probabilities);
    score(dmixed, transposed_values, block, dscores);
    for (std::int64_t query = 0; query < block.count; ++query) {
      float *row = probabilities + query * stride_, *drow = dscores + query * stride_;
      const std::int64_t seen = block.first + query + 1, saved = softmax_row(block) + query;
      kernels_.exp_row(row, seen, rows.max[saved], scale_);
      kernels_.softmax_backward_row(row, drow, seen, rows.inverse_sum[saved], scale_);
      std::fill(row + seen, row + block.end(), 0.0f);
      std::fill(drow + seen, drow + block.end(), 0.0f);
    }
    spread(probabilities, dmixed, block, dvalues);
    spread(dscores, queries, block, dkeys);
    mix(dscores, keys, block, gradients.queries);
  });
  for (std::int64_t t = 0; t < in_.positions; ++t) {
    const std::int64_t row = place(batch, t, in_.key_value_heads, key_head);
    std::copy_n(dkeys + t * dim_, dim_, gradients.keys + row);
    std::copy_n(dvalues + t * dim_, dim_, gradients.values + row);
  }
}

/// body(worker, sequence, key head) for all of them; the heads that share keys stay together.
template <class Body>
void for_key_heads(const AttentionInput& input, HeadWorker::Pass pass, ParallelFor& parallel,
                   const Body& body) {
  parallel.run(0, input.batch * input.key_value_heads, 1,
               [&, pass](std::int64_t begin, std::int64_t end) {
                 HeadWorker worker(input, pass);
                 for (std::int64_t n = begin; n < end; ++n) {
                   body(worker, n / input.key_value_heads, n % input.key_value_heads);
                 }
               });
}

}  // namespace

void causal_attention(const AttentionInput& input, float* out, const SoftmaxRows& rows,
                      ParallelFor& parallel) {
  for_key_heads(input, HeadWorker::Pass::kForward, parallel,
                [&](HeadWorker& worker, std::int64_t batch, std::int64_t key_head) {
                  worker.forward(batch, key_head, out, rows);
                });
}

void causal_attention_backward(const AttentionInput& input, const SoftmaxRows& rows,
                               const HeadValues& dout, const AttentionGradients& gradients,
                               ParallelFor& parallel) {
  for_key_heads(input, HeadWorker::Pass::kBackward, parallel,
                [&](HeadWorker& worker, std::int64_t batch, std::int64_t key_head) {
                  worker.backward(batch, key_head, rows, dout, gradients);
                });
}

}  // namespace fbi::kernels
