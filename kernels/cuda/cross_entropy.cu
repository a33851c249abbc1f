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

// A row in three parts, since a vocabulary need not be a multiple of the width: single values up to the first address
// that 16 divides, packs, single values.
template <typename T>
struct Row {
  T* values;
  Pack<T>* packs;
  int64_t head, count, tail, length;

  __device__ Row(T* row, int64_t vocabulary) : values(row), length(vocabulary) {
    const auto past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(T));
    head = past == 0 ? 0 : min(Pack<T>::kWidth - past, vocabulary);
    count = (vocabulary - head) / Pack<T>::kWidth;
    tail = head + count * Pack<T>::kWidth;
    packs = reinterpret_cast<Pack<T>*>(row + head);
  }

  // `single(value&)` for what the thread takes of head and tail, `whole(pack)` for what it takes of the packs.
  template <typename Single, typename Whole>
  __device__ void each(Single single, Whole whole) const {
    for (int64_t i = threadIdx.x; i < head; i += kThreads) single(values[i], i);
    for (int64_t i = threadIdx.x; i < count; i += kThreads) whole(packs[i], head + i * Pack<T>::kWidth);
    for (int64_t i = tail + threadIdx.x; i < length; i += kThreads) single(values[i], i);
  }
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

template <typename T>
__global__ void cross_entropy(T* logits, const int64_t* targets, float* losses, int64_t vocabulary, int64_t ignored,
                              float scale) {
  constexpr int kWidth = Pack<T>::kWidth;
  T* start = logits + blockIdx.x * vocabulary;
  const Row<T> row(start, vocabulary);
  const int64_t target = targets[blockIdx.x];
  if (target == ignored) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0.0f;
    row.each([](T& value, int64_t) { narrow(0.0f, &value); },
             [](Pack<T>& pack, int64_t) {
               Pack<T> zeros;
#pragma unroll
               for (int j = 0; j < kWidth; ++j) narrow(0.0f, &zeros.values[j]);
               pack = zeros;
             });
    return;
  }
  Softmax mine{-INFINITY, 0.0f};
  row.each([&](const T& value, int64_t) { mine = join(mine, {widen(value), 1.0f}); },
           [&](const Pack<T>& at, int64_t) {
             const Pack<T> pack = at;
             float largest = mine.largest;
#pragma unroll
             for (int j = 0; j < kWidth; ++j) largest = fmaxf(largest, widen(pack.values[j]));
             const float base = finite(largest);
             float sum = mine.sum * expf(mine.largest - base);
#pragma unroll
             for (int j = 0; j < kWidth; ++j) sum += expf(widen(pack.values[j]) - base);
             mine = {largest, sum};
           });
  for (int offset = 16; offset > 0; offset /= 2) {
    mine = join(mine, {__shfl_xor_sync(~0u, mine.largest, offset), __shfl_xor_sync(~0u, mine.sum, offset)});
  }
  __shared__ Softmax warps[kThreads / 32];
  __shared__ float wanted;
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
  if (threadIdx.x == 0) wanted = widen(start[target]);
  __syncthreads();
  Softmax all = warps[0];
  for (int i = 1; i < kThreads / 32; ++i) all = join(all, warps[i]);
  if (threadIdx.x == 0) losses[blockIdx.x] = logf(all.sum) + all.largest - wanted;
  const float factor = scale / all.sum;
  const auto gradient = [&](float logit, int64_t i) {
    const float probability = expf(logit - all.largest) * factor;
    return i == target ? probability - scale : probability;
  };
  row.each([&](T& value, int64_t i) { narrow(gradient(widen(value), i), &value); },
           [&](Pack<T>& at, int64_t first) {
             Pack<T> pack = at;
#pragma unroll
             for (int j = 0; j < kWidth; ++j) narrow(gradient(widen(pack.values[j]), first + j), &pack.values[j]);
             at = pack;
           });
}

}  // namespace

// Launches on the default stream, which is the one libtorch uses unless told otherwise, over device memory: logits
// [rows, vocabulary] (FP32, or BF16 when `bf16`), targets [rows], losses [rows]. Returns nullptr or the error's text.
extern "C" const char* bessemer_cuda_cross_entropy(void* logits, const int64_t* targets, float* losses, int64_t rows,
                                                   int64_t vocabulary, int64_t ignored, float scale, bool bf16) {
  if (rows == 0) return nullptr;
  const auto blocks = static_cast<unsigned>(rows);
  if (bf16) {
    cross_entropy<<<blocks, kThreads>>>(static_cast<__nv_bfloat16*>(logits), targets, losses, vocabulary, ignored,
                                        scale);
  } else {
    cross_entropy<<<blocks, kThreads>>>(static_cast<float*>(logits), targets, losses, vocabulary, ignored, scale);
  }
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
