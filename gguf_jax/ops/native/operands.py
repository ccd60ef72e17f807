"""How a weight is handed to the native kernels: its buffers, and what says how to read them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType

from gguf_jax.errors import Unsupported
from gguf_jax.ops.native.panel_layout import PanelLayout
from gguf_jax.quantized_array import FLOATS as PLAIN
from gguf_jax.quantized_array import QuantizedArray, Weight

PANELS, FLOATS = 0, -1  # kinds
FLOAT_TYPES = {np.dtype(dtype): type for type, dtype in PLAIN.items()}


class Operands(NamedTuple):
    """`kind`: PANELS, FLOATS, or the number of planes (see src/weight.h)."""

    buffers: tuple[jax.Array, ...]
    type: int
    kind: int


def operands_of(w: Weight) -> Operands:
    """Raises Unsupported for a weight that the kernels do not read."""
    if not isinstance(w, QuantizedArray):
        if w.dtype not in FLOAT_TYPES:
            raise Unsupported(f"native kernels: expected a weight of float32, float16 or bfloat16, found {w.dtype}")
        return Operands((w,), FLOAT_TYPES[w.dtype].value, FLOATS)
    if isinstance(w.layout, PanelLayout):
        return Operands((w.planes["panels"],), w.type.value, PANELS)
    if w.shape[-1] % 32:
        raise Unsupported(f"native kernels: expected a multiple of 32 columns, found {w.shape[-1]}")
    names = w.format.layout.names or ()
    return Operands(tuple(w.planes[name] for name in names), w.type.value, len(names))


def check_placement(op: str, *values: Weight) -> None:
    """Unsupported unless the kernels can run where the arrays are: on the CPU, and not on a mesh with explicit axes.

    Panels exist only where they were made, on the CPU; other arrays are taken to be on JAX's default backend.
    """
    leaves = jax.tree.leaves(values)
    if any(AxisType.Explicit in jax.typeof(leaf).sharding.mesh.axis_types for leaf in leaves):
        raise Unsupported(f"{op}: native kernels do not run on a mesh with explicit axes")
    panels = any(isinstance(v, QuantizedArray) and isinstance(v.layout, PanelLayout) for v in values)
    if not panels and jax.default_backend() != "cpu":
        raise Unsupported(f"{op}: native kernels run on the CPU, the default backend is {jax.default_backend()}")
