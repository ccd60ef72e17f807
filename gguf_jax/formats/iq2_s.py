"""IQ2_S: 256 weights in 16 groups of 16, 2.5625 bits per weight.

    w = d * (scale + 1/2) / 4 * +-grid[index]               scale in 0..15, one a group

Eight weights at a time are one of 1024 vectors with elements 8, 25, 43, and eight signs, all stored:

    qs[k]         low byte of index[k]                            k = 0..31
    qs[32 + k]    signs of vector k, bit j for its weight j
    qh[k // 4]    7 6           5 4           3 2           1 0
                  index[k+3]    index[k+2]    index[k+1]    index[k]      bits 9..8
    scales[i]     7 6 5 4             3 2 1 0
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
from gguf_jax.formats.rounding import divided, elements_first, product, square
from gguf_jax.formats.scale_search import block_mean_square, block_weights

LAYOUT = np.dtype([("d", "<f2"), ("qs", "u1", 64), ("qh", "u1", 8), ("scales", "u1", 8)])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    low, signs = planes["qs"][..., :32], planes["qs"][..., 32:]
    index = low | (unpack(planes["qh"], 2, 1, xp).astype(np.uint16) << 8)
    vectors = ungrouped(lookup(codebook("iq2_s"), index, xp))
    scale = planes["d"].astype(np.float32) * (unpack(planes["scales"], 4, 1, xp).astype(np.float32) + 0.5) / 4
    return ungrouped(grouped(scale, negate(vectors, signs, xp)))


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_iq2_s`."""
    x = elements_first(values, 16, xp)
    if importance is None:
        weights = np.float32(0.25) * block_mean_square(values, 2, xp) + square(x, xp)
    else:
        weights = block_weights(values, importance, 16, 2, xp)
    magnitude, signs = magnitudes(x, weights, False, xp)
    most = xp.max(magnitude, axis=0)
    empty = most < np.float32(1e-8)
    start = divided(most, 5, xp)
    entry, scale = search(magnitude, weights, grid("iq2_s"), steps(5, 9, 0.1), most, start, xp.logical_not, xp)
    signs = xp.where(empty, np.uint8(0), xp.where(scale < 0, ~signs, signs))
    index = groups_last(xp.where(empty, 0, entry), xp)
    codes, d = scale_codes(xp.where(empty, 0, xp.abs(scale)), 31, 15, xp)
    return {
        # the factor is the reference's
        "d": product(d, np.float32(0.9875), xp)[..., None].astype(np.float16),
        "qs": xp.concatenate([(index & 255).astype(np.uint8), groups_last(signs, xp)], axis=-1),
        "qh": pack(index >> 8, 2, 1, xp),
        "scales": pack(codes, 4, 1, xp),
    }


IQ2_S = BlockFormat(GGMLType.IQ2_S, 256, LAYOUT, decode, encode)
