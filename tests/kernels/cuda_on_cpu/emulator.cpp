#include <cuda_runtime.h>

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {
namespace {

constexpr int kWarp = 32, kMaxWarps = 32;
constexpr std::size_t kStackBytes = 128 << 10;

enum class State { kRuns, kAtBlockBarrier, kAtWarpOperation, kEnded };

/// A stack that execution can move to, known to AddressSanitizer.
struct Context {
  ucontext_t registers = {};
  jmp_buf resume_at = {};
  bool begun = false;
  const void* stack = nullptr;
  std::size_t stack_bytes = 0;
  void* shadow = nullptr;
};

#if defined(__SANITIZE_ADDRESS__)
void switch_stacks(Context& from, Context& to) {
  __sanitizer_start_switch_fiber(&from.shadow, to.stack, to.stack_bytes);
  swapcontext(&from.registers, &to.registers);
  __sanitizer_finish_switch_fiber(from.shadow, nullptr, nullptr);
}
#else
/// A stack is entered once by setcontext; jumps between those that run spare the system calls.
void switch_stacks(Context& from, Context& to) {
  from.begun = true;
  if (_setjmp(from.resume_at)) return;
  if (to.begun) _longjmp(to.resume_at, 1);
  setcontext(&to.registers);
}
#endif

/// One thread of a block, and of the next one.
struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  State state = State::kRuns;
  Site site = {};
  unsigned mask = 0;
  std::uint64_t value = 0;
};

std::string describe(Site site) {
  return std::string(site.file) + ":" + std::to_string(site.line);
}
bool same(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || std::string_view(a.file) == b.file);
}

/// The threads of one block at a time.
class Machine {
 public:
  void run_grid(dim3 grid, dim3 block, const std::function<void()>& kernel);
  void wait(State state, Site site, unsigned mask, std::uint64_t value) {
    Fiber& fiber = fibers_[current_];
    fiber.state = state;
    fiber.site = site;
    fiber.mask = mask;
    fiber.value = value;
    switch_stacks(fiber.context, scheduler_);
  }
  const std::uint64_t* received() const { return received_[current_ / kWarp].data(); }
  int lane() const { return static_cast<int>(current_ % kWarp); }
  [[noreturn]] void fail(const char* what, Site site) {
    failure_ = what;  // no string: what is on this stack is never destroyed
    fibers_[current_].site = site;
    switch_stacks(fibers_[current_].context, scheduler_);
    std::abort();  // nobody resumes a thread of a launch that failed
  }

 private:
  static void enter();
  void run_block(const std::vector<std::size_t>& warps, const std::vector<std::size_t>& lanes);
  void run_warp(std::size_t base, const std::vector<std::size_t>& lanes);
  static void make(Fiber& fiber);
  void resume(std::size_t thread);
  bool have_met(std::size_t base, std::size_t first) const;
  bool release_lanes(std::size_t base);
  bool release_block();
  [[noreturn]] void stuck();
  [[noreturn]] void throw_failure(const std::string& message);
  std::vector<std::size_t> order_of(std::size_t count);

  /// By warp, what its lanes handed to each other last: all of them run on before the next time.
  std::array<std::array<std::uint64_t, kWarp>, kMaxWarps> received_ = {};
  std::deque<Fiber> fibers_;  // as many as the largest block had; contexts stay where they are
  std::size_t threads_ = 0, current_ = 0;
  Context scheduler_;
  const std::function<void()>* kernel_ = nullptr;
  const char* failure_ = nullptr;
  std::mt19937 random_{20240710};
  unsigned launches_ = 0;
};

Machine the_machine;  // no static of a function: every lane asks for it at every step
Machine& machine() {
  return the_machine;
}

std::vector<std::size_t> Machine::order_of(std::size_t count) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (launches_ % 3 == 1) std::reverse(order.begin(), order.end());
  if (launches_ % 3 == 2) std::shuffle(order.begin(), order.end(), random_);
  return order;
}

void Machine::run_grid(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  ++launches_;
  gridDim = grid;
  blockDim = block;
  kernel_ = &kernel;
  threads_ = block.x;
  for (; fibers_.size() < threads_; make(fibers_.back())) fibers_.emplace_back();
  const auto warps = order_of((threads_ + kWarp - 1) / kWarp), lanes = order_of(kWarp);
  for (std::size_t index : order_of(std::size_t{grid.x} * grid.y * grid.z)) {
    blockIdx = {static_cast<unsigned>(index % grid.x),
                static_cast<unsigned>(index / grid.x % grid.y),
                static_cast<unsigned>(index / grid.x / grid.y)};
    run_block(warps, lanes);
  }
}

void Machine::enter() {
#if defined(__SANITIZE_ADDRESS__)
  Context& scheduler = machine().scheduler_;
  __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack, &scheduler.stack_bytes);
#endif
  for (;;) {
    (*machine().kernel_)();
    machine().wait(State::kEnded, {}, 0, 0);  // until the next block begins
  }
}

void Machine::make(Fiber& fiber) {
  fiber.stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
  fiber.context.stack = fiber.stack.get();
  fiber.context.stack_bytes = kStackBytes;
  getcontext(&fiber.context.registers);
  fiber.context.registers.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.registers.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber.context.registers, &Machine::enter, 0);
}

void Machine::run_block(const std::vector<std::size_t>& warps,
                        const std::vector<std::size_t>& lanes) {
  if (__start_emulated_shared) {
    std::memset(__start_emulated_shared, 0xFF,
                static_cast<std::size_t>(__stop_emulated_shared - __start_emulated_shared));
  }
  for (std::size_t thread = 0; thread < threads_; ++thread) fibers_[thread].state = State::kRuns;
  do {
    for (std::size_t warp : warps) run_warp(warp * kWarp, lanes);
  } while (release_block());
  const auto ended = [](const Fiber& fiber) { return fiber.state == State::kEnded; };
  if (!std::all_of(fibers_.begin(), fibers_.begin() + static_cast<std::ptrdiff_t>(threads_), ended))
    stuck();
}

/// As far as the warp gets without the others: a barrier that is missing lets it run ahead of them.
void Machine::run_warp(std::size_t base, const std::vector<std::size_t>& lanes) {
  do {
    for (std::size_t lane : lanes) {
      if (base + lane < threads_ && fibers_[base + lane].state == State::kRuns) resume(base + lane);
    }
  } while (release_lanes(base));
}

/// Runs a thread until it waits or ends.
void Machine::resume(std::size_t thread) {
  current_ = thread;
  threadIdx = {static_cast<unsigned>(thread), 0, 0};
  switch_stacks(scheduler_, fibers_[thread].context);
  if (!failure_) return;
  throw_failure("thread " + std::to_string(thread) + " " + std::exchange(failure_, nullptr) +
                " at " + describe(fibers_[thread].site));
}

/// Whether all lanes of the first one's mask wait where it does.
bool Machine::have_met(std::size_t base, std::size_t first) const {
  const Fiber& waits = fibers_[base + first];
  for (std::size_t lane = 0; lane < kWarp; ++lane) {
    if (!(waits.mask >> lane & 1)) continue;
    if (base + lane >= threads_) return false;
    const Fiber& other = fibers_[base + lane];
    if (other.state != State::kAtWarpOperation || other.mask != waits.mask ||
        !same(other.site, waits.site))
      return false;
  }
  return true;
}

/// Lets the lanes of a warp go that have all met at one operation.
bool Machine::release_lanes(std::size_t base) {
  bool released = false;
  for (std::size_t first = 0; first < kWarp && base + first < threads_; ++first) {
    if (fibers_[base + first].state != State::kAtWarpOperation || !have_met(base, first)) continue;
    const unsigned mask = fibers_[base + first].mask;
    for (std::size_t lane = first; lane < kWarp; ++lane) {
      if (!(mask >> lane & 1)) continue;
      Fiber& fiber = fibers_[base + lane];
      received_[base / kWarp][lane] = fiber.value;
      fiber.state = State::kRuns;
    }
    released = true;
  }
  return released;
}

bool Machine::release_block() {
  for (std::size_t thread = 0; thread < threads_; ++thread) {
    const Fiber& fiber = fibers_[thread];
    if (fiber.state != State::kAtBlockBarrier || !same(fiber.site, fibers_[0].site)) return false;
  }
  for (std::size_t thread = 0; thread < threads_; ++thread) fibers_[thread].state = State::kRuns;
  return true;
}

void Machine::stuck() {
  std::map<std::string, int> waiting;
  for (std::size_t thread = 0; thread < threads_; ++thread) {
    const Fiber& fiber = fibers_[thread];
    const bool at_block = fiber.state == State::kAtBlockBarrier;
    ++waiting[fiber.state == State::kEnded
                  ? std::string("have ended")
                  : (at_block ? "wait for the block at " : "wait for their warp at ") +
                        describe(fiber.site)];
  }
  std::string message = "threads wait for others that never come:";
  for (const auto& [what, count] : waiting)
    message += " " + std::to_string(count) + " " + what + ";";
  throw_failure(message);
}

void Machine::throw_failure(const std::string& message) {
  fibers_.clear();  // they stand somewhere inside of the kernel
  throw std::logic_error(message);
}

}  // namespace

void launch(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  const DeviceAccess access;
  machine().run_grid(grid, block, kernel);
}
void block_barrier(Site site) {
  machine().wait(State::kAtBlockBarrier, site, 0, 0);
}
const std::uint64_t* exchange(Site site, unsigned mask, std::uint64_t value) {
  if (!(mask >> lane() & 1)) fail("calls with a mask that leaves out its own lane", site);
  machine().wait(State::kAtWarpOperation, site, mask, value);
  return machine().received();
}
void fail(const char* what, Site site) {
  machine().fail(what, site);
}
int lane() {
  return machine().lane();
}

}  // namespace emulator

cudaError_t emulated_check(const cudaLaunchConfig_t& config) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  const bool good = block.x > 0 && block.x <= 1024 && block.y == 1 && block.z == 1 && grid.x > 0 &&
                    grid.x <= 0x7FFFFFFFu && grid.y > 0 && grid.y <= 65535 && grid.z > 0 &&
                    grid.z <= 65535;
  return good ? cudaSuccess : cudaErrorInvalidConfiguration;
}
