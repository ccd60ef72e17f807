// Functions of 16 floats, written over the operations of simd_*.h.
#pragma once

namespace gguf_jax::GJ_LEVEL {

// exp(x), within 2 ulp: infinity above 88.72, e^-86.6 (about 2.5e-38) for everything below -86.6, NaN for NaN.
//
// x = n ln 2 + r with |r| <= ln(2) / 2; exp(r) by its Taylor polynomial of degree 7 (remainder below 2^-27).
inline F32 vexp(F32 x) {
    // max returns its second operand where one is NaN, so x stands second
    x = max(f32_set1(-86.6f), x);
    x = sub(f32_zero(), max(f32_set1(-89.5f), sub(f32_zero(), x)));
    const I32 n = round_i32(mul(x, f32_set1(1.44269504088896341f)));
    const F32 nf = to_f32(n);
    F32 r = fnma(nf, f32_set1(0.693359375f), x);  // ln 2 in two parts: n times the first is exact
    r = fnma(nf, f32_set1(-2.12194440e-4f), r);
    F32 p = f32_set1(1.0f / 5040.0f);
    p = fma(p, r, f32_set1(1.0f / 720.0f));
    p = fma(p, r, f32_set1(1.0f / 120.0f));
    p = fma(p, r, f32_set1(1.0f / 24.0f));
    p = fma(p, r, f32_set1(1.0f / 6.0f));
    p = fma(p, r, f32_set1(0.5f));
    p = fma(p, r, f32_set1(1.0f));
    p = fma(p, r, f32_set1(1.0f));
    // 2^n as 2^(n - 1) * 2, since n may be 128
    const F32 scale = from_bits(shift_left<23>(add(n, i32_set1(126))));
    return mul(mul(p, scale), f32_set1(2.0f));
}

}  // namespace gguf_jax::GJ_LEVEL
