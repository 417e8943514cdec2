#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "fbi/core/error.h"
#include "fbi/kernels/attention.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/slot_ops.h"

namespace fbi::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// [B, H, S, E]
kernels::HeadValues head_values(const at::Tensor& x) {
  return {x.const_data_ptr<float>(), x.stride(0), x.stride(2), x.stride(1)};
}

at::Tensor side_by_side(const at::Tensor& x) {
  return x.stride(3) == 1 ? x : x.contiguous();
}

/// [B, H, S, E], in memory as [B, S, H, E].
at::Tensor empty_like_product(const at::Tensor& x) {
  return at::empty({x.size(0), x.size(2), x.size(1), x.size(3)}, x.options()).transpose(1, 2);
}

kernels::AttentionInput input_of(const at::Tensor& queries, const at::Tensor& keys,
                                 const at::Tensor& values) {
  return {.batch = queries.size(0),
          .positions = queries.size(2),
          .heads = queries.size(1),
          .key_value_heads = keys.size(1),
          .head_dim = queries.size(3),
          .queries = head_values(queries),
          .keys = head_values(keys),
          .values = head_values(values)};
}

/// `rows`: [2, B, H, S].
kernels::SoftmaxRows softmax_rows(const at::Tensor& rows) {
  return {rows[0].data_ptr<float>(), rows[1].data_ptr<float>()};
}

struct CausalAttention : torch::autograd::Function<CausalAttention> {
  static at::Tensor forward(AutogradContext* ctx, at::Tensor queries, at::Tensor keys,
                            at::Tensor values) {
    queries = side_by_side(queries);
    keys = side_by_side(keys);
    values = side_by_side(values);
    const at::Tensor out = empty_like_product(queries);
    const at::Tensor rows =
        at::empty({2, queries.size(0), queries.size(1), queries.size(2)}, queries.options());
    kernels::causal_attention(input_of(queries, keys, values), out.data_ptr<float>(),
                              softmax_rows(rows), torch_parallel_for());
    ctx->save_for_backward({queries, keys, values, rows});
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &queries = saved[0], &keys = saved[1], &values = saved[2];
    const at::Tensor dout = side_by_side(grads[0]);
    const at::Tensor dqueries = empty_like_product(queries), dkeys = empty_like_product(keys),
                     dvalues = empty_like_product(values);
    kernels::causal_attention_backward(
        input_of(queries, keys, values), softmax_rows(saved[3]), head_values(dout),
        {dqueries.data_ptr<float>(), dkeys.data_ptr<float>(), dvalues.data_ptr<float>()},
        torch_parallel_for());
    return {dqueries, dkeys, dvalues};
  }
};

}  // namespace

at::Tensor causal_attention(const at::Tensor& queries, const at::Tensor& keys,
                            const at::Tensor& values) {
  for (const at::Tensor* x : {&queries, &keys, &values}) {
    if (x->is_cpu() && x->scalar_type() == at::kFloat && x->dim() == 4) continue;
    throw UsageError("causal_attention: expected fp32 tensors of 4 dimensions on the CPU");
  }
  return CausalAttention::apply(queries, keys, values);
}

}  // namespace fbi::ops
