"""IQ2_XXS: 256 weights in 8 groups of 32, 2.0625 bits per weight.

    w = d * (scale + 1/2) / 4 * +-grid[index]               scale in 0..15, one a group

Eight weights at a time are one of 256 vectors with elements 8, 25, 43, and eight signs of which seven are stored (see
`even_signs`). The four 16-bit words of a group are two of 32 bits:

    first     31..24      23..16      15..8       7..0
              index[3]    index[2]    index[1]    index[0]
    second    31..28      27..21      20..14      13..7       6..0
              scale       signs[3]    signs[2]    signs[1]    signs[0]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import even_signs, grouped, little_endian, lookup, negate, ungrouped
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.codebooks import codebook
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.grid_search import grid, magnitudes, scale_codes, search, steps
from gguf_jax.formats.rounding import elements_first, product
from gguf_jax.formats.scale_search import EPSILON, block_weights, positive

LAYOUT = np.dtype([("d", "<f2"), ("qs", "<u2", 32)])


def signs_of_word(word: Array) -> Array:
    """Four sets of seven signs in the low 28 bits: uint32 `[..., n]` -> uint8 `[..., 4 * n]`; IQ3_XXS too."""
    return even_signs(ungrouped((word[..., None] >> np.arange(0, 28, 7, dtype=np.uint32)) & 127))


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    qs = planes["qs"]
    qs = qs.reshape(*qs.shape[:-1], 8, 4)
    index = ungrouped(xp.stack([qs[..., :2] & 255, qs[..., :2] >> 8], axis=-1))
    word = little_endian(qs[..., 2:], 16)
    vectors = ungrouped(lookup(codebook("iq2_xxs"), ungrouped(index), xp))
    scale = planes["d"].astype(np.float32) * ((word >> 28).astype(np.float32) + 0.5) / 4
    return ungrouped(grouped(scale, negate(vectors, signs_of_word(word), xp)))


def words(signs: Array, scale: Array, xp: Any) -> Array:
    """The 32-bit word of a group with seven of each eight signs and the scale's code: uint32 `[..., n_blocks, groups]`;
    IQ3_XXS too."""
    bits = xp.moveaxis(signs & np.uint8(127), 0, -1)
    return little_endian(bits, 7) | (scale.astype(np.uint32) << np.uint32(28))


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_iq2_xxs`."""
    x = elements_first(values, 32, xp)
    weights = block_weights(values, importance, 32, 1, xp)
    magnitude, signs = magnitudes(x, weights, True, xp)
    _, scale = positive(magnitude, weights, 4, xp)
    span = product(scale, np.float32(3), xp)
    empty = (xp.max(magnitude, axis=0) < EPSILON) | (span <= 0)
    entry, scale = search(
        magnitude, weights, grid("iq2_xxs"), steps(5, 6, 0.1), span, scale, lambda on_grid: xp.ones_like(on_grid), xp
    )
    signs = xp.where(empty, np.uint8(0), xp.where(scale < 0, ~signs, signs))
    entry = xp.where(empty, 0, entry)
    codes, d = scale_codes(xp.where(empty, 0, xp.abs(scale)), 31, 15, xp)
    first = little_endian(xp.moveaxis(entry, 0, -1), 8)
    both = xp.stack([first, words(signs, codes, xp)], axis=-1)  # [..., n_blocks, groups, 2]
    halves = xp.stack([both & np.uint32(0xFFFF), both >> np.uint32(16)], axis=-1).astype(np.uint16)
    return {"d": d[..., None].astype(np.float16), "qs": halves.reshape(*halves.shape[:-3], 32)}


IQ2_XXS = BlockFormat(GGMLType.IQ2_XXS, 256, LAYOUT, decode, encode, True)
