#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceGuard.h>
#include <cuda_runtime.h>
#include <torch/library.h>

#include <utility>
#include <vector>

// LibTorch's operations on tensors of the emulated GPU, done by those for the CPU on the same
// memory. As on a GPU, other tensors of an operation must lie there, too, but for copies and for
// numbers.
namespace {

using torch::jit::Stack;

/// The memory of a tensor of the device as a tensor of the CPU.
at::Tensor on_cpu(const at::Tensor& x) {
  const auto options = x.options().device(at::kCPU);
  if (x.numel() == 0) return at::empty_strided(x.sizes(), x.strides(), options);
  return at::from_blob(
      x.unsafeGetTensorImpl()->mutable_data(), x.sizes(), x.strides(), [](void*) {}, options);
}

at::Tensor to_gpu(const at::Tensor& x, at::Device device) {
  const at::Tensor result = at::empty_strided(x.sizes(), x.strides(), x.options().device(device));
  if (x.numel() > 0) on_cpu(result).copy_(x);
  return result;
}

/// One call of an operation for the CPU.
class Call {
 public:
  explicit Call(const c10::OperatorHandle& op) : op_(op) {}

  void run(Stack& stack) {
    const auto& schema = op_.schema();
    const std::size_t count = schema.arguments().size(), first = stack.size() - count;
    const std::vector<c10::IValue> given(stack.begin() + static_cast<std::ptrdiff_t>(first),
                                         stack.end());
    for (std::size_t i = first; i < stack.size(); ++i) stack[i] = moved(stack[i]);
    const std::vector<c10::IValue> used(stack.begin() + static_cast<std::ptrdiff_t>(first),
                                        stack.end());
    {
      const emulator::DeviceAccess access;
      op_.callBoxed(stack);
    }
    for (std::size_t i = 0; i < count; ++i)
      if (schema.is_mutable({c10::SchemaArgType::input, i})) write_back(given[i], used[i]);
    const std::size_t results = stack.size() - schema.returns().size();
    for (std::size_t i = 0; i < schema.returns().size(); ++i) {
      c10::IValue& result = stack[results + i];
      for (std::size_t j = 0; j < count; ++j) {
        if (!schema.may_alias({c10::SchemaArgType::output, i}, {c10::SchemaArgType::input, j}))
          continue;
        TORCH_CHECK(schema.is_mutable({c10::SchemaArgType::input, j}),
                    "emulated GPU: ", op_.operator_name(), " is a view");
        result = given[j];
      }
      result = returned(result);
    }
  }

 private:
  c10::IValue moved(const c10::IValue& value) {
    if (value.isTensor()) return tensor(value.toTensor());
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& x : value.toTensorVector()) list.push_back(tensor(x));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const auto& x : value.toOptionalTensorVector())
        list.push_back(x ? std::optional(tensor(*x)) : std::nullopt);
      return list;
    }
    if (value.isDevice()) {
      use(value.toDevice());
      return at::Device(at::kCPU);
    }
    return value;
  }

  at::Tensor tensor(const at::Tensor& x) {
    if (!x.defined()) return x;
    if (x.is_cuda()) {
      use(x.device());
      return on_cpu(x);
    }
    TORCH_CHECK(x.dim() == 0, "Expected all tensors to be on the same device, but ",
                op_.operator_name(), " found one on ", x.device(), " beside others on a GPU");
    return x;
  }

  void use(at::Device device) {
    TORCH_CHECK(!device_ || *device_ == device,
                "Expected all tensors to be on the same device, but ", op_.operator_name(),
                " found ", *device_, " and ", device);
    device_ = device;
  }

  /// What the operation wrote where it had no room: results that it gave another shape.
  void write_back(const c10::IValue& given, const c10::IValue& used) {
    if (!given.isTensor()) return;
    const at::Tensor &target = given.toTensor(), &written = used.toTensor();
    if (!target.defined() || !target.is_cuda()) return;
    if (written.sizes() == target.sizes()) return;
    const emulator::DeviceAccess access;
    const at::Tensor whole = to_gpu(written, *device_);
    auto* impl = target.unsafeGetTensorImpl();
    impl->set_storage_keep_dtype(whole.storage());
    impl->set_sizes_and_strides(whole.sizes(), whole.strides());
  }

  c10::IValue returned(const c10::IValue& value) {
    const emulator::DeviceAccess access;
    if (value.isTensor()) {
      const at::Tensor& x = value.toTensor();
      return x.defined() && x.is_cpu() ? to_gpu(x, *device_) : x;
    }
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& x : value.toTensorVector())
        list.push_back(x.is_cpu() ? to_gpu(x, *device_) : x);
      return list;
    }
    return value;
  }

  const c10::OperatorHandle& op_;
  std::optional<at::Device> device_;
};

void run_on_cpu(const c10::OperatorHandle& op, Stack* stack) {
  Call(op).run(*stack);
}

at::Tensor empty_memory_format(c10::IntArrayRef sizes, std::optional<at::ScalarType> type,
                               std::optional<at::Layout>, std::optional<at::Device> device,
                               std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(c10::device_or_default(device));
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
  return at::detail::empty_generic(sizes, c10::GetAllocator(at::kCUDA), keys,
                                   c10::dtype_or_default(type), format);
}
at::Tensor empty_strided(c10::IntArrayRef sizes, c10::IntArrayRef strides,
                         std::optional<at::ScalarType> type, std::optional<at::Layout>,
                         std::optional<at::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(c10::device_or_default(device));
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
  return at::detail::empty_strided_generic(sizes, strides, c10::GetAllocator(at::kCUDA), keys,
                                           c10::dtype_or_default(type));
}

const at::Tensor& resize_(const at::Tensor& self, c10::IntArrayRef sizes,
                          std::optional<at::MemoryFormat>) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(sizes);
  const auto needed =
      static_cast<std::size_t>(self.storage_offset() + self.numel()) * self.dtype().itemsize();
  if (needed > self.storage().nbytes())
    impl->set_storage_keep_dtype(at::empty(sizes, self.options()).storage());
  return self;
}

/// From and to pinned memory a copy takes until it is waited for.
at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  if (self.numel() == 0) return self;
  const emulator::DeviceAccess access;
  const auto visible = [](const at::Tensor& x) { return x.is_cuda() ? on_cpu(x) : x; };
  if (self.is_cuda() == source.is_cuda()) {
    visible(self).copy_(visible(source));
    return self;
  }
  if (!non_blocking) {
    emulator::finish_copies();
    visible(self).copy_(visible(source));
    return self;
  }
  // LibTorch brings the source into the target's type and order first, where it lies.
  const at::Tensor sent = source.expand(self.sizes()).to(self.scalar_type()).contiguous();
  TORCH_CHECK(self.is_contiguous(), "emulated GPU: an asynchronous copy in pieces");
  const bool up = self.is_cuda();
  const void* host = up ? sent.const_data_ptr() : self.const_data_ptr();
  const bool pinned = emulator::is_pinned(host);
  TORCH_CHECK(up || pinned, "emulated GPU: the host may read memory before it is copied to");
  if (pinned) {
    const auto status =
        cudaMemcpyAsync(self.mutable_data_ptr(), sent.const_data_ptr(), self.nbytes(),
                        up ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, nullptr);
    TORCH_CHECK(status == cudaSuccess, "emulated GPU: ", cudaGetErrorString(status));
  } else {
    visible(self).copy_(sent);
  }
  return self;
}

at::Scalar local_scalar(const at::Tensor& x) {
  emulator::finish_copies();
  const emulator::DeviceAccess access;
  return on_cpu(x).item();
}

/// Products whose result has another type than the factors. A GPU adds in fp32.
void check_wider(const at::Tensor& a, const at::Tensor& b, at::ScalarType type) {
  TORCH_CHECK(a.is_cuda() && b.is_cuda() && a.scalar_type() == b.scalar_type() &&
                  (a.scalar_type() == at::kBFloat16 || a.scalar_type() == at::kHalf ||
                   a.scalar_type() == type) &&
                  (type == a.scalar_type() || type == at::kFloat),
              "emulated GPU: no product of ", a.scalar_type(), " and ", b.scalar_type(), " in ",
              type);
}
at::Tensor product_in_fp32(const at::Tensor& a, const at::Tensor& b) {
  return on_cpu(a).to(at::kFloat).mm(on_cpu(b).to(at::kFloat));
}
at::Tensor mm_dtype(const at::Tensor& a, const at::Tensor& b, at::ScalarType type) {
  check_wider(a, b, type);
  const emulator::DeviceAccess access;
  return to_gpu(product_in_fp32(a, b).to(type), a.device());
}
at::Tensor& addmm_dtype_out(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b,
                            at::ScalarType type, const at::Scalar& beta, const at::Scalar& alpha,
                            at::Tensor& out) {
  check_wider(a, b, type);
  TORCH_CHECK(self.is_cuda() && out.is_cuda() && self.scalar_type() == type &&
                  out.scalar_type() == type && self.sizes() == out.sizes(),
              "emulated GPU: a sum in another type or shape");
  const emulator::DeviceAccess access;
  const at::Tensor sum = on_cpu(self).mul(beta).add(product_in_fp32(a, b), alpha);
  on_cpu(out).copy_(sum);
  return out;
}

/// With scales by rows, as GPUs of compute capability 9.0 take them.
at::Tensor scaled_mm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& scale_a,
                     const at::Tensor& scale_b, const std::optional<at::Tensor>& bias,
                     const std::optional<at::Tensor>& scale_result,
                     std::optional<at::ScalarType> type, bool) {
  TORCH_CHECK(a.scalar_type() == at::kFloat8_e4m3fn && b.scalar_type() == at::kFloat8_e4m3fn);
  TORCH_CHECK(a.stride(1) == 1 && b.stride(0) == 1, "emulated GPU: a by rows, b by columns");
  TORCH_CHECK(a.size(1) % 16 == 0 && b.size(0) % 16 == 0 && b.size(1) % 16 == 0,
              "emulated GPU: sizes that 16 does not divide");
  TORCH_CHECK(scale_a.sizes() == at::IntArrayRef({a.size(0), 1}) && scale_a.is_contiguous() &&
              scale_b.sizes() == at::IntArrayRef({1, b.size(1)}) && scale_b.is_contiguous() &&
              scale_a.scalar_type() == at::kFloat && scale_b.scalar_type() == at::kFloat);
  TORCH_CHECK(!bias && !scale_result && type == at::kBFloat16, "emulated GPU: results are bf16");
  const emulator::DeviceAccess access;
  return to_gpu(product_in_fp32(a, b).mul(on_cpu(scale_a)).mul(on_cpu(scale_b)).to(*type),
                a.device());
}

std::int64_t math_attention(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor&,
                            const std::optional<at::Tensor>&, double, bool, std::optional<double>,
                            bool) {
  TORCH_CHECK(queries.size(2) == keys.size(2) || !at::globalContext().userEnabledCuDNNSDP(),
              "emulated GPU: cuDNN would prepare a plan for ", keys.size(2), " keys alone");
  return 0;  // sdp::SDPBackend::math: of operations that are here
}
struct RegisterAttention {
  RegisterAttention() { at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(math_attention); }
} const register_attention;

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}
TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", empty_memory_format);
  library.impl("empty_strided", empty_strided);
  library.impl("as_strided", at::native::as_strided_tensorimpl);
  library.impl("view",
               static_cast<at::Tensor (*)(const at::Tensor&, at::IntArrayRef)>(at::native::view));
  library.impl("_reshape_alias", at::native::_reshape_alias);
  library.impl("resize_", resize_);
  library.impl("copy_", copy_);
  library.impl("_local_scalar_dense", local_scalar);
  library.impl("mm.dtype", mm_dtype);
  library.impl("addmm.dtype_out", addmm_dtype_out);
  library.impl("_scaled_mm", scaled_mm);
}

}  // namespace
