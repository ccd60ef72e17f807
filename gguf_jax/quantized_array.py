"""`QuantizedArray`: a packed ggml weight as a pytree that has the rank of the logical array.

Each field of the type's block is one plane `[..., n_blocks * width]`. Because every plane keeps the logical rank and
the leading axes, one PartitionSpec fits all of them, and vmap, scan, gather on a leading axis and shard_map act on the
planes as they would on the weight itself. The shape is read off the planes, so it is right after each of these.

The road not taken: one uint8 leaf with the file's interleaved bytes. It would need a byte-level reinterpretation of
float16 scales inside every kernel, and its last axis would not divide where the weight's does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from gguf_jax.formats import FORMATS, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType


class Layout(Protocol):
    """How a prepared weight lies in its planes (see `ops.prepare`). Hashable: it is static under jit."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape, in weights."""
        ...

    def of(self, stack: int | None) -> Layout:
        """The same for a stack of so many of its matrices, or for one alone."""
        ...

    def dequantize(self, planes: Mapping[str, Any], type: GGMLType) -> jax.Array:
        """float32 values, traceable."""
        ...

    def blocks(self, planes: Mapping[str, Any], type: GGMLType) -> np.ndarray:
        """The file's bytes, on the host."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class QuantizedArray:
    """A packed weight.

    Attributes:
        planes: field name -> array `[..., n_blocks * width]` in the field's dtype (see `FORMATS[type].layout`).
        type: the ggml type; static under jit.
        layout: static; None, or what a kernel's own packing is that `ops.prepare` made. The planes are then the
            layout's, and writing back gives the same bytes.

    It has no arithmetic and no `__jax_array__`: decoding is asked for by name (`dequantize`, `ops.linear`,
    `ops.take_rows`). Nothing is validated on construction, since JAX builds instances with tracers, shapes,
    shardings and sentinels as leaves.
    """

    planes: Mapping[str, Any]
    type: GGMLType = field(metadata=dict(static=True))
    layout: Layout | None = field(default=None, metadata=dict(static=True))

    @property
    def format(self) -> BlockFormat:
        return FORMATS[self.type]

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape `[..., n]`, in weights."""
        if self.layout is not None:
            return self.layout.shape
        name, width = next(iter(self.format.widths.items()))
        *lead, n = self.planes[name].shape
        return (*lead, n // width * self.format.block_size)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the planes, which without a layout is the size in a file."""
        return sum(plane.nbytes for plane in self.planes.values())

    @property
    def bits_per_weight(self) -> float:
        return self.format.bits_per_weight

    def dequantize(self, dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
        """The weight decoded, `[..., n]`: bit-equal to ggml's `to_float` in float32, then rounded once to `dtype`."""
        if self.layout is not None:
            return self.layout.dequantize(self.planes, self.type).astype(dtype)
        return self.format.decode_planes(self.planes, jnp).astype(dtype)

    def take(self, index: jax.Array) -> QuantizedArray:
        """Of a stack of matrices `[n, rows, columns]` those at int `index [m]`, or the one at `index []`: packed as
        they are, and traceable. What is out of range is clipped."""
        layout = None if self.layout is None else self.layout.of(index.size if index.ndim else None)
        planes = {name: jnp.take(plane, index, axis=0, mode="clip") for name, plane in self.planes.items()}
        return QuantizedArray(planes, self.type, layout)

    def to_blocks(self) -> np.ndarray:
        """The file's bytes, uint8 `[..., n_blocks * bytes_per_block]`, on the host."""
        if self.layout is not None:
            return self.layout.blocks(self.planes, self.type)
        return self.format.join({name: np.asarray(plane) for name, plane in self.planes.items()})

    @classmethod
    def from_blocks(cls, blocks: np.ndarray, type: GGMLType) -> QuantizedArray:
        """From the file's bytes, uint8 `[..., n_blocks * bytes_per_block]`. The planes are NumPy arrays:
        placing them on a device (`jax.device_put`) is the caller's explicit step."""
        return cls(FORMATS[type].split(blocks), type)

    def __repr__(self) -> str:
        try:
            shape = "x".join(map(str, self.shape))
        except (AttributeError, KeyError, TypeError):  # leaves may be anything while JAX maps over the tree
            return f"QuantizedArray({self.type.name}, planes={dict(self.planes)!r})"
        return f"QuantizedArray({self.type.name}, [{shape}], {self.bits_per_weight:g} bits per weight)"


FLOATS = {GGMLType.F32: np.float32, GGMLType.F16: np.float16, GGMLType.BF16: ml_dtypes.bfloat16}
"""Types that are plain float arrays of that dtype, as weights and in caches."""

Weight = QuantizedArray | jax.Array
"""What an op takes as a weight: packed, or a float array of the same logical shape."""
