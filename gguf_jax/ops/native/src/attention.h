// Attention over a cache, as `gguf_jax.ops.attention` defines it: one case, and the kernels that a level offers for it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "panel.h"  // the numbers of the types

namespace gguf_jax {

// Keys or values, `[B, G, S, depth]`: floats, or the planes of Q8_0 or Q4_0 (`scales` [B, G, S, depth / 32] float16).
struct Rows {
    int type;
    const void* data;
    const uint16_t* scales;
    int64_t depth;
};

struct Attention {
    int64_t batch, length, heads, groups, slots;
    int q_type;       // FLOAT32, FLOAT16 or BFLOAT16, of the result too
    const void* q;    // [B, T, H, k.depth]
    void* out;        // [B, T, H, v.depth]
    Rows k, v;
    const int32_t* positions;  // [B, T]
    float scale;
    float softcap;       // c: scores become c tanh(s / c); 0: they stay
    const float* sinks;  // [H], a score that takes its part of the softmax and has no value; null: none
    int64_t window;      // 0: none
    bool fast;           // weights and values may be rounded to bfloat16

    int64_t shared() const { return heads / groups; }  // heads that read the same keys
    // Keys that a query at `position` sees: [first, end), empty for padding, within the cache whatever `position` is.
    int64_t end(int32_t position) const { return position < 0 ? 0 : position < slots ? position + int64_t{1} : slots; }
    int64_t first(int32_t position) const {
        return window == 0 || position < window ? 0 : position - window + 1;
    }
    // Floats of what `chunk` leaves for one query.
    size_t part() const { return static_cast<size_t>(shared()) * (aligned64(v.depth * 4) / 4 + 2); }
};

struct AttentionKernels {
    // Queries of one group, `rows` of them beginning with `row` of the T * shared() there are: all keys, complete.
    int rows;
    void (*block)(const Attention&, int64_t b, int64_t g, int64_t row);
    // One query (b, t) of one group over the keys [begin, end), at most CHUNK: weighted values, sums and maxima.
    void (*chunk)(const Attention&, int64_t b, int64_t t, int64_t g, int64_t begin, int64_t end, float* part);
    // The result of the parts of all of a query's chunks, which stand one after the other.
    void (*merge)(const Attention&, int64_t b, int64_t t, int64_t g, const float* parts, int64_t count);
    // For a case that is `fast`: the rows to give `fast_block` when about so many calls are wanted, 0: use the others.
    // Null where the level has nothing faster.
    int64_t (*fast_rows)(const Attention&, int64_t tasks);
    // As `block`, of up to `rows` queries; a query's result is the same wherever its block begins and ends.
    void (*fast_block)(const Attention&, int64_t b, int64_t g, int64_t row, int64_t rows);
};

// Chunks begin at multiples of this, so that what is added to what depends on a query's position alone: a sequence
// gets the same bits whatever runs beside it and however many threads there are.
constexpr int64_t CHUNK = 256;

// All of it, on all threads.
void attention(const Attention&);

}  // namespace gguf_jax
