"""`TensorView`: one tensor of a file, of which nothing is read until its data are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gguf_jax.formats import dequantize, format_of
from gguf_jax.formats.block_format import BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.gguf.source import Source
from gguf_jax.gguf.value_type import BYTE_ORDERS


@dataclass(frozen=True, eq=False)
class TensorView:
    """One tensor of a file.

    Attributes:
        name: as in the file, at most 63 bytes.
        type: the ggml type.
        shape: in NumPy order, the slowest dimension first: `[out, in]` for a weight. Files hold the reverse.
        offset: where its data start, in bytes from the start of its file.
        nbytes: bytes of its data.
        byte_order: "little" or "big", that of the file.
        source: the file's bytes.
    """

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    byte_order: str
    source: Source

    @property
    def format(self) -> BlockFormat:
        return format_of(self.type)

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        return self.format.bits_per_weight

    @property
    def data(self) -> memoryview:
        """The bytes as they stand in the file, in its byte order, read-only and not copied.

        Raises GGUFError for a remote header, a closed file, and one that was cut after it was opened."""
        return self.source.view(self.offset, self.nbytes) if self.nbytes else memoryview(b"")

    def blocks(self) -> np.ndarray:
        """Blocks in ggml's little-endian layout: uint8 `[..., row_bytes]`, read-only. A view of the mapped file; of a
        big-endian file a copy (see `swapped`). Raises as `data` does."""
        lead = self.shape[:-1]
        row_bytes = self.format.row_bytes(self.shape[-1] if self.shape else 1)
        flat = np.frombuffer(self.data, np.uint8)
        if self.byte_order == "big":
            flat = swapped(flat, self.format, "big", "little")
            flat.flags.writeable = False
        return flat.reshape(*lead, row_bytes)

    def dequantize(self) -> np.ndarray:
        """The weights in `shape`: float32; integers and F64 in their own dtype. Raises as `data` does."""
        return dequantize(self.blocks(), self.type).reshape(self.shape)

    def __repr__(self) -> str:
        return f"TensorView({self.name!r}, {self.type.name}, {list(self.shape)})"


def swapped(blocks: np.ndarray, form: BlockFormat, found: str, wanted: str) -> np.ndarray:
    """Whole blocks, contiguous uint8 of any shape, from one byte order to the other: uint8 `[n]`.

    A big-endian file differs from a little-endian one in every number of more than a byte. In the data of a tensor
    those are the members of ggml's block struct that are wider than a byte: the halves `d`, `m` and `dmin`, and the
    16-bit words of IQ1_S, IQ2_XXS, IQ2_XS and IQ4_XS. Members declared as bytes stay, even where code reads several as
    one number (the scales of IQ1_M, the high bits of Q5_0). This is what the peer's converter does for the types that
    it handles (Q4_0, Q8_0, Q4_K, Q6_K, MXFP4, NVFP4, F32, F16, BF16); for the others no convention but this one is
    known.
    """
    source, target = (form.layout.newbyteorder(BYTE_ORDERS[order]) for order in (found, wanted))
    return np.ascontiguousarray(blocks).reshape(-1).view(source).astype(target).view(np.uint8)
