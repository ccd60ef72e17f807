// Bytes of the fields of each type's block, in the order of its LAYOUT in `gguf_jax.formats` (a test holds them equal).
#pragma once
#include "api.h"
#include "panel.h"

namespace gguf_jax {

struct FieldBytes { int bytes[5]; };

constexpr FieldBytes field_bytes(int type) {
    switch (type) {
        case Q4_0: return {{2, 16}};
        case Q4_1: return {{2, 2, 16}};
        case Q5_0: return {{2, 4, 16}};
        case Q5_1: return {{2, 2, 4, 16}};
        case Q8_0: return {{2, 32}};
        case Q2_K: return {{16, 64, 2, 2}};
        case Q3_K: return {{32, 64, 12, 2}};
        case Q4_K: return {{2, 2, 12, 128}};
        case Q5_K: return {{2, 2, 12, 32, 128}};
        case Q6_K: return {{128, 64, 16, 2}};
        case IQ2_XXS: return {{2, 64}};
        case IQ2_XS: return {{2, 64, 8}};
        case IQ3_XXS: return {{2, 96}};
        case IQ1_S: return {{2, 32, 16}};
        case IQ4_NL: return {{2, 16}};
        case IQ3_S: return {{2, 64, 8, 32, 4}};
        case IQ2_S: return {{2, 64, 8, 8}};
        case IQ4_XS: return {{2, 2, 4, 128}};
        case IQ1_M: return {{32, 16, 8}};
        case TQ1_0: return {{48, 4, 2}};
        case TQ2_0: return {{64, 2}};
        case MXFP4: return {{1, 16}};
        case NVFP4: return {{4, 32}};
        case Q1_0: return {{2, 16}};
        case Q2_0: return {{2, 16}};
        default: return {};
    }
}

constexpr int block_bytes(int type) {
    int n = 0;
    for (int bytes : field_bytes(type).bytes) n += bytes;
    return n;
}

}  // namespace gguf_jax

// Bytes of field `index` (0 past the last, and for an unknown type).
GGUF_JAX_API int gguf_jax_field_bytes(int type, int index);
