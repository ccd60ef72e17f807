// The searches for scales of the legacy and K types; see `gguf_jax/formats/scale_search.py` for what each one finds.
#pragma once
#include "lanes.h"

namespace gguf_jax::GJ_LEVEL {

constexpr float EPSILON = 1e-15f;  // a group whose largest magnitude is less counts as zero

// The largest magnitude of a group and the first element that has it.
template <int N> inline F largest(const F* x, F& extreme) {
    F most = F{};
    extreme = F{};
    for (int i = 0; i < N; ++i) {
        const F m = magnitude(x[i]);
        const Mask more = m > most;
        most = pick(more, m, most);
        extreme = pick(more, x[i], extreme);
    }
    return most;
}

// x ~ scale * codes - minimum, codes in 0..most (make_qkx2_quants, make_qkx3_quants).
template <int N, bool ABSOLUTE>
inline void affine(const F* x, const F* w, float most, float first, float step, int steps, F* codes, F& scale,
                   F& minimum) {
    F low = x[0], high = x[0], sum_w = w[0], sum_x = w[0] * x[0];
    for (int i = 1; i < N; ++i) {
        low = min(x[i], low);
        high = max(x[i], high);
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    low = min(low, F{});
    const Mask constant = high == low;
    F inverse = most / (high - low), offset = low;
    scale = 1.0f / inverse;
    F best = F{};
    for (int i = 0; i < N; ++i) {
        codes[i] = clamp(nearest(inverse * (x[i] - offset)), 0.0f, most);
        const F difference = scale * codes[i] + offset - x[i];
        best += w[i] * (ABSOLUTE ? magnitude(difference) : difference * difference);
    }
    for (int s = 0; s <= steps; ++s) {
        inverse = (first + step * float(s) + most) / (high - offset);
        F trial[N], sum_l = F{}, sum_l2 = F{}, sum_xl = F{};
        for (int i = 0; i < N; ++i) {
            const F l = clamp(nearest(inverse * (x[i] - offset)), 0.0f, most), wl = w[i] * l;
            trial[i] = l;
            sum_l += wl;
            sum_l2 += wl * l;
            sum_xl += wl * x[i];
        }
        const F determinant = sum_w * sum_l2 - sum_l * sum_l;
        F this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        F this_offset = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        const Mask positive = this_offset > 0.0f;
        this_scale = pick(positive, sum_xl / sum_l2, this_scale);
        this_offset = pick(positive, F{}, this_offset);
        F error = F{};
        for (int i = 0; i < N; ++i) {
            const F difference = this_scale * trial[i] + this_offset - x[i];
            error += w[i] * (ABSOLUTE ? magnitude(difference) : difference * difference);
        }
        const Mask better = (determinant > 0.0f) & (error < best);
        if (!any(better)) continue;
        for (int i = 0; i < N; ++i) codes[i] = pick(better, trial[i], codes[i]);
        best = pick(better, error, best);
        scale = pick(better, this_scale, scale);
        offset = pick(better, this_offset, offset);
    }
    if (any(constant)) {
        for (int i = 0; i < N; ++i) codes[i] = pick(constant, F{}, codes[i]);
        scale = pick(constant, F{}, scale);
        offset = pick(constant, low, offset);
    }
    minimum = -offset;
}

// x ~ scale * (codes - most), codes in 0..2 most - 1 (make_qx_quants).
template <int N> inline F symmetric(const F* x, const F* w, float most, F* codes) {
    F extreme;
    const F amax = largest<N>(x, extreme);
    F wx[N], sum_lx = F{}, sum_l2 = F{};
    F inverse = -most / extreme, best_inverse = inverse;
    for (int i = 0; i < N; ++i) {
        wx[i] = w[i] * x[i];
        const F l = clamp(nearest(inverse * x[i]), -most, most - 1);
        sum_lx += wx[i] * l;
        sum_l2 += w[i] * l * l;
    }
    F scale = pick(sum_l2 != 0.0f, sum_lx / sum_l2, F{});
    F best = scale * sum_lx;
    for (int s = -9; s <= 9; ++s) {
        if (s == 0) continue;
        inverse = -(most + 0.1f * float(s)) / extreme;
        sum_lx = sum_l2 = F{};
        for (int i = 0; i < N; ++i) {
            const F l = clamp(nearest(inverse * x[i]), -most, most - 1);
            sum_lx += wx[i] * l;
            sum_l2 += w[i] * l * l;
        }
        const Mask better = (sum_l2 > 0.0f) & (sum_lx * sum_lx > best * sum_l2);
        best_inverse = pick(better, inverse, best_inverse);
        scale = pick(better, sum_lx / sum_l2, scale);
        best = pick(better, scale * sum_lx, best);
    }
    const Mask empty = amax < EPSILON;
    for (int i = 0; i < N; ++i)
        codes[i] = pick(empty, F{}, clamp(nearest(best_inverse * x[i]), -most, most - 1) + most);
    return pick(empty, F{}, scale);
}

// A code as the reference keeps it, in a byte without a sign.
inline F byte(F code) { return pick(code < 0.0f, code + 256.0f, code); }

// Moves one code after the other to where it suits the others best, at most five times over all; returns the scale.
// SIGNED is make_q3_quants's variant, else make_qp_quants's.
template <int N, bool SIGNED>
inline F settled(const F* x, const F* w, F* codes, F sum_lx, F sum_l2, float low, float high) {
    for (int pass = 0; pass < 5; ++pass) {
        Mask changed = Mask{};
        for (int i = 0; i < N; ++i) {
            const F wx = w[i] * x[i];
            F lx = sum_lx - wx * codes[i], l2 = sum_l2 - w[i] * codes[i] * codes[i];
            Mask moved = SIGNED ? lx > 0.0f : (lx > 0.0f) & (l2 > 0.0f);
            F code = nearest(x[i] * l2 / lx);
            code = SIGNED ? clamp(code, low, high) : min(code, splat(high));
            lx += wx * code;
            l2 += w[i] * code * code;
            moved &= (code != codes[i]) & (lx * lx * sum_l2 > sum_lx * sum_lx * l2);
            if constexpr (SIGNED) moved &= l2 > 0.0f;
            codes[i] = pick(moved, SIGNED ? code : byte(code), codes[i]);
            sum_lx = pick(moved, lx, sum_lx);
            sum_l2 = pick(moved, l2, sum_l2);
            changed |= moved;
        }
        if (!any(changed)) break;
    }
    return pick(sum_l2 > 0.0f, sum_lx / sum_l2, F{});
}

// x ~ scale * (codes - 4), codes in 0..7, weighted by x^2 (make_q3_quants).
template <int N> inline F settled_q3(const F* x, F* codes) {
    F extreme, w[N], sum_lx = F{}, sum_l2 = F{};
    const F amax = largest<N>(x, extreme), inverse = -4.0f / extreme;
    for (int i = 0; i < N; ++i) {
        w[i] = x[i] * x[i];
        codes[i] = clamp(nearest(inverse * x[i]), -4.0f, 3.0f);
        sum_lx += w[i] * x[i] * codes[i];
        sum_l2 += w[i] * codes[i] * codes[i];
    }
    const F scale = settled<N, true>(x, w, codes, sum_lx, sum_l2, -4.0f, 3.0f);
    const Mask empty = amax < EPSILON;
    for (int i = 0; i < N; ++i) codes[i] = pick(empty, F{}, codes[i] + 4.0f);
    return pick(empty, F{}, scale);
}

// x ~ scale * codes, codes in 0..most (make_qp_quants). A negative x gives a code that wraps around a byte, as there.
template <int N> inline F positive(const F* x, const F* w, float most, F* codes) {
    F top = F{};
    for (int i = 0; i < N; ++i) top = max(top, x[i]);
    F inverse = most / top;
    const F scale = 1.0f / inverse;
    F best = F{};
    for (int i = 0; i < N; ++i) {
        const F difference = x[i] - scale * byte(nearest(inverse * x[i]));
        best += w[i] * difference * difference;
    }
    for (int s = -4; s <= 4; ++s) {
        if (s == 0) continue;
        const F trial = (0.1f * float(s) + most) / top, trial_scale = 1.0f / trial;
        F error = F{};
        for (int i = 0; i < N; ++i) {
            const F difference = x[i] - trial_scale * min(nearest(trial * x[i]), splat(most));
            error += w[i] * difference * difference;
        }
        const Mask better = error < best;
        best = pick(better, error, best);
        inverse = pick(better, trial, inverse);
    }
    F sum_lx = F{}, sum_l2 = F{};
    for (int i = 0; i < N; ++i) {
        const F l = min(nearest(inverse * x[i]), splat(most));
        codes[i] = byte(l);
        sum_lx += w[i] * x[i] * l;
        sum_l2 += w[i] * l * l;
    }
    const F found = settled<N, false>(x, w, codes, sum_lx, sum_l2, 0.0f, most);
    const Mask empty = top < EPSILON;
    for (int i = 0; i < N; ++i) codes[i] = pick(empty, F{}, codes[i]);
    return pick(empty, F{}, found);
}

}  // namespace gguf_jax::GJ_LEVEL
