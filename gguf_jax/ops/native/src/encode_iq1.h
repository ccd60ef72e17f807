// Encoders of IQ1_S and IQ1_M; see `gguf_jax/formats/iq1_s.py` and `iq1_m.py`.
#pragma once
#include "encode_iq.h"

namespace gguf_jax::GJ_LEVEL {

constexpr float DELTA = 0.125f;

// The place of every element of a group in its ascending order; equal elements keep theirs.
template <int N> inline void places(const F* x, I* place) {
    for (int i = 0; i < N; ++i) place[i] = I{};
    for (int i = 1; i < N; ++i)
        for (int j = 0; j < i; ++j) {
            const Mask before = x[j] <= x[i];
            place[i] -= before;
            place[j] -= ~before;
        }
}

// Values into the order of `place`.
template <int N> inline void in_order(const F* x, const I* place, F* sorted) {
    for (int i = 0; i < N; ++i)
        for (int b = 0; b < LANES; ++b) sorted[place[i][b]][b] = x[i][b];
}

// Codes 0, 1, 2 of a group of N -> vectors of the codebook, each moved by its delta, and their best scale. The values of
// the vectors replace the codes.
template <int N> inline F snap_ternary(const F* x, const F* w, const SearchGrid& grid, F scale, const F* delta, F* codes, I* entries) {
    Mask off = Mask{};
    for (int k = 0; k < N / 8; ++k) {
        auto reached = [&](int b) {
            const F8 ternary = {-1, 0, 1, 2, -1, 0, 1, 2};
            return scale[b] * (ternary + delta[k][b]);
        };
        Targets<8> target;
        target.set(x + 8 * k, w + 8 * k);
        const I combination = combination_of<8>(codes + 8 * k, 3);
        off |= ~nearest_neighbours<8>(grid, target, combination, reached, codes + 8 * k, entries[k]);
    }
    F sum_qx = F{}, sum_q2 = F{};
    for (int i = 0; i < N; ++i) {
        codes[i] = codes[i] + delta[i / 8];
        const F wq = w[i] * codes[i];
        sum_qx += wq * x[i];
        sum_q2 += wq * codes[i];
    }
    return pick(off & (sum_qx > 0.0f) & (sum_q2 > 0.0f), sum_qx / sum_q2, scale);
}

template <int N> inline void cut(const I* place, I first, I second, Mask negative, F* codes) {
    for (int i = 0; i < N; ++i) {
        const F code = to_float(-(place[i] >= first) - (place[i] >= second));
        codes[i] = pick(negative, 2.0f - code, code);
    }
}

template <> struct Encoder<IQ1_S> {
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        F w[32], scale[8];
        I codes[8], shifts[8], entries[32], low[32], high[8];
        const F mean_square = 2.0f * sum_of_squares<256>(x) / 256.0f;
        for (int g = 0; g < 8; ++g) {
            weigh<32>(x + 32 * g, importance + 32 * g, mean_square, w);
            I* found = entries + 4 * g;
            scale[g] = group(x + 32 * g, w, *out.grid, found, shifts[g]);
            high[g] = (found[0] >> 8) | ((found[1] >> 8) << 3) | ((found[2] >> 8) << 6) | ((found[3] >> 8) << 9);
        }
        for (int k = 0; k < 32; ++k) low[k] = entries[k] & 255;
        const F d = odd_codes<8>(scale, 15, 7, codes);
        out.half(0, d * 1.125f);
        out.bytes<32>(2, low);
        for (int g = 0; g < 8; ++g) {
            const I down = pick((shifts[g] < 0) & (d > 0.0f), I{} + 0x8000, I{});
            out.word<2>(34 + 2 * g, high[g] | (codes[g] << 12) | down);
        }
    }

  private:
    // Of all ways to cut the sorted group into runs of -1, 0 and 1, all moved up or down, the one of least error.
    static F group(const F* x, const F* w, const SearchGrid& grid, I* entries, I& shift) {
        I place[32];
        F wx[32], sorted_wx[32], sorted_w[32], sum_x[33], sum_w[33];
        F most = F{};
        for (int i = 0; i < 32; ++i) {
            most = max(most, magnitude(x[i]));
            wx[i] = w[i] * x[i];
        }
        places<32>(x, place);
        in_order<32>(wx, place, sorted_wx);
        in_order<32>(w, place, sorted_w);
        sum_x[0] = sum_w[0] = F{};
        for (int i = 0; i < 32; ++i) {
            sum_x[i + 1] = sum_x[i] + sorted_wx[i];
            sum_w[i + 1] = sum_w[i] + sorted_w[i];
        }
        // what the reference computes for each pair of cuts, with everything that depends on one of them done once
        F last_x[2][33], last_w[2][33];
        for (int j = 0; j <= 32; ++j)
            for (int m = 0; m < 2; ++m) {
                const float c = m ? 1 - DELTA : 1 + DELTA;
                last_x[m][j] = (sum_x[32] - sum_x[j]) * c;
                last_w[m][j] = (sum_w[32] - sum_w[j]) * c * c;
            }
        F best = splat(-3.4028234e38f), scale = F{};
        I first = I{} - 1, second = I{} - 1;
        shift = I{};
        for (int i = 0; i <= 32; ++i) {
            const F x0 = sum_x[i] - sum_x[0], w0 = sum_w[i] - sum_w[0];
            const F up_x = x0 * (-1 + DELTA), down_x = x0 * (-1 - DELTA);
            const F up_w = w0 * (-1 + DELTA) * (-1 + DELTA), down_w = w0 * (-1 - DELTA) * (-1 - DELTA);
            for (int j = i; j <= 32; ++j) {
                const F x1 = (sum_x[j] - sum_x[i]) * DELTA, w1 = (sum_w[j] - sum_w[i]) * DELTA * DELTA;
                const F sum_qx[2] = {up_x + x1 + last_x[0][j], down_x - x1 + last_x[1][j]};
                const F sum_q2[2] = {up_w + w1 + last_w[0][j], down_w + w1 + last_w[1][j]};
                if (!any((sum_qx[0] * sum_qx[0] > best * sum_q2[0]) | (sum_qx[1] * sum_qx[1] > best * sum_q2[1]))) continue;
                for (int m = 0; m < 2; ++m) {
                    const Mask better = (sum_q2[m] > 0.0f) & (sum_qx[m] * sum_qx[m] > best * sum_q2[m]);
                    scale = pick(better, sum_qx[m] / sum_q2[m], scale);
                    best = pick(better, scale * sum_qx[m], best);
                    first = pick(better, I{} + i, first);
                    second = pick(better, I{} + j, second);
                    shift = pick(better, I{} + (m ? -1 : 1), shift);
                }
            }
        }
        const Mask empty = (most < 1e-12f) | (shift == 0), negative = scale < 0.0f;
        F codes[32], delta[4];
        cut<32>(place, first, second, negative, codes);
        shift = pick(empty, I{} + 1, pick(negative, -shift, shift));
        for (F& d : delta) d = to_float(shift) * DELTA;
        scale = snap_ternary<32>(x, w, grid, magnitude(scale), delta, codes, entries);
        for (int k = 0; k < 4; ++k) entries[k] = pick(empty, I{}, entries[k]);
        return pick(empty, F{}, scale);
    }
};

template <> struct Encoder<IQ1_M> {
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        F w[16], scale[16], values[256];
        I codes[16], entries[32], low[32], high[32], qh[16], shifts[16];
        const F mean_square = 2.0f * sum_of_squares<256>(x) / 256.0f;
        for (int g = 0; g < 16; ++g) {
            weights_or_squares<16>(x + 16 * g, importance ? importance + 16 * g : nullptr, mean_square, w);
            scale[g] = group(x + 16 * g, w, *out.grid, entries + 2 * g, shifts[g], values + 16 * g);
        }
        F d = odd_codes<16>(scale, 15, 7, codes);
        const Mask nothing = d == 0.0f;
        // the best scale of the whole block, now that the sub-scales are whole numbers
        F sum_qx = F{}, sum_q2 = F{};
        for (int g = 0; g < 16; ++g) {
            weights_or_squares<16>(x + 16 * g, importance ? importance + 16 * g : nullptr, mean_square, w);
            const F step = to_float(2 * codes[g] + 1);
            for (int i = 0; i < 16; ++i) {
                const F q = values[16 * g + i] * step, wq = w[i] * q;
                sum_qx += wq * x[16 * g + i];
                sum_q2 += wq * q;
            }
        }
        d = pick(sum_q2 > 0.0f, sum_qx / sum_q2, d) * 1.1125f;
        I top;
        for (int b = 0; b < LANES; ++b) top[b] = nothing[b] ? 0 : to_half(d[b]);
        for (int i = 0; i < 4; ++i) {
            const I scales = codes[4 * i] | (codes[4 * i + 1] << 3) | (codes[4 * i + 2] << 6) | (codes[4 * i + 3] << 9);
            out.word<2>(48 + 2 * i, scales | (((top >> (4 * i)) & 15) << 12));
        }
        for (int k = 0; k < 32; ++k) {
            const I down = k % 2 ? shifts[k / 2] & 1 : shifts[k / 2] >> 1;
            low[k] = entries[k] & 255;
            high[k] = (entries[k] >> 8) | (pick(nothing, I{}, down) << 3);
        }
        packed<32, 4, 1>(high, qh);
        out.bytes<32>(0, low);
        out.bytes<16>(32, qh);
    }

  private:
    // As IQ1_S, where either half may be moved up or down. shift: bit 1 for the first half, bit 0 for the second, set if
    // it is moved down.
    static F group(const F* x, const F* w, const SearchGrid& grid, I* entries, I& shift, F* codes) {
        I place[16];
        F masked[16], sorted[16], px[2][17], pw[2][17], most = F{};
        for (int i = 0; i < 16; ++i) most = max(most, magnitude(x[i]));
        places<16>(x, place);
        for (int h = 0; h < 2; ++h) {
            for (int of_w = 0; of_w < 2; ++of_w) {
                for (int i = 0; i < 16; ++i) masked[i] = i / 8 != h ? F{} : of_w ? w[i] : w[i] * x[i];
                in_order<16>(masked, place, sorted);
                F* sums = of_w ? pw[h] : px[h];
                sums[0] = F{};
                for (int i = 0; i < 16; ++i) sums[i + 1] = sums[i] + sorted[i];
            }
        }
        F best = splat(-3.4028234e38f), scale = F{};
        I first = I{} - 1, second = I{} - 1;
        shift = I{} - 1;
        // as in IQ1_S; half h, moved up (m 0) or down
        F last_w[2][2][17];
        for (int h = 0; h < 2; ++h)
            for (int m = 0; m < 2; ++m)
                for (int j = 0; j <= 16; ++j) {
                    const float b = m ? -DELTA : DELTA, c = 1 + b;
                    last_w[h][m][j] = pw[h][j] * (b * b - c * c);
                }
        for (int i = 0; i <= 16; ++i) {
            F all_x[2][2], first_w[2][2];
            for (int h = 0; h < 2; ++h)
                for (int m = 0; m < 2; ++m) {
                    const float b = m ? -DELTA : DELTA, a = -1 + b, c = 1 + b;
                    all_x[h][m] = px[h][16] * c;
                    first_w[h][m] = pw[h][16] * c * c + pw[h][i] * (a * a - b * b);
                }
            for (int j = i; j <= 16; ++j) {
                F qx[2][2], q2[2][2];
                for (int h = 0; h < 2; ++h) {
                    const F sum = px[h][i] + px[h][j];
                    for (int m = 0; m < 2; ++m) {
                        qx[h][m] = all_x[h][m] - sum;
                        q2[h][m] = first_w[h][m] + last_w[h][m][j];
                    }
                }
                F sum_qx[4], sum_q2[4];
                Mask some = Mask{};
                for (int k = 0; k < 4; ++k) {
                    sum_qx[k] = qx[0][k >> 1] + qx[1][k & 1];
                    sum_q2[k] = q2[0][k >> 1] + q2[1][k & 1];
                    some |= sum_qx[k] * sum_qx[k] > best * sum_q2[k];
                }
                if (!any(some)) continue;
                for (int k = 0; k < 4; ++k) {
                    const Mask better = (sum_q2[k] > 0.0f) & (sum_qx[k] * sum_qx[k] > best * sum_q2[k]);
                    scale = pick(better, sum_qx[k] / sum_q2[k], scale);
                    best = pick(better, scale * sum_qx[k], best);
                    first = pick(better, I{} + i, first);
                    second = pick(better, I{} + j, second);
                    shift = pick(better, I{} + k, shift);
                }
            }
        }
        const Mask empty = (most < 1e-7f) | (shift < 0), negative = scale < 0.0f;
        cut<16>(place, first, second, negative, codes);
        shift = pick(empty, I{}, pick(negative, 3 - shift, shift));
        const F delta[2] = {pick((shift & 2) == 0, splat(DELTA), splat(-DELTA)),
                            pick((shift & 1) == 0, splat(DELTA), splat(-DELTA))};
        scale = snap_ternary<16>(x, w, grid, magnitude(scale), delta, codes, entries);
        for (int k = 0; k < 2; ++k) entries[k] = pick(empty, I{}, entries[k]);
        if (any(empty))  // what the first vector of the codebook, which then stands there, is worth
            for (int i = 0; i < 16; ++i)
                codes[i] = pick(empty, splat(grid.values[i % 8] + DELTA), codes[i]);
        return pick(empty, F{}, scale);
    }
};

}  // namespace gguf_jax::GJ_LEVEL
