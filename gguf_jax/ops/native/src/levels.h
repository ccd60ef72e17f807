// The levels: one set of kernels for each instruction set, of which one is chosen when the library is first used.
#pragma once

namespace gguf_jax {

struct LinearKernels;     // linear.h
struct AttentionKernels;  // attention.h
struct LimitKernels;      // limits.h
struct RotateKernels;     // rotate.h
struct NormKernels;       // norm.h
struct EncodeKernels;     // encode.h

struct Level {
    const char* name;
    const LinearKernels* linear;
    const AttentionKernels* attention;
    const LimitKernels* limits;
    const RotateKernels* rotate;
    const NormKernels* norm;
    const EncodeKernels* encode;
};

extern const Level LEVEL_portable;
#if defined(__x86_64__)
extern const Level LEVEL_avx2, LEVEL_avx512, LEVEL_amx;
#elif defined(__aarch64__)
extern const Level LEVEL_neon;
#endif

// The level in use: the best that this CPU has, or what GGUF_JAX_NATIVE_LEVEL names.
const Level& level();

}  // namespace gguf_jax
