// bf16 products on AMX tiles. One tile product is 16 rows of x times 16 rows of the weight over 32 columns.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "linear.h"
#include "threads.h"

namespace gguf_jax::GJ_LEVEL {

constexpr int64_t AMX_COLUMNS = 512;  // two panels of so many columns in bf16 are 32 KiB: the first-level cache

struct TileConfig {
    TileConfig() {
        alignas(64) struct {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t bytes[16] = {};
            uint8_t rows[16] = {};
        } config;
        for (int i = 0; i < 8; ++i) config.bytes[i] = 64, config.rows[i] = 16;
        // GCC 12 takes _tile_loadconfig to read 8 of the 64 bytes and drops the stores of the others
        asm volatile("" : : "r"(&config) : "memory");
        _tile_loadconfig(&config);
    }
    ~TileConfig() { _tile_release(); }
};

// 32 floats as bf16, rounded to nearest even.
inline void store_bf16_row(uint16_t* p, const float* x) {
    _mm512_storeu_si512(p, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x))));
}

// GCC does not know that a tile load reads memory, and might store after it what it is to read.
inline void stores_come_first() { asm volatile("" : : : "memory"); }

// [rows <= 16][columns] -> for each 32 columns a tile [16][32]; what is missing is zero.
inline void bf16_tiles(const float* x, int64_t ldx, int64_t rows, int64_t columns, uint16_t* tiles) {
    const int64_t whole = columns / 32 * 32;
    const int64_t wide = (columns + 31) / 32 * 512;  // of a row of tiles
    for (int64_t r = 0; r < 16; ++r) {
        uint16_t* out = tiles + 32 * r;
        if (r >= rows) {
            for (int64_t t = 0; t < wide; t += 512) std::memset(out + t, 0, 64);
            continue;
        }
        const float* p = x + r * ldx;
        for (int64_t k = 0; k < whole; k += 32, out += 512) store_bf16_row(out, p + k);
        if (whole < columns) {
            float tail[32] = {};
            std::memcpy(tail, p + whole, 4 * (columns - whole));
            store_bf16_row(out, tail);
        }
    }
}

// The weight of one stretch of columns of two panels (or one) in bf16, decoded unit by unit: the vector units do that
// while the tile unit multiplies the stretch before, as long as the two are close together in the program.
template <class D> class Stretch {
  public:
    Stretch(D& decoder, uint16_t* b) : decoder_(decoder), b_(b) {}

    void begin(int panel, int panels, int64_t first, int64_t last) {
        panel_ = panel, first_ = first, done_ = 0, per_panel_ = (last - first) / 32, units_ = per_panel_ * panels;
    }
    void decode(int64_t units) {
        for (const int64_t end = std::min(units_, done_ + units); done_ < end; ++done_) {
            const int64_t p = done_ / per_panel_, u = done_ % per_panel_;
            decoder_(panel_ + int(p), first_ + 32 * u, first_ + 32 * (u + 1), b_ + p * AMX_COLUMNS * 16 + 512 * u);
        }
    }
    void finish() { decode(units_); }
    int64_t units() const { return units_; }
    const uint16_t* panel(int i) const { return b_ + i * AMX_COLUMNS * 16; }

  private:
    D& decoder_;
    uint16_t* b_;
    int panel_ = 0;
    int64_t first_ = 0, done_ = 0, per_panel_ = 1, units_ = 0;
};

// Two row tiles times two panels over `steps` times 32 columns. `a0`, `a1`: tiles; `b0`, `b1`: [k / 2][16][2].
// meanwhile(): work for the vector units, called twice.
template <bool TWO_ROWS, bool TWO_PANELS, class F>
inline void amx_block(const uint16_t* a0, const uint16_t* a1, const uint16_t* b0, const uint16_t* b1, int64_t steps,
                      bool add_to, float* c, int64_t ldc, F meanwhile) {
    const size_t stride = size_t(ldc) * 4;
    stores_come_first();
    if (add_to) {
        _tile_loadd(0, c, stride);
        if (TWO_PANELS) _tile_loadd(1, c + 16, stride);
        if (TWO_ROWS) _tile_loadd(2, c + 16 * ldc, stride);
        if (TWO_ROWS && TWO_PANELS) _tile_loadd(3, c + 16 * ldc + 16, stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    auto multiply = [&](int64_t first, int64_t last) __attribute__((always_inline)) {
        for (int64_t s = first; s < last; ++s) {
            _tile_loadd(6, b0 + 512 * s, 64);
            _tile_stream_loadd(4, a0 + 512 * s, 64);  // passes by, while the weight stays in the first-level cache
            _tile_dpbf16ps(0, 4, 6);
            if (TWO_PANELS) {
                _tile_loadd(7, b1 + 512 * s, 64);
                _tile_dpbf16ps(1, 4, 7);
            }
            if (TWO_ROWS) {
                _tile_stream_loadd(5, a1 + 512 * s, 64);
                _tile_dpbf16ps(2, 5, 6);
                if (TWO_PANELS) _tile_dpbf16ps(3, 5, 7);
            }
        }
    };
    multiply(0, steps / 2);
    meanwhile();
    multiply(steps / 2, steps);
    meanwhile();
    _tile_stored(0, c, stride);
    if (TWO_PANELS) _tile_stored(1, c + 16, stride);
    if (TWO_ROWS) _tile_stored(2, c + 16 * ldc, stride);
    if (TWO_ROWS && TWO_PANELS) _tile_stored(3, c + 16 * ldc + 16, stride);
    stores_come_first();
}

// All rows of x times a stretch, while `next` is decoded.
template <bool TWO_PANELS, class S>
inline void amx_panels(const uint16_t* tiles, int64_t tiles_of_row, const S& b, int64_t steps, int64_t row_tiles, bool add_to,
                       float* c, int64_t ldc, S& next) {
    const int64_t blocks = (row_tiles + 1) / 2, share = (next.units() + 2 * blocks - 1) / (2 * blocks);
    auto meanwhile = [&] { next.decode(share); };
    int64_t t = 0;
    for (; t + 2 <= row_tiles; t += 2) {
        const uint16_t* a = tiles + t * tiles_of_row * 512;
        amx_block<true, TWO_PANELS>(a, a + tiles_of_row * 512, b.panel(0), b.panel(1), steps, add_to, c + 16 * t * ldc, ldc,
                                    meanwhile);
    }
    if (t < row_tiles)
        amx_block<false, TWO_PANELS>(tiles + t * tiles_of_row * 512, nullptr, b.panel(0), b.panel(1), steps, add_to,
                                     c + 16 * t * ldc, ldc, meanwhile);
}

// c[16 ceil(m / 16)][16 count]. decoder(p, first, last, out): 32 columns of panel p as [k / 2][16][2]; `columns` is a
// multiple of 32.
template <class D>
inline void amx_rows(D decoder, int count, int64_t columns, const uint16_t* tiles, int64_t m, float* c) {
    const TileConfig config;
    const int64_t row_tiles = (m + 15) / 16, tiles_of_row = columns / 32, ldc = 16 * count;
    uint16_t* memory = static_cast<uint16_t*>(scratch(OF_KERNEL, 4 * AMX_COLUMNS * 32));
    Stretch<D> stretches[2] = {{decoder, memory}, {decoder, memory + 2 * AMX_COLUMNS * 16}};
    auto begin = [&](Stretch<D>& s, int64_t k, int p) {
        s.begin(p, std::min(2, count - p), k, std::min(columns, k + AMX_COLUMNS));
    };
    begin(stretches[0], 0, 0);
    int now = 0;
    for (int64_t k = 0; k < columns; k += AMX_COLUMNS) {
        const int64_t steps = (std::min(columns, k + AMX_COLUMNS) - k) / 32;
        const uint16_t* a = tiles + k / 32 * 512;
        for (int p = 0; p < count; p += 2, now = 1 - now) {
            Stretch<D>&b = stretches[now], &next = stretches[1 - now];
            b.finish();
            const bool last_pair = p + 2 >= count, last = last_pair && k + AMX_COLUMNS >= columns;
            if (last) next.begin(0, 0, 0, 32);  // nothing
            else if (last_pair) begin(next, k + AMX_COLUMNS, 0);
            else begin(next, k, p + 2);
            if (p + 1 < count) amx_panels<true>(a, tiles_of_row, b, steps, row_tiles, k > 0, c + 16 * p, ldc, next);
            else amx_panels<false>(a, tiles_of_row, b, steps, row_tiles, k > 0, c + 16 * p, ldc, next);
        }
    }
}

}  // namespace gguf_jax::GJ_LEVEL
