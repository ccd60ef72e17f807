"""IQ2_XS: 256 weights in 16 groups of 16, 2.3125 bits per weight.

    w = d * (scale + 1/2) / 4 * +-grid[index]               scale in 0..15, one a group

Eight weights at a time are one of 512 vectors with elements 8, 25, 43, and eight signs of which seven are stored (see
`even_signs`):

    qs[k]        15..9       8..0
                 signs[k]    index[k]
    scales[i]    7 6 5 4             3 2 1 0
                 scale[2 i + 1]      scale[2 i]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import even_signs, grouped, lookup, negate, pack, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.codebooks import codebook
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.grid_search import grid, groups_last, magnitudes, scale_codes, search, steps
from gguf_jax.formats.rounding import divided, elements_first
from gguf_jax.formats.scale_search import EPSILON, block_weights

LAYOUT = np.dtype([("d", "<f2"), ("qs", "<u2", 32), ("scales", "u1", 8)])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    qs = planes["qs"]
    vectors = ungrouped(lookup(codebook("iq2_xs"), qs & 511, xp))
    scale = planes["d"].astype(np.float32) * (unpack(planes["scales"], 4, 1, xp).astype(np.float32) + 0.5) / 4
    return ungrouped(grouped(scale, negate(vectors, even_signs(qs >> 9), xp)))


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_iq2_xs`."""
    x = elements_first(values, 16, xp)
    weights = block_weights(values, importance, 16, 1, xp)
    magnitude, signs = magnitudes(x, weights, True, xp)
    most = xp.max(magnitude, axis=0)
    empty = most < EPSILON
    start = divided(most, 5, xp)
    entry, scale = search(magnitude, weights, grid("iq2_xs"), steps(5, 9, 0.1), most, start, xp.logical_not, xp)
    signs = xp.where(empty, np.uint8(0), xp.where(scale < 0, ~signs, signs)) & np.uint8(127)
    qs = xp.where(empty, 0, entry).astype(np.uint16) | (signs.astype(np.uint16) << np.uint16(9))
    codes, d = scale_codes(xp.where(empty, 0, xp.abs(scale)), 31, 15, xp)
    return {"d": d[..., None].astype(np.float16), "qs": groups_last(qs, xp), "scales": pack(codes, 4, 1, xp)}


IQ2_XS = BlockFormat(GGMLType.IQ2_XS, 256, LAYOUT, decode, encode, True)
