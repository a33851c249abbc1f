// Owns the softmax cross entropy of one row, in place: logits in, gradient out. It must not know tensors.
//
// Vectors are GCC's portable ones; the caller is compiled once per instruction set (target_clones), so the
// same source becomes AVX-512, AVX2 or SSE2 code.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace bessemer {

typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t IntLanes __attribute__((vector_size(64), aligned(4), may_alias));
constexpr int64_t kLanes = 16;

#define BESSEMER_INLINE inline __attribute__((always_inline))

// exp for x <= 0: x = n ln 2 + r, a polynomial of degree 6 for exp(r) (Cephes), 2^n by its bits. The relative
// error is below 2e-7. NaN stays NaN; below -87 the result is that of -87 (1.6e-38).
BESSEMER_INLINE void exponential(Lanes& x) {
  const Lanes low = Lanes{} - 87.0f;
  x = x < low ? low : x;
  const IntLanes n = __builtin_convertvector(x * 1.44269504088896341f - 0.5f, IntLanes);
  const Lanes whole = __builtin_convertvector(n, Lanes);
  const Lanes r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  Lanes p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const IntLanes bits = (n + 127) << 23;
  Lanes power;
  std::memcpy(&power, &bits, sizeof(power));
  x = p * power;
}

// Replaces `row` (n logits) by scale * (softmax - onehot(target)) and returns logsumexp - logit of the target.
// The order of the sums depends only on n.
BESSEMER_INLINE float cross_entropy_row(float* row, int64_t n, int64_t target, float scale, bool gradient) {
  const float wanted = row[target];
  const int64_t whole = n - n % kLanes;
  float largest = row[0];
  if (whole > 0) {
    Lanes best;
    std::memcpy(&best, row, sizeof(best));
    for (int64_t i = kLanes; i < whole; i += kLanes) {
      Lanes x;
      std::memcpy(&x, row + i, sizeof(x));
      best = x > best ? x : best;
    }
    for (int64_t i = 0; i < kLanes; ++i) largest = best[i] > largest ? best[i] : largest;
  }
  for (int64_t i = whole; i < n; ++i) largest = row[i] > largest ? row[i] : largest;

  Lanes sums{};
  for (int64_t i = 0; i < whole; i += kLanes) {
    Lanes x;
    std::memcpy(&x, row + i, sizeof(x));
    x = x - largest;
    exponential(x);
    sums += x;
    std::memcpy(row + i, &x, sizeof(x));
  }
  if (whole < n) {
    Lanes x = Lanes{} - 200.0f;
    std::memcpy(&x, row + whole, (n - whole) * sizeof(float));
    x = x - largest;
    exponential(x);
    float tail[kLanes];
    std::memcpy(tail, &x, sizeof(tail));
    for (int64_t i = whole; i < n; ++i) {
      row[i] = tail[i - whole];
      sums[i - whole] += tail[i - whole];
    }
  }
  double sum = 0.0;
  for (int64_t i = 0; i < kLanes; ++i) sum += sums[i];

  if (gradient) {
    const float factor = static_cast<float>(scale / sum);
    for (int64_t i = 0; i < n; ++i) row[i] *= factor;
    row[target] -= scale;
  }
  return static_cast<float>(std::log(sum) + largest - wanted);
}

}  // namespace bessemer
