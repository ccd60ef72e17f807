// Exact: every operation of a simd_*.h against simd_portable.h, which says what it means. One program for each level:
// GJ_SIMD names the header. Prints what differs; its status is 0 if nothing does.
#define GJ_LEVEL meaning
#include "simd_portable.h"
#undef GJ_LEVEL
#define GJ_LEVEL tested
#include GJ_SIMD
#include "dots.h"

#include <cstdio>
#include <random>

namespace m = gguf_jax::meaning;
namespace t = gguf_jax::tested;

namespace {

constexpr int ROUNDS = 2000;
std::mt19937_64 generator(1);
int failures = 0;

float float_of(uint32_t u) {
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
uint32_t bits(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    return u;
}

// Any bits: denormals, infinities and NaN among them; or ordinary numbers; or what lies near a tie of bf16 and f16.
float any_float(int round) {
    static const uint32_t special[] = {0, 0x80000000, 1, 0x007fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f7fffff,
                                       0x477fefff, 0x477ff000, 0x38800000, 0x387fffff, 0x33000000, 0x33000001, 0x3f808000};
    auto random = uint32_t(generator());
    switch (round % 4) {
        case 0: return float_of(random);
        case 1: return std::uniform_real_distribution<float>(-100, 100)(generator);
        case 2: return float_of((random & 0xffffe000) | (random & 1) | (random & 2 ? 0x1000 : 0));
        default: return float_of(special[random % (sizeof special / 4)]);
    }
}

struct Data {
    float f[3][16];
    int32_t i[2][16];
    uint8_t b[2][64], seven[64], table[16], nibbles[64];
    int8_t x[64];
    uint16_t h[16];
    explicit Data(int round) {
        for (auto& row : f)
            for (float& v : row) v = any_float(round);
        for (auto& row : i)
            for (int32_t& v : row) v = int32_t(generator()) >> (round % 20);
        for (auto& row : b)
            for (uint8_t& v : row) v = round % 4 ? uint8_t(generator()) : 255;
        for (uint8_t& v : seven) v = round % 4 ? generator() & 127 : 127;
        for (uint8_t& v : table) v = uint8_t(generator());
        for (uint8_t& v : nibbles) v = generator() & 15;
        for (int8_t& v : x) v = int8_t(round % 4 ? int(generator() % 255) - 127 : round % 8 ? 127 : -127);
        for (uint16_t& v : h) v = uint16_t(generator());
    }
};

bool same(float a, float b) { return bits(a) == bits(b) || (a != a && b != b); }
bool same(int32_t a, int32_t b) { return a == b; }
bool same(uint8_t a, uint8_t b) { return a == b; }
double shown(float a) { return a; }
double shown(int32_t a) { return a; }
double shown(uint8_t a) { return a; }

template <class T, class Equal> void hold(const char* name, const T* expected, const T* found, int n, Equal equal) {
    for (int i = 0; i < n; ++i)
        if (!equal(i, expected[i], found[i]) && ++failures <= 20)
            std::printf("%s [%d]: expected %.9g, found %.9g\n", name, i, shown(expected[i]), shown(found[i]));
}
template <class T> void hold(const char* name, const T* expected, const T* found, int n) {
    hold(name, expected, found, n, [](int, T a, T b) { return same(a, b); });
}

void store(float* p, m::F32 a) { m::store_f32(p, a); }
void store(float* p, t::F32 a) { t::store_f32(p, a); }
void store(int32_t* p, m::I32 a) { m::store_i32(p, a); }
void store(int32_t* p, t::I32 a) { t::store_i32(p, a); }
void store(uint8_t* p, m::U8 a) { m::store_bytes(p, a); }
void store(uint8_t* p, t::U8 a) { t::store_bytes(p, a); }

constexpr int count(const float*) { return 16; }
constexpr int count(const int32_t*) { return 16; }
constexpr int count(const uint8_t*) { return 64; }

// The same expression in both namespaces, `n` standing for either.
#define HOLD(T, ...)                                                          \
    do {                                                                      \
        T expected[64], found[64];                                            \
        { namespace n = m; store(expected, __VA_ARGS__); }                    \
        { namespace n = t; store(found, __VA_ARGS__); }                       \
        hold(#__VA_ARGS__, expected, found, count(expected));                 \
    } while (false)
// Those with one number as their result.
#define NEAR(EXPRESSION, TOLERANCE)                                           \
    do {                                                                      \
        float expected, found;                                                \
        { namespace n = m; expected = EXPRESSION; }                           \
        { namespace n = t; found = EXPRESSION; }                              \
        hold(#EXPRESSION, &expected, &found, 1, [&](int, float a, float b) {  \
            return std::fabs(a - b) <= (TOLERANCE);                           \
        });                                                                   \
    } while (false)

void floats(const Data& d) {
    const float *a = d.f[0], *b = d.f[1], *c = d.f[2];
    HOLD(float, n::load_f32(a));
    HOLD(float, n::f32_zero());
    HOLD(float, n::f32_set1(a[0]));
    HOLD(float, n::load_f16(d.h));
    HOLD(float, n::load_bf16(d.h));
    HOLD(float, n::add(n::load_f32(a), n::load_f32(b)));
    HOLD(float, n::sub(n::load_f32(a), n::load_f32(b)));
    HOLD(float, n::mul(n::load_f32(a), n::load_f32(b)));
    HOLD(float, n::div(n::load_f32(a), n::load_f32(b)));
    HOLD(float, n::from_bits(n::bits_of(n::load_f32(a))));
    HOLD(int32_t, n::bits_of(n::load_f32(a)));
    float expected[16], found[16];
    // zeros of either sign are equal: which of them `max` returns is not said
    store(expected, m::max(m::load_f32(a), m::load_f32(b)));
    store(found, t::max(t::load_f32(a), t::load_f32(b)));
    hold("max", expected, found, 16, [](int, float x, float y) { return same(x, y) || x == y; });
    // rounded once or twice
    auto near = [&](int i, float x, float y) {
        double product = double(a[i]) * b[i];
        double size = std::fabs(product) + std::fabs(double(c[i]));
        return same(x, y) || !(size < 1e38) || std::fabs(double(x) - y) <= size * 1.2e-7 + 3e-45;
    };
    store(expected, m::fma(m::load_f32(a), m::load_f32(b), m::load_f32(c)));
    store(found, t::fma(t::load_f32(a), t::load_f32(b), t::load_f32(c)));
    hold("fma", expected, found, 16, near);
    store(expected, m::fnma(m::load_f32(a), m::load_f32(b), m::load_f32(c)));
    store(found, t::fnma(t::load_f32(a), t::load_f32(b), t::load_f32(c)));
    hold("fnma", expected, found, 16, near);

    float small[16], size = 0, largest = 0;
    for (int i = 0; i < 16; ++i) {
        small[i] = std::isfinite(a[i]) ? std::fmod(a[i], 1e5f) : 1;
        size += std::fabs(small[i]);
        largest = std::fmax(largest, std::fabs(small[i]));
    }
    NEAR(n::sum(n::load_f32(small)), 16 * 1.2e-7f * size);
    NEAR(n::max_lane(n::load_f32(small)), 0);
    HOLD(int32_t, n::round_i32(n::load_f32(small)));
}

// Halves, seen as the floats they stand for: a NaN's other bits are not said.
void halves(const Data& d) {
    uint16_t expected[32], found[32];
    float e[32], f[32];
    auto widen = [&](auto load) {
        for (int half = 0; half < 2; ++half) {
            m::store_f32(e + 16 * half, load(expected + 16 * half));
            m::store_f32(f + 16 * half, load(found + 16 * half));
        }
    };
    std::memset(expected, 0, sizeof expected);
    std::memset(found, 0, sizeof found);
    m::store_f16(expected, m::load_f32(d.f[0]));
    t::store_f16(found, t::load_f32(d.f[0]));
    widen([](const uint16_t* p) { return m::load_f16(p); });
    hold("store_f16", e, f, 32);
    m::store_bf16(expected, m::load_f32(d.f[0]));
    t::store_bf16(found, t::load_f32(d.f[0]));
    widen([](const uint16_t* p) { return m::load_bf16(p); });
    hold("store_bf16", e, f, 32);
    m::store_bf16_pairs(expected, m::load_f32(d.f[0]), m::load_f32(d.f[1]));
    t::store_bf16_pairs(found, t::load_f32(d.f[0]), t::load_f32(d.f[1]));
    widen([](const uint16_t* p) { return m::load_bf16(p); });
    // the instructions for bf16 take a denormal for zero
    hold("store_bf16_pairs", e, f, 32, [](int, float x, float y) {
        return same(x, y) || (std::fabs(x) <= 1.17549435e-38f && y == 0);
    });
}

template <int J> void byte_of(const Data& d) { HOLD(int32_t, n::byte_of<J>(n::load_bytes(d.b[0]))); }
template <int N> void shifts(const Data& d) {
    HOLD(uint8_t, n::shift_right16<N>(n::load_bytes(d.b[0])));
    HOLD(uint8_t, n::shift_left16<N>(n::load_bytes(d.b[0])));
    HOLD(int32_t, n::shift_left<N>(n::load_i32(d.i[0])));
}

void integers(const Data& d) {
    const int32_t *a = d.i[0], *b = d.i[1];
    HOLD(int32_t, n::load_i32(a));
    HOLD(int32_t, n::i32_zero());
    HOLD(int32_t, n::i32_set1(a[0]));
    int32_t half_a[16], half_b[16], dots[16];
    for (int i = 0; i < 16; ++i) half_a[i] = a[i] / 2, half_b[i] = b[i] / 2, dots[i] = a[i] / 4;
    HOLD(int32_t, n::add(n::load_i32(half_a), n::load_i32(half_b)));
    HOLD(int32_t, n::sub(n::load_i32(half_a), n::load_i32(half_b)));
    HOLD(float, n::to_f32(n::load_i32(a)));
    HOLD(int32_t, n::load_u8_i32(d.b[0]));
    HOLD(int32_t, n::load_s8_i32(d.x));
    HOLD(uint8_t, n::load_bytes(d.b[0]));
    HOLD(uint8_t, n::bytes_set1(d.b[0][0]));
    HOLD(uint8_t, n::bytes_repeat16(d.table));
    HOLD(uint8_t, n::load_bytes(d.b[0]) & n::load_bytes(d.b[1]));
    HOLD(uint8_t, n::load_bytes(d.b[0]) | n::load_bytes(d.b[1]));
    HOLD(uint8_t, n::load_bytes(d.b[0]) ^ n::load_bytes(d.b[1]));
    HOLD(uint8_t, n::lookup16(n::bytes_repeat16(d.table), n::load_bytes(d.nibbles)));
    int32_t x[16];
    std::memcpy(x, d.x, 64);
    HOLD(int32_t, n::dot4<false>(n::load_i32(dots), n::load_bytes(d.seven), n::load_i32(x)));
    HOLD(int32_t, n::dot4<true>(n::load_i32(dots), n::load_bytes(d.b[0]), n::load_i32(x)));
    byte_of<0>(d), byte_of<1>(d), byte_of<2>(d), byte_of<3>(d);
    shifts<1>(d), shifts<2>(d), shifts<3>(d), shifts<4>(d), shifts<5>(d), shifts<6>(d), shifts<7>(d);
}

// Sums of N products of four for codes up to MOST, at their extremes too: there a level's narrower sums would overflow.
template <int MOST, int N> void dots(int round) {
    uint8_t codes[N][64];
    int8_t x[N][4];
    int16_t pairs[N][4];
    for (int j = 0; j < N; ++j) {
        for (uint8_t& c : codes[j])
            c = uint8_t(round % 3 == 0 ? MOST : round % 3 == 1 ? generator() % (MOST + 1) : generator() % 2 * MOST);
        for (int8_t& v : x[j]) v = int8_t(round % 4 == 0 ? 127 : round % 4 == 1 ? -127 : int(generator() % 255) - 127);
        pairs[j][0] = x[j][0], pairs[j][1] = x[j][2], pairs[j][2] = x[j][1], pairs[j][3] = x[j][3];
    }
    int32_t expected[16] = {}, found[16];
    t::Dots<MOST> packed;
    typename t::Decoded<MOST>::Sums decoded;
    constexpr int VECTORS = t::Decoded<MOST>::VECTORS, FROM = t::Dots<MOST>::FROM;
    for (int j = 0; j < N; ++j)
        for (int i = 0; i < 64; ++i) expected[i / 4] += (codes[j][i] - FROM) * x[j][i % 4];
    t::unrolled<N>([&](auto step) {
        constexpr int J = decltype(step)::value;
        const t::U8 v = t::load_bytes(codes[J]);
        packed.add(J, v, t::i32_set1(t::four_bytes(x[J])));
        alignas(64) uint8_t kept[VECTORS][64];
        t::Decoded<MOST>::store(kept, v);
        t::unrolled<VECTORS>([&](auto part) {
            constexpr int K = decltype(part)::value;
            const void* four = t::Decoded<MOST>::PAIRS ? static_cast<const void*>(pairs[J] + 2 * K) : x[J];
            decoded.add(J * VECTORS + K, t::load_bytes(kept[K]), t::i32_set1(t::four_bytes(four)));
        });
    });
    store(found, packed.total(N));
    hold("Dots", expected, found, 16);
    store(found, decoded.total(N * VECTORS));
    hold("Decoded", expected, found, 16);
}
template <int N> void all_dots(int round) {  // the greatest codes of the types, and the bounds of what fits where
    dots<1, N>(round), dots<3, N>(round), dots<7, N>(round), dots<15, N>(round), dots<16, N>(round), dots<25, N>(round);
    dots<31, N>(round), dots<63, N>(round), dots<107, N>(round), dots<126, N>(round), dots<241, N>(round), dots<255, N>(round);
}

}  // namespace

int main() {
    for (int round = 0; round < ROUNDS; ++round) {
        Data d(round);
        floats(d);
        halves(d);
        integers(d);
        all_dots<4>(round), all_dots<8>(round);
    }
    std::printf("%d failures\n", failures);
    return failures != 0;
}
