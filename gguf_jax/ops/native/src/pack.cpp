// Rows of blocks to panels and back, for all types: a Codec gives one byte a code, and what is here puts the codes of a
// row into planes, then the rows side by side.
//
// A unit of one row is 32 codes, or BITS words of four bytes, and word w of row r is word 16 w + r of the unit in the
// panel. So a row packs its planes on its own, in the layout that panel.h gives a lane, and only the packed words are
// transposed. Planes are packed eight codes at a time in 64-bit words, which any compiler turns into vectors.
#include "pack.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "codec_grid.h"
#include "codec_k.h"
#include "codec_scalar.h"

namespace gguf_jax {
namespace {

using namespace packing;

// Codes are one byte each: a plane of BITS takes its bits from SHIFT up, field k of a plane's byte from column
// k * 4 * BITS further on.
template <int BITS, int SHIFT> inline void put_plane(const uint8_t* __restrict code, uint8_t* __restrict plane) {
    if constexpr (BITS == 1) {
        // words 2 k and 2 k + 1 of the unit at once
        uint64_t x = 0;
        for (int k = 0; k < 4; ++k) x |= (load<uint64_t>(code + 8 * k) >> SHIFT & EACH) << 2 * k;
        store(plane, uint32_t(x | x >> 31));
    } else {
        constexpr uint64_t MASK = EACH * ((1 << BITS) - 1);
        for (int i = 0; i < BITS / 2; ++i) {
            uint64_t x = 0;
            for (int k = 0; k < 8 / BITS; ++k)
                x |= (load<uint64_t>(code + 8 * i + 4 * BITS * k) >> SHIFT & MASK) << BITS * k;
            store(plane + 8 * i, x);
        }
    }
}
template <int BITS, int SHIFT> inline void get_plane(const uint8_t* __restrict plane, uint8_t* __restrict code) {
    constexpr uint64_t MASK = EACH * ((1 << BITS) - 1);
    const auto put = [](uint8_t* at, uint64_t x) { store(at, SHIFT ? load<uint64_t>(at) | x << SHIFT : x); };
    if constexpr (BITS == 1) {
        const uint64_t word = load<uint32_t>(plane), x = (word & 0xfefefefe) << 31 | word;
        for (int k = 0; k < 4; ++k) put(code + 8 * k, x >> 2 * k & MASK);
    } else {
        for (int i = 0; i < BITS / 2; ++i)
            for (int k = 0; k < 8 / BITS; ++k)
                put(code + 8 * i + 4 * BITS * k, load<uint64_t>(plane + 8 * i) >> BITS * k & MASK);
    }
}

template <int BITS> constexpr int LOW_PLANE = BITS == 3 ? 2 : BITS >= 5 ? 4 : BITS;

// `units` times 32 codes of a row <-> their planes, BITS words a unit.
template <int BITS> inline void put_planes(const uint8_t* __restrict code, int units, uint8_t* __restrict words) {
    if constexpr (BITS == 8) {
        std::memcpy(words, code, size_t(units) * 32);
    } else {
        constexpr int LOW = LOW_PLANE<BITS>;
        for (int u = 0; u < units; ++u) {
            put_plane<LOW, 0>(code + 32 * u, words + 4 * BITS * u);
            if constexpr (LOW < BITS) put_plane<BITS - LOW, LOW>(code + 32 * u, words + 4 * BITS * u + 4 * LOW);
        }
    }
}
template <int BITS> inline void get_planes(const uint8_t* __restrict words, int units, uint8_t* __restrict code) {
    if constexpr (BITS == 8) {
        std::memcpy(code, words, size_t(units) * 32);
    } else {
        constexpr int LOW = LOW_PLANE<BITS>;
        for (int u = 0; u < units; ++u) {
            get_plane<LOW, 0>(words + 4 * BITS * u, code + 32 * u);
            if constexpr (LOW < BITS) get_plane<BITS - LOW, LOW>(words + 4 * BITS * u + 4 * LOW, code + 32 * u);
        }
    }
}

typedef uint32_t Words4 __attribute__((vector_size(16)));

// a, b, c, d: the rows of a 4 x 4 matrix, which is transposed.
inline void transpose4(Words4& a, Words4& b, Words4& c, Words4& d) {
    const Words4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), AB = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Words4 cd = __builtin_shufflevector(c, d, 0, 4, 1, 5), CD = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    a = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    b = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    c = __builtin_shufflevector(AB, CD, 0, 1, 4, 5);
    d = __builtin_shufflevector(AB, CD, 2, 3, 6, 7);
}

// tile[16][STRIDE] words, of which the first `words`, a multiple of WORDS, of each row count <-> panel[words][16].
template <int STRIDE, int WORDS> inline void rows_to_lanes(const uint8_t* tile, int words, uint8_t* panel) {
    int w = 0;
    for (; w + 4 <= words; w += 4)
        for (int r = 0; r < LANES; r += 4) {
            const uint8_t* from = tile + 4 * (r * STRIDE + w);
            Words4 a = load<Words4>(from), b = load<Words4>(from + 4 * STRIDE);
            Words4 c = load<Words4>(from + 8 * STRIDE), d = load<Words4>(from + 12 * STRIDE);
            transpose4(a, b, c, d);
            uint8_t* to = panel + 4 * (LANES * w + r);
            store(to, a), store(to + 64, b), store(to + 128, c), store(to + 192, d);
        }
    if constexpr (WORDS % 4 != 0)
        for (; w < words; ++w)
            for (int r = 0; r < LANES; ++r) std::memcpy(panel + 4 * (LANES * w + r), tile + 4 * (r * STRIDE + w), 4);
}
template <int STRIDE, int WORDS> inline void lanes_to_rows(const uint8_t* panel, int words, uint8_t* tile) {
    int w = 0;
    for (; w + 4 <= words; w += 4)
        for (int r = 0; r < LANES; r += 4) {
            const uint8_t* from = panel + 4 * (LANES * w + r);
            Words4 a = load<Words4>(from), b = load<Words4>(from + 64);
            Words4 c = load<Words4>(from + 128), d = load<Words4>(from + 192);
            transpose4(a, b, c, d);
            uint8_t* to = tile + 4 * (r * STRIDE + w);
            store(to, a), store(to + 4 * STRIDE, b), store(to + 8 * STRIDE, c), store(to + 12 * STRIDE, d);
        }
    if constexpr (WORDS % 4 != 0)
        for (; w < words; ++w)
            for (int r = 0; r < LANES; ++r) std::memcpy(tile + 4 * (r * STRIDE + w), panel + 4 * (LANES * w + r), 4);
}

// Where the parts of the meta section of one block lie: visit(part, its bytes in the panel), for lane r.
template <class F, class M, class At, class Visit> inline void each_part(M& meta, int r, At* at, const Visit& visit) {
    constexpr bool D = F::SCALE != Scale::E8M0 && F::SCALE != Scale::UE4M3;
    if constexpr (D) visit(meta.d, at + 2 * r);
    if constexpr (F::HAS_MIN) visit(meta.m, at + 32 + 2 * r);
    if constexpr (F::SCALE == Scale::Half || F::SCALE == Scale::HalfMin) return;
    At* scales = at + (D ? 32 : 0) + (F::HAS_MIN ? 32 : 0);
    for (int g = 0; g < F::GROUPS; ++g) visit(meta.s[g], scales + LANES * g + r);
    if constexpr (F::SCALE == Scale::ByteMin)
        for (int g = 0; g < F::GROUPS; ++g) visit(meta.minimum[g], scales + LANES * (F::GROUPS + g) + r);
}

template <int TYPE> constexpr bool IS_GRID = TYPE == IQ1_S || TYPE == IQ1_M || TYPE == IQ2_XXS || TYPE == IQ2_XS ||
                                             TYPE == IQ2_S || TYPE == IQ3_XXS || TYPE == IQ3_S;

// Callers that take types from outside ask `codebook` first; one that does not ends here, not in wild memory.
template <int TYPE> const Codebook* grid_of() {
    if constexpr (!IS_GRID<TYPE>) return nullptr;
    const Codebook* grid = codebook(TYPE);
    if (!grid) {
        std::fprintf(stderr, "gguf_jax: type %d is packed before its codebook is set\n", TYPE);
        std::abort();
    }
    return grid;
}

// A piece of a panel, worked on at once: whole blocks, some 256 columns of them, so that each row is read in runs of a
// few cache lines and the codes of a piece stay in the first cache.
template <class F> struct Piece {
    static constexpr int BLOCKS = F::BLOCK < 256 ? 256 / F::BLOCK : 1;
    static constexpr int UNITS = F::BLOCK / 32;              // of a block
    static constexpr int WORDS = UNITS * F::BITS;            // of a block in a row
    static constexpr int STRIDE = BLOCKS * WORDS;            // words between rows
    alignas(64) uint8_t tile[LANES * 4 * STRIDE];
};

inline void block_of(const Fields& blocks, int64_t block, uint8_t** field) {
    for (int i = 0; i < Fields::MOST; ++i) field[i] = blocks.data[i] + block * int64_t(blocks.stride[i]);
}

template <int TYPE> void pack_type(const Fields& blocks, const int64_t* rows, int64_t columns, uint8_t* panel) {
    using F = Format<TYPE>;
    using P = Piece<F>;
    const int64_t n = columns / F::BLOCK;
    uint8_t* const codes = panel + meta_bytes<F>(columns);
    std::memset(panel + n * F::META, 0, codes - panel - n * F::META);
    [[maybe_unused]] const Codebook* grid = grid_of<TYPE>();
    P piece;
    for (int64_t first = 0; first < n; first += P::BLOCKS) {
        const int count = int(std::min<int64_t>(P::BLOCKS, n - first));
        for (int r = 0; r < LANES; ++r) {
            uint8_t* words = piece.tile + 4 * P::STRIDE * r;
            if (rows[r] < 0) std::memset(words, 0, 4 * P::STRIDE);
            for (int i = 0; i < count; ++i, words += 4 * P::WORDS) {
                Meta meta;
                if (rows[r] >= 0) {
                    uint8_t* field[Fields::MOST];
                    block_of(blocks, rows[r] * n + first + i, field);
                    alignas(64) uint8_t code[F::BLOCK];
                    if constexpr (IS_GRID<TYPE>) Codec<TYPE>::codes(field, code, meta, *grid);
                    else Codec<TYPE>::codes(field, code, meta);
                    put_planes<F::BITS>(code, P::UNITS, words);
                }
                each_part<F>(meta, r, panel + (first + i) * F::META,
                             [](auto part, uint8_t* at) { store(at, part); });
            }
        }
        rows_to_lanes<P::STRIDE, P::WORDS>(piece.tile, count * P::WORDS, codes + first * P::WORDS * 64);
    }
}

template <int TYPE> void unpack_type(const uint8_t* panel, const int64_t* rows, int64_t columns, const Fields& blocks) {
    using F = Format<TYPE>;
    using P = Piece<F>;
    const int64_t n = columns / F::BLOCK;
    const uint8_t* const codes = panel + meta_bytes<F>(columns);
    [[maybe_unused]] const Codebook* grid = grid_of<TYPE>();
    P piece;
    for (int64_t first = 0; first < n; first += P::BLOCKS) {
        const int count = int(std::min<int64_t>(P::BLOCKS, n - first));
        lanes_to_rows<P::STRIDE, P::WORDS>(codes + first * P::WORDS * 64, count * P::WORDS, piece.tile);
        for (int r = 0; r < LANES; ++r) {
            if (rows[r] < 0) continue;
            const uint8_t* words = piece.tile + 4 * P::STRIDE * r;
            for (int i = 0; i < count; ++i, words += 4 * P::WORDS) {
                Meta meta;
                each_part<F>(meta, r, panel + (first + i) * F::META, [](auto& part, const uint8_t* at) {
                    std::memcpy(&part, at, sizeof part);
                });
                uint8_t* field[Fields::MOST];
                block_of(blocks, rows[r] * n + first + i, field);
                alignas(64) uint8_t code[F::BLOCK];
                get_planes<F::BITS>(words, P::UNITS, code);
                if constexpr (IS_GRID<TYPE>) Codec<TYPE>::fields(code, meta, field, *grid);
                else Codec<TYPE>::fields(code, meta, field);
            }
        }
    }
}

}  // namespace

void pack(int type, const Fields& blocks, const int64_t* rows, int64_t columns, uint8_t* panel) {
    switch (type) {
#define GJ_CASE(T) case T: return pack_type<T>(blocks, rows, columns, panel);
        GJ_FOR_EACH_TYPE(GJ_CASE)
#undef GJ_CASE
    }
}

void unpack(int type, const uint8_t* panel, const int64_t* rows, int64_t columns, const Fields& blocks) {
    switch (type) {
#define GJ_CASE(T) case T: return unpack_type<T>(panel, rows, columns, blocks);
        GJ_FOR_EACH_TYPE(GJ_CASE)
#undef GJ_CASE
    }
}

}  // namespace gguf_jax
