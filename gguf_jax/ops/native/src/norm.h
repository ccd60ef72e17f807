// Norms of rows, as `gguf_jax.ops.rms_norm` and `gguf_jax.ops.layer_norm` define them.
#pragma once
#include <cstdint>

namespace gguf_jax {

struct NormKernels {
    // y[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i] for one row of `n`.
    void (*rms)(const float* x, const float* weight, int64_t n, float eps, float* y);
    // y[i] = (x[i] - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight[i] + bias[i]; `bias` null: none.
    void (*layer)(const float* x, const float* weight, const float* bias, int64_t n, float eps, float* y);
};

}  // namespace gguf_jax
