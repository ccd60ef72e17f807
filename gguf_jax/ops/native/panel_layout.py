"""`PanelLayout`: a weight's blocks interleaved for the native kernels (src/panel.h says how)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.ops.native import panels
from gguf_jax.ops.native.library import ffi_target


@dataclass(frozen=True)
class PanelLayout:
    """Sixteen rows a panel: the one plane is `panels`, uint8 `[ceil(rows / 16), bytes]`; of a stack of matrices
    (experts, of whole panels each) `[stack, rows / 16, bytes]`.

    The shape stands here since the last panel may be padded; a prepared weight is on one device.
    """

    rows: int
    columns: int
    stack: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.columns) if self.stack is None else (self.stack, self.rows, self.columns)

    def of(self, stack: int | None) -> PanelLayout:
        return replace(self, stack=stack)

    def _flat(self) -> PanelLayout:
        """The matrix of all rows."""
        return PanelLayout((self.stack or 1) * self.rows, self.columns)

    def dequantize(self, planes: Mapping[str, Any], type: GGMLType) -> jax.Array:
        """float32 of the layout's shape, traceable, bit-equal to ggml's `to_float`."""
        flat, plane = self._flat(), planes["panels"]
        rows = take_rows(plane.reshape(-1, plane.shape[-1]), jnp.arange(flat.rows, dtype=jnp.int32), type, flat)
        return rows.reshape(self.shape)

    def blocks(self, planes: Mapping[str, Any], type: GGMLType) -> np.ndarray:
        """The file's bytes, uint8 `[..., rows, bytes]`."""
        flat, plane = self._flat(), np.asarray(planes["panels"])
        rows = panels.unpack(plane.reshape(-1, plane.shape[-1]), type, flat.rows, flat.columns)
        return rows.reshape(*self.shape[:-1], rows.shape[-1])


def take_rows(panel_bytes: jax.Array, ids: jax.Array, type: GGMLType, layout: PanelLayout) -> jax.Array:
    """Rows `ids [...]` (int32, clamped) of a prepared weight, decoded: float32 `[..., columns]`."""
    out = jax.ShapeDtypeStruct((*ids.shape, layout.columns), jnp.float32)
    call = jax.ffi.ffi_call(ffi_target("gguf_jax_take_rows"), out, vmap_method="sequential")
    return call(
        ids,
        panel_bytes,
        type=np.int64(type.value),
        kind=np.int64(0),
        rows=np.int64(layout.rows),
        columns=np.int64(layout.columns),
    )
