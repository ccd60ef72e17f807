// Norms of rows, as `gguf_jax.ops.rms_norm` defines them.
#pragma once
#include <cstdint>

namespace gguf_jax {

struct NormKernels {
    // y[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i] for one row of `n`.
    void (*rms)(const float* x, const float* weight, int64_t n, float eps, float* y);
};

}  // namespace gguf_jax
