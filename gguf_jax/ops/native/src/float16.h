// IEEE half precision by integer arithmetic, for CPUs that have no instruction for it.
#pragma once
#include <cstdint>
#include <cstring>

namespace gguf_jax {

inline float f16_to_f32(uint16_t h) {
    uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023, u;
    if (exponent == 31) u = sign | 0x7f800000 | (fraction << 13);
    else if (exponent) u = sign | ((exponent + 112) << 23) | (fraction << 13);
    else {
        float tiny = float(fraction) * 5.9604644775390625e-8f;  // 2^-24
        std::memcpy(&u, &tiny, 4);
        u |= sign;
    }
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
// Round to nearest even.
inline uint16_t f32_to_f16(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    uint32_t sign = (u >> 16) & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000) return uint16_t(sign | 0x7e00 | ((u >> 13) & 0x3ff));
    if (u >= 0x477ff000) return uint16_t(sign | 0x7c00);
    if (u < 0x38800000) {  // subnormal half: let the float adder round at 2^-24
        float a;
        std::memcpy(&a, &u, 4);
        a += 0.5f;
        std::memcpy(&u, &a, 4);
        return uint16_t(sign | (u - 0x3f000000));
    }
    u += 0xc8000fff + ((u >> 13) & 1);
    return uint16_t(sign | (u >> 13));
}
}  // namespace gguf_jax
