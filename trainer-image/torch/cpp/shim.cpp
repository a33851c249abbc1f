// Owns the C entry points for what libtorch has and tch does not bind: fused AdamW, foreach norms,
// dropping gradients, the determinism switch, its CUDA part. Exceptions end as in guard.hpp.

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/GradMode.h>
#include <dlfcn.h>
#include <vector>

#include "guard.hpp"

namespace {

using bessemer::guarded;
using Handle = at::Tensor*;

std::vector<at::Tensor> list(const Handle* handles, size_t count) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(count);
  for (size_t i = 0; i < count; ++i) tensors.push_back(*handles[i]);
  return tensors;
}

}  // namespace

extern "C" {

void bessemer_torch_free(char* text) { std::free(text); }

// Loads libtorch's CUDA part where the image has it: nothing links it, so that one binary serves both images.
// Before anything asks libtorch for a GPU, since it remembers the answer.
bool bessemer_torch_load_cuda() { return dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr; }

// The driver's name of the first GPU, at most `length` bytes with the NUL; false without a driver or a GPU.
bool bessemer_torch_gpu_name(char* name, int length) {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (driver == nullptr) return false;
  const auto begin = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
  const auto tell = reinterpret_cast<int (*)(char*, int, int)>(dlsym(driver, "cuDeviceGetName"));
  int device = 0;
  return begin != nullptr && get != nullptr && tell != nullptr && begin(0) == 0 && get(&device, 0) == 0 &&
         tell(name, length, device) == 0;
}

// Bytes that are free on the current GPU; false before libtorch's CUDA is loaded, or where its runtime refuses.
bool bessemer_torch_gpu_memory(size_t* free) {
  const auto tell = reinterpret_cast<int (*)(size_t*, size_t*)>(dlsym(RTLD_DEFAULT, "cudaMemGetInfo"));
  size_t total = 0;
  return tell != nullptr && tell(free, &total) == 0;
}

// One AdamW update of `count` tensors in place. `step` is the number of this update, from 1.
char* bessemer_torch_fused_adamw(const Handle* parameters, const Handle* gradients, const Handle* means,
                                 const Handle* squares, size_t count, int64_t step, double rate,
                                 double beta1, double beta2, double epsilon, double decay) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    auto values = list(parameters, count);
    auto first = list(means, count);
    auto second = list(squares, count);
    std::vector<at::Tensor> steps;
    steps.reserve(count);
    for (const auto& value : values) {
      steps.push_back(at::full({}, static_cast<double>(step), value.options().dtype(at::kFloat)));
    }
    at::_fused_adamw_(values, list(gradients, count), first, second, {}, steps, rate, beta1, beta2, decay,
                      epsilon, /*amsgrad=*/false, /*maximize=*/false);
  });
}

// The 2-norm over all tensors together.
char* bessemer_torch_global_norm(const Handle* tensors, size_t count, double* norm) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    auto norms = at::_foreach_norm(list(tensors, count), 2);
    *norm = at::linalg_vector_norm(at::stack(norms).to(at::kDouble), 2).item<double>();
  });
}

// Multiplies every tensor in place.
char* bessemer_torch_scale(const Handle* tensors, size_t count, double factor) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    auto values = list(tensors, count);
    at::_foreach_mul_(values, factor);
  });
}

// Drops the gradients of all tensors, so that the next backward pass stores its own instead of adding.
char* bessemer_torch_clear_gradients(const Handle* tensors, size_t count) {
  return guarded([&] {
    for (size_t i = 0; i < count; ++i) tensors[i]->mutable_grad().reset();
  });
}

// Refuses (true) or allows operations that have no deterministic implementation.
char* bessemer_torch_deterministic(bool on) {
  return guarded([&] {
    at::globalContext().setDeterministicAlgorithms(on, /*warn_only=*/false);
    // A guard against reading uninitialised memory, which would cost a pass over every new tensor.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  });
}

}  // extern "C"
