// What the handlers of `ops.linear` and `ops.grouped_linear` share: rows of x times panels of a weight, in the form of
// product that a call has.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "levels.h"
#include "linear.h"
#include "threads.h"
#include "weight.h"

namespace gguf_jax {

constexpr int64_t MOST_ROWS = 512;  // rows of x at a time: what the caches are filled for
constexpr int64_t FEW_ROWS = 8;     // up to so many the weight is read once from memory and the rows come along

enum class Form { Float, Int8, Tiles };

// The rows of x in the form that a product wants them.
struct Activations {
    const float* x;
    int64_t rows, columns;
    Int8Rows int8{};
    const uint16_t* tiles = nullptr;
};

// What a call computes with, fixed before the threads start.
struct Products {
    const LinearKernels* k;
    bool fast;    // see `ops.Precision`
    bool prompt;  // a sequence brings more rows than FEW_ROWS
};

// By the length of a sequence, not by how many there are: one must get the same beside others as alone.
inline Form form_of(const Products& by, const Weight& w) {
    if (!by.fast) return Form::Float;
    const bool tiles = by.k->bf16_rows && by.prompt;
    if (w.kind == Weight::FLOATS) return tiles ? Form::Tiles : Form::Float;
    return tiles ? Form::Tiles : Form::Int8;
}

inline size_t aligned(size_t n) { return (n + 63) / 64 * 64; }

inline void multiply_panels(const Products& by, const Weight& w, const Activations& a, const Panels& panels, float* c) {
    const LinearKernels& k = *by.k;
    switch (form_of(by, w)) {
        case Form::Tiles: return k.bf16_rows(panels, a.tiles, a.rows, c);
        case Form::Float: return k.f32_rows(panels, a.x, a.columns, a.rows, c);
        case Form::Int8:
            if (a.rows > 1) return k.int8_rows(panels, a.int8, a.rows, c);
            for (int p = 0; p < panels.count; ++p)
                k.int8_row(panels.type, panels.data[p], w.columns, a.int8, c + LANES * p);
    }
}

// c[rows][16 count] = x times panels [first, first + count) of w. Rows of c past the last may be written up to a
// multiple of 16.
inline void multiply(const Products& by, const Weight& w, const Activations& a, int64_t first, int count, float* c) {
    if (w.kind == Weight::FLOATS) {
        const FloatRows rows = w.floats(first * LANES, std::min<int64_t>(w.rows - first * LANES, count * LANES));
        const LinearKernels& k = *by.k;
        if (form_of(by, w) == Form::Tiles) return k.bf16_rows_float(rows, a.tiles, a.rows, c);
        if (by.prompt) return k.f32_rows_float(rows, a.x, a.columns, a.rows, c);
        for (int64_t r = 0; r < a.rows; r += 4)
            k.float_dot(rows, a.x + r * a.columns, a.columns, std::min<int64_t>(4, a.rows - r), c + r * count * LANES,
                        count * LANES);
        return;
    }
    uint8_t* memory =
        w.kind == Weight::PANELS ? nullptr : static_cast<uint8_t*>(scratch(OF_PANEL, size_t(count) * w.panel_size));
    multiply_panels(by, w, a, w.some(first, count, memory), c);
}

// Panels [first, first + count) of one result: of weights[0], or of silu(weights[0] x) * (weights[1] x).
// write(c, up, n, ld): the first n elements of each row, `ld` apart, are the result's from column first * LANES on; with `up`
// they are silu(c) * up.
template <class W>
inline void piece(const Products& by, const Weight* weights, bool silu, const Activations& a, int64_t first, int count,
                  W write) {
    const Weight& w = weights[0];
    const int64_t size = (a.rows + 15) / 16 * 16 * count * LANES;
    float* c = static_cast<float*>(scratch(OF_RESULT, size_t(size) * 4 * (silu ? 2 : 1)));
    const int64_t n = std::min<int64_t>(w.rows - first * LANES, count * LANES);
    if (!silu) {
        multiply(by, w, a, first, count, c);
        return write(c, nullptr, n, count * LANES);
    }
    const Weight& up = weights[1];
    if (w.kind == Weight::PANELS && up.kind == Weight::PANELS && w.type == up.type && 2 * count <= Panels::MOST) {
        // one product of both: x is read once
        Panels both = w.some(first, count, nullptr);
        const Panels second = up.some(first, count, nullptr);
        std::copy(second.data, second.data + count, both.data + count);
        both.count = 2 * count;
        multiply_panels(by, w, a, both, c);
        write(c, c + count * LANES, n, 2 * count * LANES);
    } else {
        multiply(by, w, a, first, count, c);
        multiply(by, up, a, first, count, c + size);
        write(c, c + size, n, count * LANES);
    }
}

// Where the pieces of `all` panels begin, and where the last one ends.
//
// Many rows: the sums of a piece stay in the second-level cache beside what is multiplied; 16 panels of 512 rows are
// 512 KiB. Few rows wait for memory, which is read best in long stretches, but on the last piece all threads but one wait:
// so pieces become shorter, each a share of what is left.
inline std::vector<int64_t> pieces_of(int64_t all, int64_t rows, bool silu) {
    const int64_t threads = thread_count(), most = silu ? Panels::MOST / 2 : Panels::MOST;
    std::vector<int64_t> starts{0};
    for (int64_t at = 0; at < all; starts.push_back(at)) {
        int64_t step = (all - at + 2 * threads - 1) / (2 * threads);
        if (rows > FEW_ROWS) step = std::min((step + 1) / 2 * 2, most);
        at = std::min(all, at + step);
    }
    return starts;
}

}  // namespace gguf_jax
