"""A decoder-only transformer in plain NumPy float64: loops, no cache, nothing shared with the model under test.

It states what the model means. Parameters come as a dict of tensor name -> float array.
"""

from __future__ import annotations

import math

import numpy as np

from gguf_jax.models import DecoderConfig
from gguf_jax.nn import RopePairing


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def silu(x):
    return x / (1 + np.exp(-x))


def yarn_mix(rope, pair):
    """Share of extrapolation of one pair: 1 for those that turn fast, 0 for those that turn slowly."""
    yarn = rope.yarn

    def correction(beta):
        return rope.dimension * math.log(yarn.original_context / (beta * 2 * math.pi)) / (2 * math.log(rope.base))

    low, high = max(0, math.floor(correction(yarn.beta_fast))), math.ceil(correction(yarn.beta_slow))
    high = min(rope.dimension - 1, high)
    return (1 - min(1, max(0, (pair - low) / max(0.001, high - low)))) * yarn.ext_factor


def rotate(head, position, rope, factors):
    """One head's vector at one position."""
    out = head.copy()
    half = rope.dimension // 2
    for pair in range(half):
        plain = rope.base ** (-2 * pair / rope.dimension) / (1 if factors is None else factors[pair])
        mix = yarn_mix(rope, pair) if rope.yarn else 0.0
        angle = position * (plain / rope.factor * (1 - mix) + plain * mix)
        scale = rope.attention_factor
        if rope.yarn and rope.yarn.ext_factor and rope.factor > 1:
            scale *= 1 + 0.1 * math.log(rope.factor)
        i, j = (2 * pair, 2 * pair + 1) if rope.pairing is RopePairing.INTERLEAVED else (pair, pair + half)
        out[i] = (head[i] * math.cos(angle) - head[j] * math.sin(angle)) * scale
        out[j] = (head[i] * math.sin(angle) + head[j] * math.cos(angle)) * scale
    return out


def logits(c: DecoderConfig, params: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """float64 `[T, vocab]`."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}

    def project(name, x):
        return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)

    factors = p.get("rope_freqs.weight")
    x = p["token_embd.weight"][list(tokens)]
    for n in range(c.block_count):
        blk = f"blk.{n}"
        h = rms_norm(x, p[f"{blk}.attn_norm.weight"], c.norm_eps)
        q = project(f"{blk}.attn_q", h).reshape(len(tokens), c.head_count, c.key_length)
        k = project(f"{blk}.attn_k", h).reshape(len(tokens), c.head_count_kv, c.key_length)
        v = project(f"{blk}.attn_v", h).reshape(len(tokens), c.head_count_kv, c.value_length)
        if c.qk_norm:
            q = rms_norm(q, p[f"{blk}.attn_q_norm.weight"], c.norm_eps)
            k = rms_norm(k, p[f"{blk}.attn_k_norm.weight"], c.norm_eps)
        for t in range(len(tokens)):
            for head in range(c.head_count):
                q[t, head] = rotate(q[t, head], t, c.rope, factors)
            for head in range(c.head_count_kv):
                k[t, head] = rotate(k[t, head], t, c.rope, factors)
        out = np.zeros((len(tokens), c.head_count, c.value_length))
        for t in range(len(tokens)):
            first = 0 if c.windows[n] is None else max(0, t - c.windows[n] + 1)
            for head in range(c.head_count):
                group = head // (c.head_count // c.head_count_kv)
                scores = k[first : t + 1, group] @ q[t, head] * c.attention_scale
                weights = np.exp(scores - scores.max())
                out[t, head] = weights / weights.sum() @ v[first : t + 1, group]
        x = x + project(f"{blk}.attn_output", out.reshape(len(tokens), -1))
        h = rms_norm(x, p[f"{blk}.ffn_norm.weight"], c.norm_eps)
        x = x + project(f"{blk}.ffn_down", silu(project(f"{blk}.ffn_gate", h)) * project(f"{blk}.ffn_up", h))
    x = rms_norm(x, p["output_norm.weight"], c.norm_eps)
    return x @ p["token_embd.weight"].T if c.tied_output else project("output", x)
