// Sums of products of codes (unsigned bytes) with rounded activations (signed bytes, from -127 to 127), as kernels write
// them once for all levels.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace gguf_jax::GJ_LEVEL {

// Where the compiler inlines late, it keeps what is handed over in memory; and registers have no index. The portable level
// has no vectors to keep in registers: there both would only make the compiler slow.
#if defined(GJ_LEVEL_portable)
#define GJ_INLINE
#define GJ_UNROLL
#else
#define GJ_INLINE __attribute__((always_inline))
#define GJ_UNROLL _Pragma("GCC unroll 16")
#endif

inline int32_t four_bytes(const void* p) {
    int32_t v;
    std::memcpy(&v, p, 4);
    return v;
}

template <class F, int... J> inline GJ_INLINE void unroll(F& f, std::integer_sequence<int, J...>) {
    (f(std::integral_constant<int, J>{}), ...);
}
// f(integral_constant<int, 0>{}) ... f(integral_constant<int, N - 1>{}): a loop whose index the compiler knows.
template <int N, class F> inline GJ_INLINE void unrolled(F f) {
    unroll(f, std::make_integer_sequence<int, N>{});
}

// Dots<MOST>: for each of 16 rows the sum over j of four codes, at most MOST, times four activations. add() counts j from 0,
// in a loop that is unrolled, so that what depends on j is decided by the compiler; total() is told how many there were.
// FROM is what is taken from each code on the way, where that makes wide codes signed bytes.
#if defined(__AVX2__) && !defined(__AVX512F__)

// GCC 12 would first make all products of a sum and keep them in memory, then add them up; what an asm takes and gives
// back is made before it.
inline GJ_INLINE void now(__m256i& a, __m256i& b) { asm("" : "+x"(a), "+x"(b)); }

// maddubs leaves sums of two products in 16 bits. So many of these as fit are added there, and then widened at once; wide
// codes fit not even alone, but as signed bytes with their sign moved to the activation.
template <int MOST> class Dots {
    static constexpr int PAIR = 2 * MOST * 127, FIT = 32767 / PAIR;

  public:
    static constexpr int FROM = FIT ? 0 : 128;

    GJ_INLINE void add(int j, U8 codes, I32 x) {
        if constexpr (FIT == 0) {
            const __m256i sign = _mm256_set1_epi8(char(128));
            widen(j == 0, signed_pairs(_mm256_xor_si256(codes.lo, sign), x.lo),
                  signed_pairs(_mm256_xor_si256(codes.hi, sign), x.hi));
        } else {
            const __m256i lo = _mm256_maddubs_epi16(codes.lo, x.lo), hi = _mm256_maddubs_epi16(codes.hi, x.hi);
            if (j % FIT == 0) {
                if (j > 0) widen(j == FIT, low_, high_);
                low_ = lo, high_ = hi;
            } else {
                low_ = _mm256_add_epi16(low_, lo), high_ = _mm256_add_epi16(high_, hi);
            }
            now(low_, high_);
        }
    }
    // After N additions.
    GJ_INLINE I32 total(int n) {
        if constexpr (FIT > 0) widen(n <= FIT, low_, high_);
        return {total_low_, total_high_};
    }

  private:
    static GJ_INLINE __m256i signed_pairs(__m256i w, __m256i x) {
        return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    }
    GJ_INLINE void widen(bool first, __m256i lo, __m256i hi) {
        const __m256i ones = _mm256_set1_epi16(1);
        lo = _mm256_madd_epi16(lo, ones), hi = _mm256_madd_epi16(hi, ones);
        if (first) total_low_ = lo, total_high_ = hi;
        else total_low_ = _mm256_add_epi32(total_low_, lo), total_high_ = _mm256_add_epi32(total_high_, hi);
    }
    __m256i low_, high_, total_low_, total_high_;
};

#else

template <int MOST> class Dots {
  public:
#if defined(__ARM_NEON)
    static constexpr int FROM = MOST > 127 ? 128 : 0;  // its instruction multiplies signed bytes
#else
    static constexpr int FROM = 0;
#endif

    GJ_INLINE void add(int j, U8 codes, I32 x) {
        const I32 before = j ? total_ : i32_zero();
        if constexpr (FROM > 0) total_ = dot4<false>(before, codes ^ bytes_set1(128), x);
        else total_ = dot4<(MOST > 127)>(before, codes, x);
    }
    GJ_INLINE I32 total(int) const { return total_; }

  private:
    I32 total_;
};

#endif

// Codes that are decoded once for many rows of x: the vectors that one of codes becomes, and the sums over these, whose j
// counts them. PAIRS: their activations are Int8Rows::pairs.
template <int MOST, class = void> struct Decoded {
    static constexpr bool PAIRS = false;
    static constexpr int VECTORS = 1;
    using Sums = Dots<MOST>;
    static void store(uint8_t (*to)[64], U8 codes) { store_bytes(to[0], codes); }
};

#if defined(__AVX2__) && !defined(__AVX512F__)
// Wide codes become 16-bit numbers, with no sign to move: in the first vector codes 0 and 2 of four, in the second 1 and 3.
constexpr bool PAIRS_OF_WIDE = true;
template <int MOST> struct Decoded<MOST, std::enable_if_t<(MOST > 127)>> {
    static constexpr bool PAIRS = true;
    static constexpr int VECTORS = 2;
    class Sums {
      public:
        GJ_INLINE void add(int j, U8 w, I32 x) {
            const __m256i low = _mm256_madd_epi16(w.lo, x.lo), high = _mm256_madd_epi16(w.hi, x.hi);
            if (j == 0) low_ = low, high_ = high;
            else low_ = _mm256_add_epi32(low_, low), high_ = _mm256_add_epi32(high_, high);
            now(low_, high_);
        }
        GJ_INLINE I32 total(int) const { return {low_, high_}; }

      private:
        __m256i low_, high_;
    };
    static void store(uint8_t (*to)[64], U8 codes) {
        const U8 w = codes ^ bytes_set1(128);
        store_bytes(to[0], {_mm256_srai_epi16(_mm256_slli_epi16(w.lo, 8), 8), _mm256_srai_epi16(_mm256_slli_epi16(w.hi, 8), 8)});
        store_bytes(to[1], {_mm256_srai_epi16(w.lo, 8), _mm256_srai_epi16(w.hi, 8)});
    }
};
#else
constexpr bool PAIRS_OF_WIDE = false;
#endif

}  // namespace gguf_jax::GJ_LEVEL
