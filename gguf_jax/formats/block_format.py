"""`BlockFormat`: everything the project knows about one ggml type, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax.formats.ggml_type import GGMLType

Array = Any
"""A NumPy or JAX array: decoders are written once against the namespace `xp` that they are handed."""


@dataclass(frozen=True)
class BlockFormat:
    """One ggml type.

    Attributes:
        type: the id that stands in files.
        block_size: weights in a block.
        layout: packed little-endian structured dtype of one block; its fields, in order, are ggml's struct members.
        decode: `decode(planes, xp) -> [..., n_blocks, block_size]`, float32 (integer types and F64: their own dtype);
            `planes[field]` is `[..., n_blocks, width]` in the field's dtype; `xp` is `numpy` or `jax.numpy`.
    """

    type: GGMLType
    block_size: int
    layout: np.dtype
    decode: Callable[[Mapping[str, Array], Any], Array]
    encode: Callable[[Array, Array | None, Any], dict[str, Array]] | None = None
    needs_importance: bool = False

    @property
    def name(self) -> str:
        return self.type.name

    @property
    def bytes_per_block(self) -> int:
        return self.layout.itemsize

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes_per_block / self.block_size

    @property
    def is_quantized(self) -> bool:
        return self.block_size > 1

    @property
    def widths(self) -> dict[str, int]:
        """Elements of each field in one block, in the order of the layout."""
        return {name: int(np.prod(self.layout[name].shape, dtype=int)) for name in self._names}

    @property
    def _names(self) -> tuple[str, ...]:
        assert self.layout.names is not None
        return self.layout.names

    def row_bytes(self, n: int) -> int:
        """Bytes of a row of `n` weights; ValueError when `n` is no multiple of the block."""
        blocks, rest = divmod(n, self.block_size)
        if rest:
            raise ValueError(f"{self.name}: a row of {n} weights is not a multiple of the block size {self.block_size}")
        return blocks * self.bytes_per_block

    def split(self, blocks: np.ndarray) -> dict[str, np.ndarray]:
        """File bytes, uint8 `[..., n_blocks * bytes_per_block]` -> contiguous planes `[..., n_blocks * width]`."""
        records = np.ascontiguousarray(blocks).view(self.layout)
        return {
            name: np.ascontiguousarray(records[name]).reshape(*records.shape[:-1], records.shape[-1] * width)
            for name, width in self.widths.items()
        }

    def join(self, planes: Mapping[str, np.ndarray]) -> np.ndarray:
        """The inverse of `split`: planes -> uint8 `[..., n_blocks * bytes_per_block]`, byte for byte."""
        first, width = next(iter(self.widths.items()))
        *lead, n = np.shape(planes[first])
        records = np.empty((*lead, n // width), self.layout)
        for name in self._names:
            records[name] = np.asarray(planes[name]).reshape(records[name].shape)
        return records.view(np.uint8)

    def blocked(self, planes: Mapping[str, Array]) -> dict[str, Array]:
        """Planes `[..., n_blocks * width]` -> `[..., n_blocks, width]`, the shape that `decode` takes."""
        return {
            name: planes[name].reshape(*planes[name].shape[:-1], planes[name].shape[-1] // width, width)
            for name, width in self.widths.items()
        }

    def decode_planes(self, planes: Mapping[str, Array], xp: Any) -> Array:
        """Planes `[..., n_blocks * width]` -> weights `[..., n]`."""
        values = self.decode(self.blocked(planes), xp)
        return values.reshape(*values.shape[:-2], values.shape[-2] * self.block_size)

    def encoder(self, n: int, *, weighted: bool) -> Callable[[Array, Array | None, Any], dict[str, Array]]:
        """`encode`, for rows of `n` weights with or without importance; raises as `encode_planes`."""
        if self.encode is None:
            raise ValueError(f"{self.name}: weights cannot be encoded as this type")
        if self.needs_importance and not weighted:
            raise ValueError(f"{self.name}: weights can be encoded only with their importance")
        self.row_bytes(n)
        return self.encode

    def encode_planes(self, values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
        """Weights, float32 `[..., n]`, and their importance `[n]` or `[..., n]` -> planes `[..., n_blocks * width]`.

        Raises:
            ValueError: the type cannot be encoded, or needs an importance; `n` is no multiple of the block.
        """
        *lead, n = values.shape
        encode = self.encoder(n, weighted=importance is not None)
        blocks = n // self.block_size
        shape = (*lead, blocks, self.block_size)
        if importance is not None:
            importance = xp.broadcast_to(importance, values.shape).reshape(shape)
        with np.errstate(all="ignore"):  # lanes whose result is not used divide by zero, and scales may overflow
            planes = encode(values.reshape(shape), importance, xp)
        return {name: planes[name].reshape(*lead, blocks * width) for name, width in self.widths.items()}
