"""IQ3_XXS: 256 weights in 8 groups of 32, 3.0625 bits per weight.

    w = d * (scale + 1/2) / 2 * +-grid[index]               scale in 0..15, one a group

Four weights at a time are one of 256 vectors with elements 4, 12, 20, ..., 52, 62; eight weights have eight signs of
which seven are stored (see `even_signs`):

    qs[k]          index[k]                                               k = 0..63
    qs[64 + 4 g]   four bytes, one 32-bit word, little-endian             g = 0..7
                   31..28    27..21      20..14      13..7       6..0
                   scale     signs[3]    signs[2]    signs[1]    signs[0]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, little_endian, lookup, negate, ungrouped
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.codebooks import codebook
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.grid_search import grid, groups_last, magnitudes, scale_codes, search, steps
from gguf_jax.formats.iq2_xxs import signs_of_word, words
from gguf_jax.formats.rounding import divided, elements_first, product
from gguf_jax.formats.scale_search import block_weights

LAYOUT = np.dtype([("d", "<f2"), ("qs", "u1", 96)])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    index, rest = planes["qs"][..., :64], planes["qs"][..., 64:]
    word = little_endian(rest.reshape(*rest.shape[:-1], 8, 4), 8)
    vectors = ungrouped(lookup(codebook("iq3_xxs"), index, xp))
    scale = planes["d"].astype(np.float32) * ((word >> 28).astype(np.float32) + 0.5) / 2
    return ungrouped(grouped(scale, negate(vectors, signs_of_word(word), xp)))


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_iq3_xxs`."""
    x = elements_first(values, 32, xp)
    weights = block_weights(values, importance, 32, 2, xp)
    magnitude, signs = magnitudes(x, weights, True, xp)
    most = xp.max(magnitude, axis=0)
    empty = most < np.float32(1e-8)
    start = divided(most, 15, xp)
    entry, scale = search(magnitude, weights, grid("iq3_xxs"), steps(15, 15, 0.2), most, start, xp.logical_not, xp)
    signs = xp.where(empty, np.uint8(0), xp.where(scale < 0, ~signs, signs))
    index = groups_last(xp.where(empty, 0, entry), xp).astype(np.uint8)
    codes, d = scale_codes(xp.where(empty, 0, xp.abs(scale)), 31, 15, xp)
    word = words(signs, codes, xp)[..., None] >> np.arange(0, 32, 8, dtype=np.uint32)
    rest = ungrouped((word & np.uint32(255)).astype(np.uint8))
    # the factor is the reference's
    return {
        "d": product(d, np.float32(1.0125), xp)[..., None].astype(np.float16),
        "qs": xp.concatenate([index, rest], axis=-1),
    }


IQ3_XXS = BlockFormat(GGMLType.IQ3_XXS, 256, LAYOUT, decode, encode)
