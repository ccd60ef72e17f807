// What this machine can do at most: the yardstick that `gguf-jax doctor` shows and benchmarks hold a kernel to.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gguf_jax {

// One thread's loops of one level. Each returns something that depends on all it did, so that none of it is left out.
struct LimitKernels {
    struct Peak {
        const char* kind;        // "f32", "i8", "amx_bf16", "amx_i8"; nullptr ends the list
        double operations;       // of one iteration; a product and a sum count as two
        float (*run)(int64_t iterations);
    };
    const Peak* peaks;
    uint8_t (*read)(const uint8_t* memory, size_t bytes);  // both multiples of 64
};

}  // namespace gguf_jax
