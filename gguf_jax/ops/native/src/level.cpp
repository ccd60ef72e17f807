// Compiled once per level: GJ_LEVEL names it, GJ_SIMD is its simd_*.h.
#include GJ_SIMD

#include "attention_kernels.h"
#include "levels.h"
#include "limits_kernels.h"
#include "linear_kernels.h"
#include "norm_kernels.h"
#include "rotate_kernels.h"

#define GJ_STRING_(x) #x
#define GJ_STRING(x) GJ_STRING_(x)
#define GJ_JOIN_(a, b) a##b
#define GJ_JOIN(a, b) GJ_JOIN_(a, b)

namespace gguf_jax {

namespace GJ_LEVEL {
extern const EncodeKernels ENCODE;  // encode_level.cpp
}

const Level GJ_JOIN(LEVEL_, GJ_LEVEL) = {GJ_STRING(GJ_LEVEL),  &GJ_LEVEL::LINEAR, &GJ_LEVEL::ATTENTION,
                                         &GJ_LEVEL::LIMITS,    &GJ_LEVEL::ROTATE, &GJ_LEVEL::NORM,
                                         &GJ_LEVEL::ENCODE};

}  // namespace gguf_jax
