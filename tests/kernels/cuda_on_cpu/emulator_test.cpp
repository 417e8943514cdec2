#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

// The emulator itself: it must find what the tests of the kernels rely on it to find.
namespace {

template <class Kernel, class... Arguments>
cudaError_t run(int blocks, int threads, Kernel* kernel, Arguments... arguments) {
  cudaLaunchConfig_t config;
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <class Kernel>
std::string failure_of(int threads, Kernel* kernel, int* out) {
  try {
    run(1, threads, kernel, out);
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "no failure";
}

void reverse(int* x) {
  __shared__ int shared[64];
  shared[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
  __syncthreads();
  x[blockIdx.x * 64 + threadIdx.x] = shared[63 - threadIdx.x];
}

TEST(CudaOnCpu, SharedMemoryAndBarriersWorkInEveryOrder) {
  for (int launch = 0; launch < 6; ++launch) {
    std::vector<int> x(192), expected(192);
    for (int i = 0; i < 192; ++i) x[i] = i, expected[i] = i / 64 * 64 + 63 - i % 64;
    ASSERT_EQ(run(3, 64, reverse, x.data()), cudaSuccess);
    EXPECT_EQ(x, expected);
  }
}

struct AlignedInts {
  alignas(256) int values[64];
};
void address_by_bytes(int* x) {
  __shared__ AlignedInts shared;
  shared.values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  const auto base = static_cast<unsigned>(__cvta_generic_to_shared(shared.values));
  const unsigned address = __byte_perm(4 * (63 - threadIdx.x), base, 0x7650);
  x[threadIdx.x] = *static_cast<const int*>(__cvta_shared_to_generic(address));
}

TEST(CudaOnCpu, AddressesOfSharedMemoryAreNumbers) {
  std::vector<int> x(64), expected(64);
  for (int i = 0; i < 64; ++i) expected[i] = 63 - i;
  run(1, 64, address_by_bytes, x.data());
  EXPECT_EQ(x, expected);
  EXPECT_EQ(__byte_perm(0x33221100, 0x77665544, 0x7531), 0x77553311u);
  EXPECT_EQ(__byte_perm(0x33221100, 0x77665544, 0x0246), 0x00224466u);
}

void reverse_without_barrier(int* x) {
  __shared__ int shared[64];
  shared[threadIdx.x] = x[threadIdx.x];
  x[threadIdx.x] = shared[63 - threadIdx.x];
}

TEST(CudaOnCpu, AMissingBarrierShows) {
  std::vector<int> expected(64);
  for (int i = 0; i < 64; ++i) expected[i] = 63 - i;
  for (int launch = 0; launch < 6; ++launch) {
    std::vector<int> x(64);
    for (int i = 0; i < 64; ++i) x[i] = i;
    run(1, 64, reverse_without_barrier, x.data());
    EXPECT_NE(x, expected);
    EXPECT_THAT(x, ::testing::Contains(-1)) << "shared memory begins as garbage";
  }
}

void warp_operations(int* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const unsigned odd = __ballot_sync(0xFFFFFFFFu, lane % 2);
  const int swapped = __shfl_xor_sync(0xFFFFFFFFu, lane, 1);
  const int next = __shfl_down_sync(0xFFFFFFFFu, lane, 1);
  const int third = __shfl_sync(0xFFFFFFFFu, lane, 3, 16);
  if (lane < 8) __syncwarp(0xFF);
  const double total = __shfl_sync(0xFFFFFFFFu, 0.5 * lane, 31);
  const bool right = odd == 0xAAAAAAAAu && swapped == (lane ^ 1) &&
                     next == (lane < 31 ? lane + 1 : 31) && third == lane / 16 * 16 + 3 &&
                     total == 15.5;
  atomicAdd(out, static_cast<int>(right));
}

TEST(CudaOnCpu, WarpOperations) {
  int right = 0;
  for (int launch = 0; launch < 3; ++launch) run(2, 96, warp_operations, &right);
  EXPECT_EQ(right, 3 * 2 * 96);
}

void ends_early(int*) {
  if (threadIdx.x == 5) return;
  __syncthreads();
}
void two_barriers(int*) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
void half_a_warp(int* out) {
  if (threadIdx.x < 16) *out = __shfl_xor_sync(0xFFFFFFFFu, 1, 1);
}
void foreign_mask(int* out) {
  *out = __shfl_xor_sync(0xFFFFu, 1, 1);
}
void outside_of_mask(int* out) {
  if (threadIdx.x < 16) *out = __shfl_sync(0xFFFFu, 1, 20);
}

TEST(CudaOnCpu, FindsDivergence) {
  int out = 0;
  for (int launch = 0; launch < 3; ++launch) {
    EXPECT_THAT(failure_of(64, ends_early, &out),
                ::testing::HasSubstr("1 have ended; 63 wait for the block"));
    EXPECT_THAT(failure_of(64, two_barriers, &out),
                ::testing::HasSubstr("32 wait for the block at"));
    EXPECT_THAT(failure_of(32, half_a_warp, &out), ::testing::HasSubstr("16 wait for their warp"));
    EXPECT_THAT(failure_of(48, warp_operations, &out), ::testing::HasSubstr("wait for their warp"))
        << "half of a second warp";
    EXPECT_THAT(failure_of(32, foreign_mask, &out),
                ::testing::HasSubstr("leaves out its own lane"));
    EXPECT_THAT(failure_of(32, outside_of_mask, &out),
                ::testing::HasSubstr("lane outside of the mask"));
  }
  EXPECT_EQ(failure_of(64, reverse, std::vector<int>(64).data()), "no failure")
      << "after failures all is well";
}

void store_at(int* x) {
  x[-static_cast<int>(threadIdx.x) - 1] = 7;
}

TEST(CudaOnCpu, GuardsDeviceMemory) {
  void* memory = nullptr;
  ASSERT_EQ(cudaMalloc(&memory, 12), cudaSuccess);
  std::uint32_t first = 0;
  ASSERT_EQ(cudaMemcpy(&first, memory, sizeof first, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(first, 0xFFFFFFFFu) << "begins as NaN";
#if defined(__SANITIZE_ADDRESS__)
  EXPECT_DEATH(run(1, 1, store_at, static_cast<int*>(memory)), "AddressSanitizer");
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
#else
  run(1, 1, store_at, static_cast<int*>(memory));
  EXPECT_EQ(cudaFree(memory), cudaErrorIllegalAddress);
#endif
}

TEST(CudaOnCpu, TheProcessorCannotTouchDeviceMemory) {
  void* memory = nullptr;
  ASSERT_EQ(cudaMalloc(&memory, 12), cudaSuccess);
  EXPECT_DEATH(*static_cast<volatile int*>(memory) = 1, "touched memory of the emulated GPU");
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
}

TEST(CudaOnCpu, CopiesTakeUntilTheyAreWaitedFor) {
  void *memory = nullptr, *host = nullptr;
  ASSERT_EQ(cudaMalloc(&memory, sizeof(int)), cudaSuccess);
  ASSERT_EQ(cudaMallocHost(&host, sizeof(int)), cudaSuccess);
  int& value = *static_cast<int*>(host);
  value = 7;
  const auto copy = [&](cudaMemcpyKind kind) {
    const bool up = kind == cudaMemcpyHostToDevice;
    return cudaMemcpyAsync(up ? memory : host, up ? host : memory, sizeof(int), kind, nullptr);
  };
  ASSERT_EQ(copy(cudaMemcpyHostToDevice), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  value = 8;
  ASSERT_EQ(copy(cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(value, -1) << "nothing is there yet";
  ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  EXPECT_EQ(value, 7);
  ASSERT_EQ(copy(cudaMemcpyHostToDevice), cudaSuccess);
  value = 9;
  EXPECT_THROW(cudaStreamSynchronize(nullptr), std::logic_error);
  EXPECT_EQ(cudaFreeHost(host), cudaSuccess);
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
}

TEST(CudaOnCpu, RefusesWhatADeviceRefuses) {
  int out = 0;
  EXPECT_EQ(run(1, 1025, ends_early, &out), cudaErrorInvalidConfiguration);
  EXPECT_EQ(run(0, 32, ends_early, &out), cudaErrorInvalidConfiguration);
}

}  // namespace
