"""IQ3_S: 256 weights in 8 groups of 32, 3.4375 bits per weight.

    w = d * (2 * scale + 1) * +-grid[index]                 scale in 0..15, one a group

Four weights at a time are one of 512 vectors with the odd elements 1, 3, ..., 15; all signs are stored:

    qs[k]        low byte of index[k]; its bit 8 is bit k % 8 of qh[k // 8]       k = 0..63
    signs[i]     bit j is set if weight 8 i + j is negative
    scales[i]    7 6 5 4             3 2 1 0
                 scale[2 i + 1]      scale[2 i]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, lookup, negate, pack, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.codebooks import codebook
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.grid_search import grid, groups_last, magnitudes, scale_codes, search, steps
from gguf_jax.formats.rounding import divided, elements_first, product
from gguf_jax.formats.scale_search import block_weights

LAYOUT = np.dtype([("d", "<f2"), ("qs", "u1", 64), ("qh", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    index = planes["qs"] | (unpack(planes["qh"], 1, 1, xp).astype(np.uint16) << 8)
    vectors = ungrouped(lookup(codebook("iq3_s"), index, xp))
    scale = planes["d"].astype(np.float32) * (2 * unpack(planes["scales"], 4, 1, xp) + 1).astype(np.float32)
    return ungrouped(grouped(scale, negate(vectors, planes["signs"], xp)))


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_iq3_s`, except where a group of 32 zeros stands beside others: there the reference writes the
    codes and signs of all later groups of the block one group too early."""
    x = elements_first(values, 32, xp)
    weights = block_weights(values, importance, 32, 2, xp)
    magnitude, signs = magnitudes(x, weights, False, xp)
    most = xp.max(magnitude, axis=0)
    empty = most == 0
    start = divided(most, 15, xp)
    entry, scale = search(
        magnitude,
        weights,
        grid("iq3_s"),
        steps(15, 9, 0.2),
        most,
        start,
        lambda on_grid: xp.broadcast_to(~xp.all(on_grid, axis=0), on_grid.shape),
        xp,
        start_on_grid=False,
    )
    signs = xp.where(empty, np.uint8(0), xp.where(scale < 0, ~signs, signs))
    index = groups_last(xp.where(empty, 0, entry), xp)
    codes, d = scale_codes(xp.where(empty, 0, xp.abs(scale)), 31, 15, xp)
    return {
        # the factor is the reference's
        "d": product(d, np.float32(1.033), xp)[..., None].astype(np.float16),
        "qs": (index & 255).astype(np.uint8),
        "qh": pack(index >> 8, 1, 1, xp),
        "signs": groups_last(signs, xp),
        "scales": pack(codes, 4, 1, xp),
    }


IQ3_S = BlockFormat(GGMLType.IQ3_S, 256, LAYOUT, decode, encode)
