"""`prepare`: a packed weight in the layout that this machine's kernels read fastest, made once, when it is loaded."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import Unsupported
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.ops.native import panels
from gguf_jax.ops.native.library import available
from gguf_jax.ops.native.panel_layout import PanelLayout
from gguf_jax.ops.native.panels import Memory
from gguf_jax.quantized_array import QuantizedArray, Weight


def prepare(w: Weight) -> Weight:
    """The same weight, a matrix or a stack of them, as `linear`, `grouped_linear` and `take_rows` read it fastest here;
    `w` itself if that is as it is.

    Writing back (`to_blocks`) gives the same bytes. Not for tracers: this is a step of loading.
    """
    if not isinstance(w, QuantizedArray) or w.layout is not None or w.ndim not in (2, 3):
        return w
    made = prepare_blocks(w.to_blocks(), w.type)
    return w if made.layout is None else jax.tree.map(jnp.asarray, made)


def prepare_blocks(blocks: np.ndarray, type: GGMLType, memory: Memory | None = None) -> QuantizedArray:
    """`prepare` from the bytes of a file, uint8 `[..., N, bytes]`, with NumPy planes: nothing is held twice. `memory`:
    room that the weights of one model share."""
    *stack, count, row = blocks.shape
    if jax.default_backend() == "cpu" and available():
        try:
            rows = blocks.reshape(-1, row)
            columns = panels.columns_of(rows, type)
            whole = not stack or count % panels.LANES == 0  # matrices of a stack do not share a panel
            # TQ1_0 spells some values in several ways, which panels do not tell apart
            if columns % 32 == 0 and blocks.size and whole and panels.canonical(rows, type):
                packed = panels.pack(rows, type, memory)
                planes = {"panels": packed.reshape(*stack, -1, packed.shape[-1])}
                return QuantizedArray(planes, type, PanelLayout(count, columns, *stack))
        except Unsupported:
            pass
    return QuantizedArray.from_blocks(blocks, type)
