"""The grids of the IQ types, which the library does not hold: it is handed those of `gguf_jax.formats`, once."""

from __future__ import annotations

import ctypes

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import GGMLType
from gguf_jax.formats.codebooks import codebook

CODEBOOKS = {
    GGMLType.IQ1_S: "iq1_s",  # serves IQ1_M too
    GGMLType.IQ2_XXS: "iq2_xxs",
    GGMLType.IQ2_XS: "iq2_xs",
    GGMLType.IQ2_S: "iq2_s",
    GGMLType.IQ3_XXS: "iq3_xxs",
    GGMLType.IQ3_S: "iq3_s",
}
"""By the type that the library knows them by."""


def hand_over(library: ctypes.CDLL) -> None:
    """Set every codebook; to do so again does nothing.

    Raises:
        GGUFJaxError: the library takes one for something else, so it is not of this version.
    """
    library.gguf_jax_set_codebook.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    library.gguf_jax_set_codebook.restype = ctypes.c_int
    for type, name in CODEBOOKS.items():
        grid = np.ascontiguousarray(codebook(name))
        if library.gguf_jax_set_codebook(type, grid.ctypes.data, *grid.shape):
            raise GGUFJaxError(f"native kernels: {type.name}: {name} is not the codebook that the library expects")
