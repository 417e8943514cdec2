#include "fbi/train/memory_use.h"

#include <algorithm>
#include <unordered_set>

#include "fbi/core/error.h"
#include "fbi/core/human.h"

namespace fbi::train {
namespace {

using estimate::MemoryByKind;
using estimate::MemoryKind;

/// Counts a storage for the kind that names it first.
class HeldBytes {
 public:
  void add(MemoryKind kind, const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    const at::Storage& storage = tensor.storage();
    if (!seen_.insert(storage.unsafeGetStorageImpl()).second) return;
    bytes_[static_cast<std::size_t>(kind)] += static_cast<std::int64_t>(storage.nbytes());
  }
  void add(MemoryKind kind, const optim::Moments& moments) {
    add(kind, moments.exp_avg);
    add(kind, moments.exp_avg_sq);
  }
  const MemoryByKind& bytes() const { return bytes_; }

 private:
  std::unordered_set<const at::StorageImpl*> seen_;
  MemoryByKind bytes_{};
};

void add_working_copy(HeldBytes& held, const ops::ParameterSlot& slot) {
  held.add(MemoryKind::kBits, slot.bits);
  held.add(MemoryKind::kWorkspace, slot.unpacked);
  for (const auto& tensor : {slot.value, slot.alpha, slot.beta})
    held.add(MemoryKind::kValues, tensor);
}

}  // namespace

MemoryByKind held_memory(const optim::AdamW& optimizer, const distill::Teacher* teacher) {
  HeldBytes held;
  for (const auto& state : optimizer.states()) {
    add_working_copy(held, *state.slot);
    held.add(MemoryKind::kLatent, state.latent);  // of a dense slot its value, counted already
    for (const auto& tensor :
         {state.slot->grad, state.slot->tied_grad, state.grad, state.alpha_grad, state.beta_grad})
      held.add(MemoryKind::kGradients, tensor);
    for (const auto& moments : {state.moments, state.alpha_moments, state.beta_moments})
      held.add(MemoryKind::kMoments, moments);
  }
  if (teacher)
    for (const auto& tensor : teacher->tensors()) held.add(MemoryKind::kTeacher, tensor);
  return held.bytes();
}

std::vector<std::pair<std::string_view, std::int64_t>> MemoryUse::parts() const {
  std::vector<std::pair<std::string_view, std::int64_t>> out;
  std::int64_t rest = peak();
  const auto take = [&](std::string_view name, std::int64_t bytes) {
    if (bytes > 0) out.emplace_back(name, bytes);
    rest = std::max<std::int64_t>(rest - bytes, 0);
  };
  for (std::size_t kind = 0; kind < estimate::kMemoryKinds; ++kind)
    take(to_string(static_cast<MemoryKind>(kind)), held[kind]);
  if (peak_device_bytes == 0)
    take("program", std::min(program_bytes, rest));  // tensors may lie in memory that it had freed
  out.emplace_back("rest", rest);
  return out;
}

std::string MemoryUse::text() const {
  std::string out = concat("memory at most ", format_bytes(peak()));
  std::string_view separator = ": ";
  for (const auto& [name, bytes] : parts()) {
    out += concat(separator, name, " ", format_bytes(bytes));
    separator = ", ";
  }
  return out;
}

}  // namespace fbi::train
