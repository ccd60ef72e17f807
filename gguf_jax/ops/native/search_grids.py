"""The grids that encoders of the IQ types search: made by `gguf_jax.formats`, handed to the library when a type is
first encoded, since that takes some tenths of a second."""

from __future__ import annotations

import ctypes

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import GGMLType
from gguf_jax.formats.grid_search import grid
from gguf_jax.ops.native.codebooks import CODEBOOKS
from gguf_jax.ops.native.library import library

_handed_over: set[GGMLType] = set()


def hand_over_search_grid(type: GGMLType) -> None:
    """Make the library ready to encode `type`; does nothing for types without a grid, and the second time.

    Raises:
        Unsupported, GGUFJaxError: see `library`; or the library refuses the grid.
    """
    home = GGMLType.IQ1_S if type == GGMLType.IQ1_M else type
    if home not in CODEBOOKS or home in _handed_over:
        return
    book = grid(CODEBOOKS[home])
    arrays = [np.ascontiguousarray(book.codes), np.ascontiguousarray(book.on_grid, np.uint8)]
    arrays += [np.ascontiguousarray(part, np.int32) for part in (book.first, book.count, book.members)]
    numbers = (home, *book.codes.shape, book.base, len(book.first))
    set_grid = library().gguf_jax_set_search_grid
    set_grid.restype = ctypes.c_int
    set_grid.argtypes = [ctypes.c_int] * 5 + [ctypes.c_void_p] * 5 + [ctypes.c_int]
    if set_grid(*numbers, *(array.ctypes.data for array in arrays), len(book.members)):
        raise GGUFJaxError(f"native kernels: {home.name}: the library does not take the grid that belongs to it")
    _handed_over.add(home)
