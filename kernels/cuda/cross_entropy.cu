// Owns the softmax cross entropy of rows on a GPU, in place: logits in, gradient out; the CUDA counterpart of
// cpu/row.h. One block per row: an online softmax reads the row once (Milakov and Gimelshein,
// arXiv 1805.02867), a second pass writes the gradient. It must not depend on libtorch.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>

namespace {

constexpr int kThreads = 256;

__device__ float load(const float* values, int64_t i) { return values[i]; }
__device__ float load(const __nv_bfloat16* values, int64_t i) { return __bfloat162float(values[i]); }
__device__ void store(float* values, int64_t i, float x) { values[i] = x; }
__device__ void store(__nv_bfloat16* values, int64_t i, float x) { values[i] = __float2bfloat16(x); }

// Maximum of a set and the sum of exp(x - maximum) over it.
struct Softmax {
  float largest;
  float sum;
};

__device__ Softmax join(Softmax a, Softmax b) {
  const float largest = fmaxf(a.largest, b.largest);
  if (largest == -INFINITY) return {largest, 0.0f};
  return {largest, a.sum * expf(a.largest - largest) + b.sum * expf(b.largest - largest)};
}

template <typename T>
__global__ void cross_entropy(T* logits, const int64_t* targets, float* losses, int64_t vocabulary, int64_t ignored,
                              float scale) {
  T* row = logits + blockIdx.x * vocabulary;
  const int64_t target = targets[blockIdx.x];
  if (target == ignored) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0.0f;
    for (int64_t i = threadIdx.x; i < vocabulary; i += kThreads) store(row, i, 0.0f);
    return;
  }
  Softmax mine{-INFINITY, 0.0f};
  for (int64_t i = threadIdx.x; i < vocabulary; i += kThreads) mine = join(mine, {load(row, i), 1.0f});
  for (int offset = 16; offset > 0; offset /= 2) {
    mine = join(mine, {__shfl_xor_sync(~0u, mine.largest, offset), __shfl_xor_sync(~0u, mine.sum, offset)});
  }
  __shared__ Softmax warps[kThreads / 32];
  __shared__ float wanted;
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
  if (threadIdx.x == 0) wanted = load(row, target);
  __syncthreads();
  Softmax all = warps[0];
  for (int i = 1; i < kThreads / 32; ++i) all = join(all, warps[i]);
  if (threadIdx.x == 0) losses[blockIdx.x] = logf(all.sum) + all.largest - wanted;
  const float factor = scale / all.sum;
  for (int64_t i = threadIdx.x; i < vocabulary; i += kThreads) {
    const float probability = expf(load(row, i) - all.largest) * factor;
    store(row, i, i == target ? probability - scale : probability);
  }
}

const char* word(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

}  // namespace

extern "C" {

// Devices that can be used; 0 with a reason in *problem when there is none.
int bessemer_cuda_devices(const char** problem) {
  int count = 0;
  *problem = word(cudaGetDeviceCount(&count));
  return *problem == nullptr ? count : 0;
}

// Launches on `stream` over device memory: logits [rows, vocabulary] (FP32, or BF16 when `bf16`), targets [rows],
// losses [rows]. Returns nullptr or the error's text.
const char* bessemer_cuda_cross_entropy(void* logits, const int64_t* targets, float* losses, int64_t rows,
                                        int64_t vocabulary, int64_t ignored, float scale, bool bf16,
                                        cudaStream_t stream) {
  if (rows == 0) return nullptr;
  const auto blocks = static_cast<unsigned>(rows);
  if (bf16) {
    cross_entropy<<<blocks, kThreads, 0, stream>>>(static_cast<__nv_bfloat16*>(logits), targets, losses, vocabulary,
                                                   ignored, scale);
  } else {
    cross_entropy<<<blocks, kThreads, 0, stream>>>(static_cast<float*>(logits), targets, losses, vocabulary, ignored,
                                                   scale);
  }
  return word(cudaGetLastError());
}

// The same over host memory: copies in, runs, copies back. For tests on machines whose libtorch has no CUDA.
const char* bessemer_cuda_cross_entropy_host(void* logits, const int64_t* targets, float* losses, int64_t rows,
                                             int64_t vocabulary, int64_t ignored, float scale, bool bf16) {
  const size_t bytes = rows * vocabulary * (bf16 ? 2 : 4);
  void* device_logits = nullptr;
  int64_t* device_targets = nullptr;
  float* device_losses = nullptr;
  const char* problem = nullptr;
  const auto step = [&](cudaError_t error) {
    if (problem == nullptr) problem = word(error);
    return problem == nullptr;
  };
  if (step(cudaMalloc(&device_logits, bytes)) && step(cudaMalloc(&device_targets, rows * sizeof(int64_t))) &&
      step(cudaMalloc(&device_losses, rows * sizeof(float))) &&
      step(cudaMemcpy(device_logits, logits, bytes, cudaMemcpyHostToDevice)) &&
      step(cudaMemcpy(device_targets, targets, rows * sizeof(int64_t), cudaMemcpyHostToDevice))) {
    problem = bessemer_cuda_cross_entropy(device_logits, device_targets, device_losses, rows, vocabulary, ignored,
                                          scale, bf16, nullptr);
    step(cudaMemcpy(logits, device_logits, bytes, cudaMemcpyDeviceToHost));
    step(cudaMemcpy(losses, device_losses, rows * sizeof(float), cudaMemcpyDeviceToHost));
  }
  cudaFree(device_logits);
  cudaFree(device_targets);
  cudaFree(device_losses);
  return problem;
}

}  // extern "C"
