// The searches of the IQ types; see `gguf_jax/formats/grid_search.py`.
//
// Everything runs with a block a lane, but for the search among a combination's neighbours: their number differs, so
// there eight neighbours of one block are looked at together. The error of a vector is a sum of SIZE terms, and a term
// depends on one element's code alone, of which there are at most eight: the terms of all codes fit a register, and eight
// neighbours cost a permutation and an addition for each element. The terms, and the order in which they are added, are
// the reference's.
#pragma once
#include "encode_blocks.h"
#include "encode_search.h"

namespace gguf_jax::GJ_LEVEL {

typedef float F8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));

inline F8 permuted(const F8& table, const I8& index) {  // the low three bits of each index count
#ifdef __AVX2__
    return (F8)_mm256_permutevar8x32_ps((__m256)table, (__m256i)index);
#else
    F8 r;
    for (int i = 0; i < 8; ++i) r[i] = table[index[i] & 7];
    return r;
#endif
}

#ifdef __AVX2__
// Where the least of eight stands.
inline __m256 equal_to_least(const F8& error) {
    const __m256 e = (__m256)error;
    __m256 least = _mm256_min_ps(e, _mm256_permute2f128_ps(e, e, 1));
    least = _mm256_min_ps(least, _mm256_permute_ps(least, 0x4e));
    least = _mm256_min_ps(least, _mm256_permute_ps(least, 0xb1));
    return _mm256_cmp_ps(e, least, _CMP_EQ_OQ);
}
#endif

// The least of eight, the first of equals; any of them if they are no numbers.
inline int first_of_least(const F8& error) {
#ifdef __AVX2__
    return __builtin_ctz(unsigned(_mm256_movemask_ps(equal_to_least(error))) | 0x80);
#else
    int found = 0;
    for (int i = 1; i < 8; ++i) found = error[i] < error[found] ? i : found;
    return found;
#endif
}

// The position whose error is least, the first of equals.
inline int first_of_least(const F8& error, const I8& position) {
#ifdef __AVX2__
    const __m256i equal = _mm256_castps_si256(equal_to_least(error));
    __m256i p = _mm256_blendv_epi8(_mm256_set1_epi32(0x7fffffff), (__m256i)position, equal);
    p = _mm256_min_epi32(p, _mm256_permute2x128_si256(p, p, 1));
    p = _mm256_min_epi32(p, _mm256_shuffle_epi32(p, 0x4e));
    p = _mm256_min_epi32(p, _mm256_shuffle_epi32(p, 0xb1));
    return _mm256_cvtsi256_si32(p);
#else
    int found = position[0];
    float least = error[0];
    for (int i = 1; i < 8; ++i)
        if (error[i] < least || (error[i] == least && position[i] < found)) {
            least = error[i];
            found = position[i];
        }
    return found;
#endif
}

// What one vector of every block has to be close to, as the search wants it: a register holds the error terms of one
// element for its eight codes, or of two elements, i and i + 4, where there are only three codes.
template <int SIZE> struct Targets {
    static constexpr int PARTS = 4;
    F8 x[LANES][PARTS], w[LANES][PARTS];

    void set(const F* values, const F* weights) {
        for (int b = 0; b < LANES; ++b)
            for (int i = 0; i < PARTS; ++i) {
                const int other = SIZE == 8 ? i + 4 : i;
                const float xi = values[i][b], xj = values[other][b], wi = weights[i][b], wj = weights[other][b];
                x[b][i] = F8{xi, xi, xi, xi, xj, xj, xj, xj};
                w[b][i] = F8{wi, wi, wi, wi, wj, wj, wj, wj};
            }
    }
};

// For the vector of every block: the neighbour of its combination that is closest to the target, `reached(b)` being the
// values of the codes in block b. Gives its elements and its number; returns which combinations were vectors themselves.
//
// Most lists fit one register, and the loop over blocks has no branch. Lists that do not fit wait until all blocks have
// looked at their first eight neighbours.
template <int SIZE, class Reached>
inline Mask nearest_neighbours(const SearchGrid& grid, const Targets<SIZE>& target, I combination, Reached reached, F* vector,
                               I& entry) {
    F8 terms[LANES][4], errors[LANES];
    SearchGrid::Combination of[LANES];
    int longer[LANES + 1], n_longer = 0;
    int32_t number[LANES], on_grid[LANES], found[LANES];
    std::memcpy(number, &combination, sizeof number);
    auto error_of = [&](const F8* parts, int at) {
        I8 packed;
        std::memcpy(&packed, grid.packed + at, 32);
        F8 error = permuted(parts[0], packed);
#pragma GCC unroll 8
        for (int i = 1; i < SIZE; ++i) error += permuted(parts[i % 4], packed >> (3 * i));
        return error;
    };
    for (int b = 0; b < LANES; ++b) {
        of[b] = grid.combinations[number[b]];
        on_grid[b] = -int(of[b].on_grid);
        const F8 values = reached(b);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const F8 difference = values - target.x[b][i];
            terms[b][i] = target.w[b][i] * difference * difference;
        }
        errors[b] = error_of(terms[b], of[b].first);
        found[b] = of[b].first + first_of_least(errors[b]);
        longer[n_longer] = b;
        n_longer += of[b].count > 8;
    }
    for (int m = 0; m < n_longer; ++m) {
        const int b = longer[m];
        F8 best = errors[b];
        I8 at = I8{0, 1, 2, 3, 4, 5, 6, 7} + of[b].first, position = at;
        for (int j = 8; j < of[b].count; j += 8) {
            const F8 error = error_of(terms[b], of[b].first + j);
            position += 8;
            const I8 less = error < best;
            best = less ? error : best;
            at = less ? position : at;
        }
        found[b] = first_of_least(best, at);
    }
    alignas(64) float rows[LANES < 8 ? 8 : LANES][8];
    for (int b = 0; b < LANES; ++b) {
        found[b] = grid.member[found[b]];
        std::memcpy(rows[b], grid.values + size_t(found[b]) * SIZE, SIZE * 4);
    }
    for (int b = 0; b < LANES; b += 8) turned8<SIZE>(rows[b], 8, reinterpret_cast<float*>(vector) + b);
    std::memcpy(&entry, found, sizeof found);
    Mask itself;
    std::memcpy(&itself, on_grid, sizeof on_grid);
    return itself;
}

// SIZE codes (whole floats below `base`) -> the number of the combination.
template <int SIZE> inline I combination_of(const F* codes, int base) {
    F number = codes[SIZE - 1];
    for (int i = SIZE - 2; i >= 0; --i) number = number * float(base) + codes[i];
    return to_int(number);
}

// Which of a group's vectors are looked for once more under the final scale.
enum class Again { ALL, OFF_GRID, ALL_IF_ANY_OFF_GRID };

// x ~ scale * (2 * code + 1) in vectors of the grid, for a group of N. entries: their numbers; returns the scale.
template <int N, int SIZE, int BASE, Again AGAIN>
inline F grid_scale(const F* x, const F* w, const SearchGrid& grid, float middle, int reach, float step, F span, F scale,
                    I* entries) {
    constexpr int K = N / SIZE;
    F roots[N], wx[N];
    for (int i = 0; i < N; ++i) {
        roots[i] = square_root(w[i]);
        wx[i] = w[i] * x[i];
    }
    const F8 levels = SIZE == 8 ? F8{1, 3, 5, 7, 1, 3, 5, 7} : F8{1, 3, 5, 7, 9, 11, 13, 15};
    Targets<SIZE> targets[K];
    for (int k = 0; k < K; ++k) targets[k].set(x + k * SIZE, roots + k * SIZE);
    // Vector k under a scale: its elements 2 * code + 1 and number; whether rounding alone gave it.
    auto snap = [&](int k, F inverse, F this_scale, F* vector, I& entry) -> Mask {
        F codes[SIZE];
#pragma GCC unroll 8
        for (int i = 0; i < SIZE; ++i)
            codes[i] = clamp(nearest(0.5f * (inverse * x[k * SIZE + i] - 1.0f)), 0, BASE - 1);
        return nearest_neighbours<SIZE>(
            grid, targets[k], combination_of<SIZE>(codes, BASE), [&](int b) { return this_scale[b] * levels; }, vector, entry);
    };
    auto sums = [&](const F* q, F& sum_qx, F& sum_q2) {
        sum_qx = sum_q2 = F{};
        for (int i = 0; i < N; ++i) {
            sum_qx += wx[i] * q[i];
            sum_q2 += w[i] * q[i] * q[i];
        }
    };

    F q[N], best = F{};
    Mask on_grid[K];
    for (int i = 0; i < N; ++i) q[i] = splat(1.0f);
    for (int k = 0; k < K; ++k) {
        entries[k] = I{} + grid.member[grid.combinations[0].first];
        on_grid[k] = AGAIN == Again::ALL_IF_ANY_OFF_GRID ? Mask{} : Mask{} - 1;
    }
    F sum_qx, sum_q2;
    for (int t = -reach; t <= reach; ++t) {
        const F inverse = (middle + float(t) * step) / span, this_scale = 1.0f / inverse;
        F trial[N];
        I entry[K];
        Mask on[K];
        for (int k = 0; k < K; ++k) on[k] = snap(k, inverse, this_scale, trial + k * SIZE, entry[k]);
        sums(trial, sum_qx, sum_q2);
        const Mask better = (sum_q2 > 0.0f) & (sum_qx * sum_qx > best * sum_q2);
        if (!any(better)) continue;
        scale = pick(better, sum_qx / sum_q2, scale);
        best = pick(better, scale * sum_qx, best);
        for (int i = 0; i < N; ++i) q[i] = pick(better, trial[i], q[i]);
        for (int k = 0; k < K; ++k) {
            entries[k] = pick(better, entry[k], entries[k]);
            on_grid[k] = pick(better, on[k], on_grid[k]);
        }
    }
    Mask off = Mask{};
    for (int k = 0; k < K; ++k) off |= ~on_grid[k];
    const Mask upright = scale > 0.0f, redo = AGAIN == Again::ALL ? upright : upright & off;
    if (!any(redo)) return scale;
    const F inverse = 1.0f / scale;
    for (int k = 0; k < K; ++k) {
        F trial[SIZE];
        I entry;
        snap(k, inverse, scale, trial, entry);
        const Mask anew = AGAIN == Again::OFF_GRID ? redo & ~on_grid[k] : redo;
        for (int i = 0; i < SIZE; ++i) q[k * SIZE + i] = pick(anew, trial[i], q[k * SIZE + i]);
        entries[k] = pick(anew, entry, entries[k]);
    }
    sums(q, sum_qx, sum_q2);
    return pick(redo & (sum_q2 > 0.0f), sum_qx / sum_q2, scale);
}

// Eight weights' magnitudes and signs, bit i for the i-th below zero. EVEN: an odd number of signs changes that of the
// least important weight, whose magnitude then is negative.
template <bool EVEN> inline I signs_of(const F* x, const F* w, F* values) {
    I signs = I{}, odd = I{};
    for (int i = 0; i < 8; ++i) {
        const Mask negative = x[i] < 0.0f;
        values[i] = magnitude(x[i]);
        signs |= negative & (1 << i);
        odd ^= negative;
    }
    if constexpr (EVEN) {
        F least = w[0] * x[0] * x[0];
        I which = I{};
        for (int i = 1; i < 8; ++i) {
            const F cost = w[i] * x[i] * x[i];
            const Mask less = cost < least;
            least = pick(less, cost, least);
            which = pick(less, I{} + i, which);
        }
        for (int i = 0; i < 8; ++i) {
            const Mask flip = odd & (which == i);
            values[i] = pick(flip, -values[i], values[i]);
            signs ^= flip & (1 << i);
        }
    }
    return signs;
}

// G scales >= 0 as codes 0..most that stand for d * (2 * code + 1), such that the largest would be `steps` * d.
template <int G> inline F odd_codes(const F* scale, float steps, float most, I* codes) {
    F top = F{};
    for (int g = 0; g < G; ++g) top = max(top, scale[g]);
    const F d = top / steps, inverse = pick(d != 0.0f, 1.0f / d, F{});
    for (int g = 0; g < G; ++g) codes[g] = to_int(clamp(nearest(0.5f * (inverse * scale[g] - 1.0f)), 0, most));
    return d;
}

}  // namespace gguf_jax::GJ_LEVEL
