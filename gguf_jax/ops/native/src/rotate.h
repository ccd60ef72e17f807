// Rotary embedding, as `gguf_jax.ops.rotate` defines it.
#pragma once
#include <cstdint>

namespace gguf_jax {

struct RotateKernels {
    // Heads [heads][depth] of one position; cos and sin [pairs]. What is past 2 * pairs of a head is copied.
    void (*heads)(const float* x, const float* cos, const float* sin, int64_t heads, int64_t pairs, int64_t depth,
                  bool interleaved, float* y);
};

}  // namespace gguf_jax
