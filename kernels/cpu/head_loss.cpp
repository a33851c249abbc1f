// Owns the cross entropy fused with the head (after Liger, arXiv 2410.10989, and Cut Cross-Entropy, arXiv
// 2411.09009): logits exist only for a few rows at a time, and the gradient is computed in the forward pass,
// while they are warm. It must not own the model; the plain reference is in src/reference.rs.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <atomic>
#include <cstring>

#include "row.h"

namespace {

std::atomic<int64_t> calls{0};

// Logits held at once. CPU: 4 MiB of FP32, within the last-level cache of one core. GPU: enough rows for its matrix
// units, 512 MiB of BF16.
constexpr int64_t kElements = 1 << 20;
constexpr int64_t kElementsOfGpu = 1 << 28;
// Fewer rows make the products slow: each chunk reads and writes the whole of the weight's gradient.
constexpr int64_t kRows = 256;
// A GPU's matrix units want rows of whole 128 bytes: with GPT-2's 50,257 tokens the products take four times as long.
constexpr int64_t kPadding = 64;

// bessemer_cuda_cross_entropy in ../cuda/cross_entropy.cu.
using CudaRows = const char* (*)(void* logits, const int64_t* targets, float* losses, int64_t rows, int64_t stride,
                                 int64_t vocabulary, int64_t ignored, float scale, bool bf16);

// Whether rows are fused on the CPU, and by which function on a GPU if by one.
struct Fusion {
  bool cpu;
  CudaRows cuda;
};

__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) void rows_fused(
    float* logits, int64_t vocabulary, const int64_t* targets, float* losses, int64_t first, int64_t last,
    int64_t ignored, float scale, bool gradient) {
  for (int64_t row = first; row < last; ++row) {
    float* values = logits + row * vocabulary;
    if (targets[row] == ignored) {
      losses[row] = 0.0f;
      if (gradient) std::memset(values, 0, vocabulary * sizeof(float));
    } else {
      losses[row] = bessemer::cross_entropy_row(values, vocabulary, targets[row], scale, gradient);
    }
  }
}

// The chunk's losses [rows] in FP32; `logits` (FP32, contiguous) become the gradient.
at::Tensor cross_entropy_fused(const at::Tensor& logits, const at::Tensor& targets, int64_t ignored, double scale,
                               bool gradient) {
  const int64_t rows = logits.size(0), vocabulary = logits.size(1);
  auto losses = at::empty({rows}, logits.options());
  float* values = logits.data_ptr<float>();
  const int64_t* wanted = targets.data_ptr<int64_t>();
  float* out = losses.data_ptr<float>();
  const int64_t grain = std::max<int64_t>(1, 16384 / vocabulary);
  at::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
    rows_fused(values, vocabulary, wanted, out, first, last, ignored, static_cast<float>(scale), gradient);
  });
  return losses;
}

// The same on a GPU, for logits in FP32 or BF16 of which the first `vocabulary` columns count.
at::Tensor cross_entropy_cuda(const at::Tensor& logits, const at::Tensor& targets, int64_t vocabulary, int64_t ignored,
                              double scale, CudaRows rows) {
  auto losses = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
  const char* problem =
      rows(logits.data_ptr(), targets.data_ptr<int64_t>(), losses.data_ptr<float>(), logits.size(0), logits.size(1),
           vocabulary, ignored, static_cast<float>(scale), logits.scalar_type() == at::kBFloat16);
  TORCH_CHECK(problem == nullptr, "CUDA kernel: ", problem == nullptr ? "" : problem);
  return losses;
}

// The same with libtorch's own operators, for any device; the version before the fused one.
at::Tensor cross_entropy_composed(at::Tensor& logits, const at::Tensor& targets, int64_t ignored, double scale,
                                  bool gradient) {
  const auto kept = targets.ne(ignored);
  const auto index = targets.clamp_min(0).unsqueeze(1);
  const auto normaliser = logits.logsumexp(1, /*keepdim=*/true);
  const auto losses = (normaliser - logits.gather(1, index)).squeeze(1) * kept;
  if (gradient) {
    logits.sub_(normaliser).exp_().mul_(scale);
    logits.scatter_add_(1, index, at::full_like(normaliser, -scale));
    logits.mul_(kept.unsqueeze(1));
  }
  return losses;
}

struct HeadLoss : torch::autograd::Function<HeadLoss> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden,
                            const at::Tensor& weight, const at::Tensor& targets, int64_t ignored, double scale,
                            Fusion fusion, bool need_hidden, bool need_weight) {
    const int64_t rows = hidden.size(0), vocabulary = weight.size(0);
    const int64_t chunk = std::max(kRows, (hidden.is_cpu() ? kElements : kElementsOfGpu) / vocabulary);
    const bool gradient = need_hidden || need_weight;
    // The matrices are multiplied in the kind of the hidden states; sums are FP32.
    auto matrix = weight.to(hidden.scalar_type());
    if (fusion.cuda != nullptr && vocabulary % kPadding != 0) {
      matrix = at::constant_pad_nd(matrix, {0, 0, 0, kPadding - vocabulary % kPadding});
    }
    const auto transposed = matrix.t();
    auto total = at::zeros({}, hidden.options().dtype(at::kDouble));
    at::Tensor hidden_gradient, weight_gradient;
    if (need_hidden) hidden_gradient = at::empty_like(hidden);
    for (int64_t first = 0; first < rows; first += chunk) {
      const int64_t count = std::min(chunk, rows - first);
      const auto part = hidden.narrow(0, first, count);
      auto logits = part.mm(transposed);
      if (fusion.cuda == nullptr) logits = logits.to(at::kFloat);
      const auto wanted = targets.narrow(0, first, count);
      const auto losses = fusion.cuda != nullptr ? cross_entropy_cuda(logits, wanted, vocabulary, ignored, scale, fusion.cuda)
                          : fusion.cpu           ? cross_entropy_fused(logits, wanted, ignored, scale, gradient)
                                                 : cross_entropy_composed(logits, wanted, ignored, scale, gradient);
      total.add_(losses.sum(at::kDouble));
      if (!gradient) continue;
      const auto narrow = logits.to(hidden.scalar_type());
      if (need_hidden) {
        auto place = hidden_gradient.narrow(0, first, count);
        at::mm_out(place, narrow, matrix);
      }
      if (need_weight) {
        const auto turned = narrow.t();
        const bool alike = weight.scalar_type() == part.scalar_type() && turned.size(0) == vocabulary;
        if (weight_gradient.defined() && alike) {
          weight_gradient.addmm_(turned, part);
        } else {
          const auto product = turned.mm(part).narrow(0, 0, vocabulary);
          weight_gradient = weight_gradient.defined() ? weight_gradient.add_(product) : product.to(weight.scalar_type());
        }
      }
    }
    context->saved_data["hidden"] = hidden_gradient;
    context->saved_data["weight"] = weight_gradient;
    return (total * scale).to(at::kFloat);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list outputs) {
    const double factor = outputs[0].item<double>();
    const auto take = [&](const char* name) {
      const auto& value = context->saved_data[name];
      if (!value.isTensor() || !value.toTensor().defined()) return at::Tensor();
      return factor == 1.0 ? value.toTensor() : value.toTensor() * factor;
    };
    return {take("hidden"), take("weight"), {}, {}, {}, {}, {}, {}};
  }
};

char* message(const char* text) {
  char* copy = static_cast<char*>(std::malloc(std::strlen(text) + 1));
  if (copy != nullptr) std::strcpy(copy, text);
  return copy;
}

}  // namespace

extern "C" {

void bessemer_kernels_free(char* text) { std::free(text); }

int64_t bessemer_kernels_head_loss_calls() { return calls.load(); }

// result = scale * sum of the cross entropies of softmax(hidden weight^T) at targets; rows whose target is
// `ignored` count nothing. `cuda` is null or computes the rows on a GPU. Returns nullptr, or a message to be released
// with bessemer_kernels_free.
char* bessemer_kernels_head_loss(at::Tensor** result, at::Tensor* hidden, at::Tensor* weight, at::Tensor* targets,
                                 int64_t ignored, double scale, bool fused, void* cuda) {
  try {
    TORCH_CHECK(hidden->dim() == 2 && weight->dim() == 2 && targets->dim() == 1, "head loss needs hidden [rows, width], weight [vocabulary, width] and targets [rows]");
    TORCH_CHECK(hidden->size(0) == targets->size(0) && hidden->size(1) == weight->size(1), "head loss got hidden ", hidden->sizes(), ", weight ", weight->sizes(), " and targets ", targets->sizes());
    TORCH_CHECK(targets->scalar_type() == at::kLong, "targets of the head loss must be int64");
    const auto wanted = targets->contiguous();
    const auto outside = wanted.ne(ignored).logical_and(wanted.lt(0).logical_or(wanted.ge(weight->size(0))));
    TORCH_CHECK(!outside.any().item<bool>(), "a target of the head loss lies outside the vocabulary of ", weight->size(0));
    const bool grad = at::GradMode::is_enabled();
    calls.fetch_add(1);
    const bool narrow = hidden->scalar_type() == at::kFloat || hidden->scalar_type() == at::kBFloat16;
    const Fusion fusion{fused && hidden->is_cpu(),
                        fused && hidden->is_cuda() && narrow ? reinterpret_cast<CudaRows>(cuda) : nullptr};
    *result = new at::Tensor(HeadLoss::apply(hidden->contiguous(), *weight, wanted, ignored, scale, fusion,
                                             grad && hidden->requires_grad(), grad && weight->requires_grad()));
    return nullptr;
  } catch (const c10::Error& error) {
    return message(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return message(error.what());
  }
}

}  // extern "C"
