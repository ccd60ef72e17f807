// 16 lanes of float or int32, 64 bytes: AVX-512 with BW, VL, DQ and VNNI. See simd_portable.h for what each means.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace gguf_jax::GJ_LEVEL {

struct F32 { __m512 v; };
struct I32 { __m512i v; };
struct U8 { __m512i v; };

inline F32 f32_zero() { return {_mm512_setzero_ps()}; }
inline F32 f32_set1(float x) { return {_mm512_set1_ps(x)}; }
inline F32 load_f32(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store_f32(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
inline void stream_f32(float* p, F32 a) { _mm512_stream_ps(p, a.v); }
inline void finish_streams() { _mm_sfence(); }
inline F32 load_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline F32 load_bf16(const uint16_t* p) {
    __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
}
inline void store_f16(uint16_t* p, F32 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
// Round to nearest even; a NaN may become an infinity's neighbour but stays a NaN (its quiet bit is set).
inline __m512i bf16_bits(F32 a) {
    __m512i u = _mm512_castps_si512(a.v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
}
inline void store_bf16(uint16_t* p, F32 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_bits(a), 16)));
}
inline F32 add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 div(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 fnma(F32 a, F32 b, F32 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
inline float sum(F32 a) { return _mm512_reduce_add_ps(a.v); }
inline float max_lane(F32 a) { return _mm512_reduce_max_ps(a.v); }

inline I32 i32_zero() { return {_mm512_setzero_si512()}; }
inline I32 i32_set1(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I32 load_i32(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store_i32(int32_t* p, I32 a) { _mm512_storeu_si512(p, a.v); }
inline I32 add(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32 load_u8_i32(const uint8_t* p) {
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline I32 load_s8_i32(const int8_t* p) {
    return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline F32 to_f32(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I32 round_i32(F32 a) { return {_mm512_cvtps_epi32(a.v)}; }
inline I32 bits_of(F32 a) { return {_mm512_castps_si512(a.v)}; }
inline F32 from_bits(I32 a) { return {_mm512_castsi512_ps(a.v)}; }
template <int N> inline I32 shift_left(I32 a) { return {_mm512_slli_epi32(a.v, N)}; }
inline I32 sub(I32 a, I32 b) { return {_mm512_sub_epi32(a.v, b.v)}; }

inline U8 load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_bytes(void* p, U8 a) { _mm512_storeu_si512(p, a.v); }
inline U8 bytes_set1(uint8_t x) { return {_mm512_set1_epi8(static_cast<char>(x))}; }
inline U8 bytes_repeat16(const uint8_t* p) {
    return {_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline U8 operator&(U8 a, U8 b) { return {_mm512_and_si512(a.v, b.v)}; }
inline U8 operator|(U8 a, U8 b) { return {_mm512_or_si512(a.v, b.v)}; }
inline U8 operator^(U8 a, U8 b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int N> inline U8 shift_right16(U8 a) { return {_mm512_srli_epi16(a.v, N)}; }
template <int N> inline U8 shift_left16(U8 a) { return {_mm512_slli_epi16(a.v, N)}; }
inline U8 lookup16(U8 table, U8 index) { return {_mm512_shuffle_epi8(table.v, index.v)}; }
template <int J> inline I32 byte_of(U8 a) {
    if constexpr (J == 3) return {_mm512_srli_epi32(a.v, 24)};
    return {_mm512_and_si512(_mm512_srli_epi32(a.v, 8 * J), _mm512_set1_epi32(255))};
}
template <bool WIDE> inline I32 dot4(I32 acc, U8 w, I32 x) { return {_mm512_dpbusd_epi32(acc.v, w.v, x.v)}; }

// 16 pairs of bf16: element 2 n is even[n], element 2 n + 1 is odd[n].
inline void store_bf16_pairs(void* p, F32 even, F32 odd) {
#ifdef __AVX512BF16__
    __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd.v, even.v));
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(order, both));
#else
    __m512i low = _mm512_srli_epi32(bf16_bits(even), 16);
    __m512i high = _mm512_and_si512(bf16_bits(odd), _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
    _mm512_storeu_si512(p, _mm512_or_si512(low, high));
#endif
}

}  // namespace gguf_jax::GJ_LEVEL
