// Owns the softmax cross entropy of rows on a GPU, in place: logits in, gradient out; the CUDA counterpart of
// cpu/row.h. One block per row: an online softmax reads the row once (Milakov and Gimelshein,
// arXiv 1805.02867), a second pass writes the gradient. It must not depend on libtorch.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace {

constexpr int kThreads = 512;

__device__ float widen(float x) { return x; }
__device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ void narrow(float x, float* to) { *to = x; }
__device__ void narrow(float x, __nv_bfloat16* to) { *to = __float2bfloat16(x); }

// 16 bytes, the widest access of a thread.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kWidth = 16 / sizeof(T);
  T values[kWidth];
};

// Maximum of a set and the sum of exp(x - maximum) over it.
struct Softmax {
  float largest;
  float sum;
};

// What to subtract for a maximum: of nothing it is -inf, and -inf - -inf is NaN.
__device__ float finite(float largest) { return largest == -INFINITY ? 0.0f : largest; }

__device__ Softmax join(Softmax a, Softmax b) {
  const float largest = fmaxf(a.largest, b.largest), base = finite(largest);
  return {largest, a.sum * expf(a.largest - base) + b.sum * expf(b.largest - base)};
}

// Rows are `packs` packs long; what lies in them behind `vocabulary` is padding, whose gradient is zero.
template <typename T>
__global__ void cross_entropy(Pack<T>* logits, const int64_t* targets, float* losses, int packs, int vocabulary,
                              int64_t ignored, float scale) {
  constexpr int kWidth = Pack<T>::kWidth;
  Pack<T>* row = logits + static_cast<int64_t>(blockIdx.x) * packs;
  const int64_t target = targets[blockIdx.x];
  const bool counts = target != ignored;
  __shared__ Softmax warps[kThreads / 32];
  __shared__ float wanted;
  Softmax all{0.0f, 1.0f};
  if (counts) {
    Softmax mine{-INFINITY, 0.0f};
    for (int i = threadIdx.x; i < packs; i += kThreads) {
      const Pack<T> pack = row[i];
      float values[kWidth];
      float largest = mine.largest;
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        values[j] = i * kWidth + j < vocabulary ? widen(pack.values[j]) : -INFINITY;
        largest = fmaxf(largest, values[j]);
      }
      const float base = finite(largest);
      float sum = mine.sum * expf(mine.largest - base);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) sum += expf(values[j] - base);
      mine = {largest, sum};
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      mine = join(mine, {__shfl_xor_sync(~0u, mine.largest, offset), __shfl_xor_sync(~0u, mine.sum, offset)});
    }
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
    if (threadIdx.x == 0) wanted = widen(row[target / kWidth].values[target % kWidth]);
    __syncthreads();
    all = warps[0];
    for (int i = 1; i < kThreads / 32; ++i) all = join(all, warps[i]);
  }
  if (threadIdx.x == 0) losses[blockIdx.x] = counts ? logf(all.sum) + all.largest - wanted : 0.0f;
  const float factor = scale / all.sum;
  for (int i = threadIdx.x; i < packs; i += kThreads) {
    Pack<T> pack = row[i];
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const int index = i * kWidth + j;
      float gradient = 0.0f;
      if (counts && index < vocabulary) {
        gradient = expf(widen(pack.values[j]) - all.largest) * factor - (index == target ? scale : 0.0f);
      }
      narrow(gradient, &pack.values[j]);
    }
    row[i] = pack;
  }
}

template <typename T>
void launch(void* logits, const int64_t* targets, float* losses, int64_t rows, int64_t stride, int64_t vocabulary,
            int64_t ignored, float scale) {
  cross_entropy<<<static_cast<unsigned>(rows), kThreads>>>(
      static_cast<Pack<T>*>(logits), targets, losses, static_cast<int>(stride / Pack<T>::kWidth),
      static_cast<int>(vocabulary), ignored, scale);
}

}  // namespace

// Launches on the default stream, which is the one libtorch uses unless told otherwise, over device memory: logits
// [rows, stride] (FP32, or BF16 when `bf16`) of which the first `vocabulary` columns count, targets [rows], losses
// [rows]. The logits lie at an address that 16 divides, as does the length of a row in bytes. Returns nullptr or the
// error's text.
extern "C" const char* bessemer_cuda_cross_entropy(void* logits, const int64_t* targets, float* losses, int64_t rows,
                                                   int64_t stride, int64_t vocabulary, int64_t ignored, float scale,
                                                   bool bf16) {
  if (rows == 0) return nullptr;
  (bf16 ? launch<__nv_bfloat16> : launch<float>)(logits, targets, losses, rows, stride, vocabulary, ignored, scale);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
