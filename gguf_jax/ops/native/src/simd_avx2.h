// 16 lanes of float or int32, 64 bytes, in two registers: AVX2 with FMA and F16C. See simd_portable.h for what each
// means.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace gguf_jax::GJ_LEVEL {

struct F32 { __m256 lo, hi; };
struct I32 { __m256i lo, hi; };
struct U8 { __m256i lo, hi; };

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m128i load64(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
inline void store256(void* p, __m256i a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
inline void store128(void* p, __m128i a) { _mm_storeu_si128(static_cast<__m128i*>(p), a); }

inline F32 f32_zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F32 f32_set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32 load_f32(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store_f32(float* p, F32 a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
inline void stream_f32(float* p, F32 a) {
    _mm256_stream_ps(p, a.lo);
    _mm256_stream_ps(p + 8, a.hi);
}
inline void finish_streams() { _mm_sfence(); }
inline F32 load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p + 8))}; }
inline __m256 from_bf16(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
inline F32 load_bf16(const uint16_t* p) { return {from_bf16(load128(p)), from_bf16(load128(p + 8))}; }
inline void store_f16(uint16_t* p, F32 a) {
    store128(p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
    store128(p + 8, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
// Round to nearest even, in the upper half of each element; a NaN stays one (its quiet bit is set).
inline __m256i bf16_bits(__m256 a) {
    __m256i u = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, quiet, nan);
}
inline void store_bf16(uint16_t* p, F32 a) {
    // packing works on each half of a register: the middle quarters come out swapped
    __m256i both = _mm256_packus_epi32(_mm256_srli_epi32(bf16_bits(a.lo), 16), _mm256_srli_epi32(bf16_bits(a.hi), 16));
    store256(p, _mm256_permute4x64_epi64(both, 0b11011000));
}
inline F32 add(F32 a, F32 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F32 sub(F32 a, F32 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F32 mul(F32 a, F32 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F32 div(F32 a, F32 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F32 fma(F32 a, F32 b, F32 c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline F32 fnma(F32 a, F32 b, F32 c) {
    return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
inline float sum(F32 a) {
    __m256 eight = _mm256_add_ps(a.lo, a.hi);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lane(F32 a) {
    __m256 eight = _mm256_max_ps(a.lo, a.hi);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline I32 i32_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline I32 i32_set1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline I32 load_i32(const int32_t* p) { return {load256(p), load256(p + 8)}; }
inline void store_i32(int32_t* p, I32 a) {
    store256(p, a.lo);
    store256(p + 8, a.hi);
}
inline I32 add(I32 a, I32 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline I32 sub(I32 a, I32 b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
inline I32 load_u8_i32(const uint8_t* p) {
    return {_mm256_cvtepu8_epi32(load64(p)), _mm256_cvtepu8_epi32(load64(p + 8))};
}
inline I32 load_s8_i32(const int8_t* p) {
    return {_mm256_cvtepi8_epi32(load64(p)), _mm256_cvtepi8_epi32(load64(p + 8))};
}
inline F32 to_f32(I32 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline I32 round_i32(F32 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
inline I32 bits_of(F32 a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
inline F32 from_bits(I32 a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
template <int N> inline I32 shift_left(I32 a) { return {_mm256_slli_epi32(a.lo, N), _mm256_slli_epi32(a.hi, N)}; }

inline U8 load_bytes(const void* p) { return {load256(p), load256(static_cast<const uint8_t*>(p) + 32)}; }
inline void store_bytes(void* p, U8 a) {
    store256(p, a.lo);
    store256(static_cast<uint8_t*>(p) + 32, a.hi);
}
inline U8 bytes_set1(uint8_t x) {
    __m256i v = _mm256_set1_epi8(static_cast<char>(x));
    return {v, v};
}
inline U8 bytes_repeat16(const uint8_t* p) {
    __m256i v = _mm256_broadcastsi128_si256(load128(p));
    return {v, v};
}
inline U8 operator&(U8 a, U8 b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
inline U8 operator|(U8 a, U8 b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
inline U8 operator^(U8 a, U8 b) { return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)}; }
template <int N> inline U8 shift_right16(U8 a) { return {_mm256_srli_epi16(a.lo, N), _mm256_srli_epi16(a.hi, N)}; }
template <int N> inline U8 shift_left16(U8 a) { return {_mm256_slli_epi16(a.lo, N), _mm256_slli_epi16(a.hi, N)}; }
inline U8 lookup16(U8 table, U8 index) {
    return {_mm256_shuffle_epi8(table.lo, index.lo), _mm256_shuffle_epi8(table.hi, index.hi)};
}
template <int J> inline I32 byte_of(U8 a) {
    if constexpr (J == 3) return {_mm256_srli_epi32(a.lo, 24), _mm256_srli_epi32(a.hi, 24)};
    const __m256i low = _mm256_set1_epi32(255);
    return {_mm256_and_si256(_mm256_srli_epi32(a.lo, 8 * J), low), _mm256_and_si256(_mm256_srli_epi32(a.hi, 8 * J), low)};
}
// maddubs sums two products into 16 bits, and saturates: 2 x 127 x 127 fits, 2 x 255 x 127 does not. A wide weight is
// therefore split into its low seven bits and its highest bit, whose products fit each on its own.
template <bool WIDE> inline __m256i dot4(__m256i acc, __m256i w, __m256i x) {
    const __m256i ones = _mm256_set1_epi16(1);
    if constexpr (!WIDE) return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones));
    __m256i low = _mm256_maddubs_epi16(_mm256_and_si256(w, _mm256_set1_epi8(127)), x);
    __m256i high = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(w, 7), _mm256_set1_epi8(1)), x);
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(low, ones));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(high, _mm256_set1_epi16(128)));
}
template <bool WIDE> inline I32 dot4(I32 acc, U8 w, I32 x) {
    return {dot4<WIDE>(acc.lo, w.lo, x.lo), dot4<WIDE>(acc.hi, w.hi, x.hi)};
}

// 16 pairs of bf16: element 2 n is even[n], element 2 n + 1 is odd[n].
inline __m256i bf16_pairs(__m256 even, __m256 odd) {
    return _mm256_blend_epi16(_mm256_srli_epi32(bf16_bits(even), 16), bf16_bits(odd), 0b10101010);
}
inline void store_bf16_pairs(void* p, F32 even, F32 odd) {
    store_bytes(p, {bf16_pairs(even.lo, odd.lo), bf16_pairs(even.hi, odd.hi)});
}

}  // namespace gguf_jax::GJ_LEVEL
