"""Metadata and tensor descriptions -> the bytes of a header, the inverse of `parse`."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.metadata import Metadata
from gguf_jax.gguf.outgoing import Outgoing
from gguf_jax.gguf.parse import MAGIC, MAX_DEPTH
from gguf_jax.gguf.string_array import StringArray, encode_string
from gguf_jax.gguf.text import shown
from gguf_jax.gguf.value_type import BYTE_ORDERS, STRUCT_LETTERS, TYPE_OF_DTYPE, AnyType, ArrayOf, ValueType


class Encoder:
    """Numbers in one byte order; lengths in the size that the version wants."""

    def __init__(self, byte_order: str, version: int):
        self.order = BYTE_ORDERS[byte_order]
        self.length_layout = self.order + ("I" if version == 1 else "Q")

    def number(self, kind: ValueType, value: float) -> bytes:
        return struct.pack(self.order + STRUCT_LETTERS[kind], value)

    def u32(self, value: int) -> bytes:
        return self.number(ValueType.U32, value)

    def length(self, value: int) -> bytes:
        return struct.pack(self.length_layout, value)

    def string(self, value: str) -> bytes:
        raw = encode_string(value)
        return self.length(len(raw)) + raw

    def value(self, value: Any, kind: AnyType) -> Iterator[bytes]:
        if isinstance(kind, ArrayOf):
            yield from self.array(value, kind.element, 1)
        elif kind is ValueType.STRING:
            yield self.string(value)
        else:
            yield self.number(kind, value)

    def array(self, value: Any, element: ValueType, depth: int) -> Iterator[bytes]:
        if depth > MAX_DEPTH:
            raise GGUFError(f"expected arrays nested at most {MAX_DEPTH} deep, found deeper ones")
        yield self.u32(element) + self.length(len(value))
        match value:
            case StringArray():
                yield value.encoded(self.length_layout)
            case np.ndarray():
                yield value.astype(value.dtype.newbyteorder(self.order)).tobytes()
            case _:
                for inner in value:
                    yield from self.array(inner, element_of(inner), depth + 1)


def element_of(array: Any) -> ValueType:
    """Element type of an inner array, which its value tells."""
    if isinstance(array, np.ndarray):
        return TYPE_OF_DTYPE[array.dtype]
    return ValueType.STRING if isinstance(array, StringArray) else ValueType.ARRAY


def encoded_header(
    metadata: Metadata, tensors: Sequence[tuple[Outgoing, int]], byte_order: str, version: int
) -> list[bytes]:
    """The header in pieces; `tensors` with the offset of each in the data, in bytes.

    Raises GGUFError for what the version cannot hold: lengths of 2^32 in version 1."""
    encoder = Encoder(byte_order, version)
    pieces = [MAGIC + encoder.u32(version) + encoder.length(len(tensors)) + encoder.length(len(metadata))]
    for key, kind in metadata.types.items():
        try:
            pieces.append(encoder.string(key) + encoder.u32(ValueType.ARRAY if isinstance(kind, ArrayOf) else kind))
            pieces += encoder.value(metadata[key], kind)
        except (GGUFError, struct.error, OverflowError) as error:
            raise GGUFError(f"metadata key {shown(key)}: {error}") from error
    for tensor, offset in tensors:
        try:
            dims = b"".join(encoder.length(n) for n in reversed(tensor.shape))
        except struct.error as error:
            raise GGUFError(f"tensor {shown(tensor.name)}: shape {tensor.shape}: {error}") from error
        pieces.append(encoder.string(tensor.name) + encoder.u32(len(tensor.shape)) + dims)
        pieces.append(encoder.u32(tensor.type) + encoder.number(ValueType.U64, offset))
    return pieces
