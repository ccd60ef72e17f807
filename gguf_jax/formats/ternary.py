"""TQ1_0 and TQ2_0: 256 weights that are -1, 0 or 1 times one float16 scale.

    w = d * (q - 1)

TQ1_0, 1.6875 bits per weight, packs five base-3 digits (four in `qh`) in a byte: the digits v = 81 a + 27 b + 9 c +
3 d + e are stored as the fraction v / 243 in units of 1/256, rounded up. The leading digit is then the integer part of
three times the fraction, and multiplying by a power of 3 modulo 256 moves a later digit to the front:

    qs[m], m < 32         digit n is q[32 n + m]              n = 0..4; weights 0..159
    qs[32 + m], m < 16    digit n is q[160 + 16 n + m]        n = 0..4; weights 160..239
    qh[m], m < 4          digit n is q[240 + 4 n + m]         n = 0..3; weights 240..255

TQ2_0, 2.0625 bits per weight (q = 3 would give 2 d; the encoder never writes it):

    qs[32 h + m]    7 6           5 4           3 2           1 0              h = 0, 1; m = 0..31
                    q[128h+96+m]  q[128h+64+m]  q[128h+32+m]  q[128h+m]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, pack, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.rounding import away, product, quotient

TQ1_0_LAYOUT = np.dtype([("qs", "u1", 48), ("qh", "u1", 4), ("d", "<f2")])
TQ2_0_LAYOUT = np.dtype([("qs", "u1", 64), ("d", "<f2")])


def _digits(packed: Array, n: int, xp: Any) -> Array:
    """The first `n` base-3 digits of each byte: uint8 `[..., m]` -> int8 `[..., n * m]`."""
    fractions = ungrouped(xp.stack([packed * np.uint8(3**i) for i in range(n)], axis=-2))
    return ((fractions.astype(np.uint16) * 3) >> 8).astype(np.int8)


def decode_tq1_0(planes: Mapping[str, Array], xp: Any) -> Array:
    qs, qh = planes["qs"], planes["qh"]
    q = xp.concatenate([_digits(qs[..., :32], 5, xp), _digits(qs[..., 32:], 5, xp), _digits(qh, 4, xp)], axis=-1)
    return ungrouped(grouped(planes["d"].astype(np.float32), q - 1))


def decode_tq2_0(planes: Mapping[str, Array], xp: Any) -> Array:
    q = unpack(planes["qs"], 2, 32, xp).astype(np.int8) - 1
    return ungrouped(grouped(planes["d"].astype(np.float32), q))


def _signs(values: Array, xp: Any) -> tuple[Array, Array]:
    """The largest magnitude, float16 `[..., 1]`, and codes 0, 1, 2, uint8 `[..., 256]`."""
    d = xp.max(xp.abs(values), axis=-1, keepdims=True)
    x = product(values, quotient(np.float32(1), d, xp), xp)
    return d.astype(np.float16), (away(x, xp) + np.float32(1)).astype(np.uint8)


def _fractions(q: Array, run: int, n: int) -> Array:
    """The inverse of `_digits`: codes `[..., n * run]` -> bytes `[..., run]`; fewer than 5 digits end in zeros."""
    *lead, _ = q.shape
    digits = q.reshape(*lead, n, run).astype(np.uint16)
    number = digits[..., 0, :]
    for i in range(1, 5):
        number = number * np.uint16(3) + (digits[..., i, :] if i < n else np.uint16(0))
    return ((number * np.uint16(256) + np.uint16(242)) // np.uint16(243)).astype(np.uint8)


def encode_tq1_0(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_tq1_0_ref`, which has no use for an importance."""
    d, q = _signs(values, xp)
    qs = xp.concatenate([_fractions(q[..., :160], 32, 5), _fractions(q[..., 160:240], 16, 5)], axis=-1)
    return {"qs": qs, "qh": _fractions(q[..., 240:], 4, 4), "d": d}


def encode_tq2_0(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_tq2_0_ref`, which has no use for an importance."""
    d, q = _signs(values, xp)
    return {"qs": pack(q, 2, 32, xp), "d": d}


TQ1_0 = BlockFormat(GGMLType.TQ1_0, 256, TQ1_0_LAYOUT, decode_tq1_0, encode_tq1_0)
TQ2_0 = BlockFormat(GGMLType.TQ2_0, 256, TQ2_0_LAYOUT, decode_tq2_0, encode_tq2_0)
