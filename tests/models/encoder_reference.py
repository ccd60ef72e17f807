"""Encoders in plain NumPy float64: loops over queries and heads, one sequence. It states what a model means."""

from __future__ import annotations

import math

import numpy as np

from gguf_jax.models import EncoderConfig
from tests.models.reference import ACTIVATIONS, rms_norm, rotate

ACTIVATIONS = ACTIVATIONS | {"relu": lambda x: np.maximum(x, 0)}


def layer_norm(p, name, x, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + eps) * p[f"{name}.weight"] + p.get(
        f"{name}.bias", 0.0
    )


def slope(head, heads, largest):
    """ALiBi's, as the paper's code has it for numbers of heads that are no power of two."""
    n = 2 ** math.floor(math.log2(heads))
    return 2 ** (-largest / n * (head + 1)) if head < n else 2 ** (-largest / (2 * n) * (2 * (head - n) + 1))


def bucket(apart, count, farthest=128):
    """T5's, for a key so many positions after the query."""
    half, at = count // 2, abs(apart)
    exact = half // 2
    if at >= exact:
        at = min(half - 1, exact + int(math.log(at / exact) / math.log(farthest / exact) * (half - exact)))
    return at + (half if apart > 0 else 0)


def biases(c, p, length, block):
    """`[H, T, T]`."""
    out = np.zeros((c.head_count, length, length))
    relative = p.get(f"enc.blk.{block}.attn_rel_b.weight", p.get("enc.blk.0.attn_rel_b.weight"))
    for h, i, j in np.ndindex(out.shape):
        if c.alibi is not None:
            out[h, i, j] = -slope(h, c.head_count, c.alibi) * abs(i - j)
        if relative is not None:
            out[h, i, j] = relative[bucket(j - i, c.relative_buckets), h]
    return out


def attention(c, p, blk, x, bias):
    def project(name):
        return x @ p[f"{blk}.{name}.weight"].T + p.get(f"{blk}.{name}.bias", 0.0)

    if f"{blk}.attn_qkv.weight" in p:
        q, k, v = np.split(project("attn_qkv"), 3, axis=-1)
    else:
        q, k, v = (project(f"attn_{name}") for name in "qkv")
    if c.qk_norm:
        q, k = (layer_norm(p, f"{blk}.attn_{n}_norm", y, c.norm_eps) for n, y in (("q", q), ("k", k)))
    q, k, v = (y.reshape(len(x), c.head_count, -1) for y in (q, k, v))
    out = np.zeros(v.shape)
    for h in range(c.head_count):
        qs, ks = q[:, h], k[:, h]
        if c.rope is not None:
            qs, ks = (np.stack([rotate(row, t, c.rope, None) for t, row in enumerate(y)]) for y in (qs, ks))
        scores = qs @ ks.T * c.attention_scale + bias[h]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, h] = weights / weights.sum(-1, keepdims=True) @ v[:, h]
    return out.reshape(len(x), -1)


def feed_forward(c, p, blk, x):
    def project(name, y):
        return y @ p[f"{blk}.{name}.weight"].T + p.get(f"{blk}.{name}.bias", 0.0)

    act, up = ACTIVATIONS[c.feed_forward.activation], project("ffn_up", x)
    if f"{blk}.ffn_gate.weight" in p:
        up = act(project("ffn_gate", x)) * up
    elif up.shape[-1] == 2 * c.feed_forward_length:
        up = act(up[:, : c.feed_forward_length]) * up[:, c.feed_forward_length :]
    else:
        up = act(up)
    return project("ffn_down", up)


def states(c: EncoderConfig, params: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """float64 `[T, E]`."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    x = p["token_embd.weight"][tokens]
    if c.relative_buckets:
        for n in range(c.block_count):
            blk = f"enc.blk.{n}"
            normed = rms_norm(x, p[f"{blk}.attn_norm.weight"], c.norm_eps)
            x = x + attention(c, p, blk, normed, biases(c, p, len(tokens), n)) @ p[f"{blk}.attn_o.weight"].T
            x = x + feed_forward(c, p, blk, rms_norm(x, p[f"{blk}.ffn_norm.weight"], c.norm_eps))
        return rms_norm(x, p["enc.output_norm.weight"], c.norm_eps)
    if c.token_types:
        x = x + p["token_types.weight"][0]
    if c.position_embd:
        x = x + p["position_embd.weight"][: len(tokens)]
    x = layer_norm(p, "token_embd_norm", x, c.norm_eps)
    for n in range(c.block_count):
        blk = f"blk.{n}"
        attended = attention(c, p, blk, x, biases(c, p, len(tokens), n)) @ p[f"{blk}.attn_output.weight"].T
        h = layer_norm(p, f"{blk}.attn_output_norm", x + attended + p.get(f"{blk}.attn_output.bias", 0.0), c.norm_eps)
        if c.attn_norm_2:
            h = layer_norm(p, f"{blk}.attn_norm_2", x + h, c.norm_eps)
        x = layer_norm(p, f"{blk}.layer_output_norm", h + feed_forward(c, p, blk, h), c.norm_eps)
    return x


def scores(params: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """What the head makes of a text's state `[E]`."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    last = "cls.output.weight" not in p
    if "cls.weight" in p:
        x = p["cls.weight"] @ x + p.get("cls.bias", 0.0)
        x = x if last else np.tanh(x)
    return x if last else p["cls.output.weight"] @ x + p.get("cls.output.bias", 0.0)
