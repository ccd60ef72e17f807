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
    switch (type) {
#define GJ_CASE(T) case T: encode_all<T>(job); return true;
        GJ_FOR_EACH_TYPE(GJ_CASE)
#undef GJ_CASE
        default: return false;
    }
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
