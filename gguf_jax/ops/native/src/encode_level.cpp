// The encoders, compiled once per level, without contraction: see lanes.h.
#include "encode_iq1.h"
#include "encode_iq4.h"
#include "encode_k.h"
#include "encode_scalar.h"
#include "levels.h"

namespace gguf_jax::GJ_LEVEL {

extern const EncodeKernels ENCODE;

namespace {

// XLA's threads take subnormal numbers for zero, the reference does not.
struct Subnormals {
#if defined(__SSE2__)
    const unsigned before = _mm_getcsr();
    Subnormals() { _mm_setcsr(before & ~0x8040u); }
    ~Subnormals() { _mm_setcsr(before); }
#elif defined(__aarch64__)
    uint64_t before;
    Subnormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" : : "r"(before & ~(uint64_t(1) << 24)));
    }
    ~Subnormals() { asm volatile("msr fpcr, %0" : : "r"(before)); }
#endif
};

bool encode(int type, const EncodeJob& job) {
    const Subnormals subnormals;
    switch (type) {  // ids of ggml
        case 2: encode_all<Q40>(job); break;
        case 3: encode_all<Q41>(job); break;
        case 6: encode_all<Q50>(job); break;
        case 7: encode_all<Q51>(job); break;
        case 8: encode_all<Q80>(job); break;
        case 10: encode_all<Q2K>(job); break;
        case 11: encode_all<Q3K>(job); break;
        case 12: encode_all<Q4K>(job); break;
        case 13: encode_all<Q5K>(job); break;
        case 14: encode_all<Q6K>(job); break;
        case 16: encode_all<IQ2XXS>(job); break;
        case 17: encode_all<IQ2XS>(job); break;
        case 18: encode_all<IQ3XXS>(job); break;
        case 19: encode_all<IQ1S>(job); break;
        case 20: encode_all<IQ4NL>(job); break;
        case 21: encode_all<IQ3S>(job); break;
        case 22: encode_all<IQ2S>(job); break;
        case 23: encode_all<IQ4XS>(job); break;
        case 29: encode_all<IQ1M>(job); break;
        case 34: encode_all<TQ10>(job); break;
        case 35: encode_all<TQ20>(job); break;
        case 39: encode_all<MXFP4>(job); break;
        case 40: encode_all<NVFP4>(job); break;
        case 41: encode_all<Q10>(job); break;
        case 42: encode_all<Q20>(job); break;
        default: return false;
    }
    return true;
}

float mean_square(const float* x, int64_t n) {
    const Subnormals subnormals;
    float sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
    return sum / float(n);
}

void from_f16(const uint16_t* x, int64_t n, float* y) {
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
#endif
    for (; i < n; ++i) y[i] = f16_to_f32(x[i]);
}

void from_bf16(const uint16_t* x, int64_t n, float* y) {
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t bits = uint32_t(x[i]) << 16;
        std::memcpy(y + i, &bits, 4);
    }
}

}  // namespace

const EncodeKernels ENCODE = {encode, mean_square, from_f16, from_bf16};

}  // namespace gguf_jax::GJ_LEVEL
