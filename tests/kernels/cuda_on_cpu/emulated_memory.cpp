#include <cuda_runtime.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

// Memory of the device and pinned memory of the host.

std::size_t emulated_memory_bytes = std::size_t{1} << 30;

namespace {

constexpr std::size_t kBorder = 256;
constexpr unsigned char kMark = 0xA5, kNothing = 0xFF;  // floats of kNothing are NaN

std::size_t rounded_up(std::size_t bytes, std::size_t step) {
  return (bytes + step - 1) / step * step;
}

void poison([[maybe_unused]] const void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(memory, bytes);
#endif
}
void unpoison([[maybe_unused]] const void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
#endif
}

/// The device's memory: one range of addresses, closed but while a DeviceAccess lives. Callers hold
/// memory_mutex().
class Arena {
 public:
  static Arena& instance() {
    static Arena arena;
    return arena;
  }

  /// Of a multiple of kBorder bytes; null where there is no more.
  unsigned char* take(std::size_t bytes) {
    const auto fits = [&](const auto& hole) { return hole.second >= bytes; };
    const auto found = std::find_if(holes_.begin(), holes_.end(), fits);
    if (found == holes_.end()) return nullptr;
    const auto [offset, size] = *found;
    holes_.erase(found);
    if (size > bytes) holes_[offset + bytes] = size - bytes;
    const std::size_t used = rounded_up(offset + bytes, page_);
    if (used > used_) {
      if (open_ && mprotect(begin_ + used_, used - used_, PROT_READ | PROT_WRITE) != 0)
        return nullptr;
      used_ = used;
    }
    return begin_ + offset;
  }

  void give_back(unsigned char* memory, std::size_t bytes) {
    const auto offset = static_cast<std::size_t>(memory - begin_);
    const auto hole = holes_.emplace(offset, bytes).first;
    const auto after = std::next(hole);
    if (after != holes_.end() && hole->first + hole->second == after->first) {
      hole->second += after->second;
      holes_.erase(after);
    }
    if (hole == holes_.begin()) return;
    const auto before = std::prev(hole);
    if (before->first + before->second != hole->first) return;
    before->second += hole->second;
    holes_.erase(hole);
  }

  void open() {
    if (open_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    if (--open_ == 0) protect(PROT_NONE);
  }

 private:
  static constexpr std::size_t kBytes = std::size_t{4} << 30;

  Arena() : page_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
    void* memory =
        mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("no room for the emulated device's memory");
    begin_ = static_cast<unsigned char*>(memory);
    holes_[0] = kBytes;
    struct sigaction action = {};
    action.sa_sigaction = explain;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, &previous_);
  }

  void protect(int access) const {
    if (used_ > 0 && mprotect(begin_, used_, access) != 0) std::abort();
  }

  /// Says what happened and lets it happen again, under whoever listened before.
  static void explain(int, siginfo_t* info, void*) {
    const Arena& arena = instance();
    const auto* address = static_cast<const unsigned char*>(info->si_addr);
    if (address >= arena.begin_ && address < arena.begin_ + kBytes) {
      constexpr char kMessage[] = "the processor touched memory of the emulated GPU\n";
      if (write(STDERR_FILENO, kMessage, sizeof kMessage - 1) < 0) std::abort();
    }
    sigaction(SIGSEGV, &arena.previous_, nullptr);
  }

  std::size_t page_;
  unsigned char* begin_ = nullptr;
  std::size_t used_ = 0;  ///< no byte behind it was ever taken
  int open_ = 0;
  std::map<std::size_t, std::size_t> holes_;  ///< bytes by offset
  struct sigaction previous_ = {};
};

struct Allocation {
  std::size_t bytes = 0;
  unsigned char* block = nullptr;  ///< begins where the border before it begins; the end is exact
  std::size_t block_bytes = 0;
};
using Allocations = std::map<const void*, Allocation>;
Allocations& allocations() {
  static Allocations all;
  return all;
}
std::size_t allocated_bytes = 0;  ///< the sum over allocations()
Allocations& pinned() {
  static Allocations all;
  return all;
}
/// LibTorch's backward and a server's engine run in threads of their own.
std::recursive_mutex& memory_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}
using Lock = std::lock_guard<std::recursive_mutex>;

bool holds(const Allocations& all, const void* memory, std::size_t bytes) {
  auto after = all.upper_bound(memory);
  if (after == all.begin()) return false;
  const auto& [begin, allocation] = *std::prev(after);
  const auto offset = static_cast<const char*>(memory) - static_cast<const char*>(begin);
  return static_cast<std::size_t>(offset) + bytes <= allocation.bytes;
}
bool fits_device(const void* target, const void* source, std::size_t bytes, cudaMemcpyKind kind) {
  const bool to = kind == cudaMemcpyDeviceToHost || holds(allocations(), target, bytes);
  const bool from = kind == cudaMemcpyHostToDevice || holds(allocations(), source, bytes);
  return bytes == 0 || (to && from);
}

void mark(unsigned char* border, std::size_t bytes) {
  std::memset(border, kMark, bytes);
  poison(border, bytes);
}
bool marked(const unsigned char* border, std::size_t bytes) {
  unpoison(border, bytes);
  return std::all_of(border, border + bytes, [](unsigned char x) { return x == kMark; });
}

/// A copy from or to pinned memory that the host has not waited for.
struct UnderWay {
  unsigned char* host;
  bool to_host;
  std::vector<unsigned char> bytes;
};
std::vector<UnderWay>& copies_under_way() {
  static std::vector<UnderWay> all;
  return all;
}
void finish(const UnderWay& copy) {
  if (copy.to_host)
    std::memcpy(copy.host, copy.bytes.data(), copy.bytes.size());
  else if (std::memcmp(copy.host, copy.bytes.data(), copy.bytes.size()) != 0)
    throw std::logic_error("pinned memory was changed while the GPU copied from it");
}

}  // namespace

emulator::DeviceAccess::DeviceAccess() {
  const Lock lock(memory_mutex());
  Arena::instance().open();
}
emulator::DeviceAccess::~DeviceAccess() {
  const Lock lock(memory_mutex());
  Arena::instance().close();
}

bool emulator::on_device(const void* memory, std::size_t bytes) {
  const Lock lock(memory_mutex());
  return holds(allocations(), memory, bytes);
}
bool emulator::is_pinned(const void* memory) {
  const Lock lock(memory_mutex());
  return holds(pinned(), memory, 1);
}
std::size_t emulator::used_memory() {
  const Lock lock(memory_mutex());
  return allocated_bytes;
}
void emulator::finish_copies() {
  const Lock lock(memory_mutex());
  for (const UnderWay& copy : std::exchange(copies_under_way(), {})) finish(copy);
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = emulated_memory_bytes;
  *free = emulated_memory_bytes - std::min(emulator::used_memory(), emulated_memory_bytes);
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  if (emulator::captures()) return cudaErrorStreamCaptureUnsupported;
  const Lock lock(memory_mutex());
  if (emulator::used_memory() + bytes > emulated_memory_bytes) return cudaErrorMemoryAllocation;
  const std::size_t whole = rounded_up(bytes + 2 * kBorder, kBorder);
  const emulator::DeviceAccess access;
  unsigned char* block = Arena::instance().take(whole);
  if (!block) return cudaErrorMemoryAllocation;
  unpoison(block, whole);
  std::memset(block + kBorder, kNothing, bytes);
  mark(block, kBorder);
  mark(block + kBorder + bytes, kBorder);
  *memory = block + kBorder;
  allocations()[*memory] = {bytes, block, whole};
  allocated_bytes += bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  if (emulator::captures()) return cudaErrorStreamCaptureUnsupported;
  const Lock lock(memory_mutex());
  const auto found = allocations().find(memory);
  if (found == allocations().end()) return memory ? cudaErrorInvalidValue : cudaSuccess;
  const auto [bytes, block, whole] = found->second;
  allocations().erase(found);
  allocated_bytes -= bytes;
  const emulator::DeviceAccess access;
  const bool before = marked(block, kBorder), after = marked(block + kBorder + bytes, kBorder);
  unpoison(block, whole);
  std::memset(block, kNothing, whole);
  poison(block, whole);
  Arena::instance().give_back(block, whole);
  return before && after ? cudaSuccess : cudaErrorIllegalAddress;
}
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  if (emulator::captures()) return cudaErrorStreamCaptureUnsupported;
  const Lock lock(memory_mutex());
  *memory = std::malloc(std::max<std::size_t>(bytes, 1));
  pinned()[*memory] = {bytes, nullptr, 0};
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  const Lock lock(memory_mutex());
  if (memory) emulator::finish_copies();
  pinned().erase(memory);
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* target, const void* source, std::size_t bytes, cudaMemcpyKind kind) {
  if (emulator::captures()) return cudaErrorStreamCaptureUnsupported;
  const Lock lock(memory_mutex());
  emulator::finish_copies();
  if (!fits_device(target, source, bytes, kind)) return cudaErrorInvalidValue;
  const emulator::DeviceAccess access;
  if (bytes) std::memcpy(target, source, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t stream) {
  const Lock lock(memory_mutex());
  const bool host = kind == cudaMemcpyDeviceToDevice ||
                    holds(pinned(), kind == cudaMemcpyHostToDevice ? source : target, bytes);
  if (!host || !fits_device(target, source, bytes, kind)) return cudaErrorInvalidValue;
  emulator::enqueue(stream, [=] {
    const Lock copies(memory_mutex());
    const emulator::DeviceAccess access;
    const auto* from = static_cast<const unsigned char*>(source);
    const bool to_host = kind == cudaMemcpyDeviceToHost;
    if (kind != cudaMemcpyDeviceToDevice) {
      const void* memory = to_host ? target : source;
      copies_under_way().push_back(
          {static_cast<unsigned char*>(const_cast<void*>(memory)), to_host, {from, from + bytes}});
    }
    // What the host gets comes when it is waited for.
    if (to_host)
      std::memset(target, kNothing, bytes);
    else
      std::memcpy(target, source, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) {
  if (emulator::captures()) return cudaErrorStreamCaptureUnsupported;
  const Lock lock(memory_mutex());
  if (!holds(allocations(), memory, bytes)) return cudaErrorInvalidValue;
  const emulator::DeviceAccess access;
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
