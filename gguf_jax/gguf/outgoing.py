"""Tensors on their way into a file: what `write` accepts, as a type, a shape and pieces of bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.formats import format_of
from gguf_jax.formats.block_format import BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.gguf.parse import MAX_DIMS, MAX_NAME_BYTES, tensor_nbytes
from gguf_jax.gguf.string_array import encode_string
from gguf_jax.gguf.tensor_view import TensorView
from gguf_jax.gguf.text import shown

PIECE = 1 << 22
"""Bytes that are handled at a time."""

TYPE_OF_ARRAY = {
    "float32": GGMLType.F32,
    "float16": GGMLType.F16,
    "bfloat16": GGMLType.BF16,
    "float64": GGMLType.F64,
    "int8": GGMLType.I8,
    "int16": GGMLType.I16,
    "int32": GGMLType.I32,
    "int64": GGMLType.I64,
}
"""ggml type of an array by the name of its dtype (ml_dtypes' bfloat16 is known to NumPy by name only)."""


@dataclass(frozen=True)
class Outgoing:
    """A tensor to be written: `shape` in NumPy order; `pieces()` are its data, uint8 `[n]`, each of whole blocks, in
    `byte_order`, made when they are asked for."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    nbytes: int
    byte_order: str
    pieces: Callable[[], Iterator[np.ndarray]]


def outgoing(name: str, tensor: Any) -> Outgoing:
    """Checks name, type and shape of a tensor; see `write` for what it may be."""
    if not isinstance(name, str):
        raise GGUFError(f"tensor {shown(name)}: expected a name of type str, found {type(name).__name__}")
    try:
        length = len(encode_string(name))
        if length > MAX_NAME_BYTES:
            raise GGUFError(f"expected a name of at most {MAX_NAME_BYTES} bytes, found {length}")
        # A flax variable (which forwards some attributes of what it holds, but is none of it) goes by its value.
        type_id, shape, byte_order, pieces = source_of(tensor.get_value() if hasattr(tensor, "get_value") else tensor)
        if len(shape) > MAX_DIMS:
            raise GGUFError(f"expected at most {MAX_DIMS} dimensions, found {len(shape)}")
        return Outgoing(name, GGMLType(type_id), shape, tensor_nbytes(type_id, shape), byte_order, pieces)
    except (TypeError, ValueError) as error:  # GGUFError is a ValueError; the formats raise plain ones
        raise GGUFError(f"tensor {shown(name)}: {error}") from error


def source_of(tensor: Any) -> tuple[int, tuple[int, ...], str, Callable[[], Iterator[np.ndarray]]]:
    if isinstance(tensor, TensorView):
        return tensor.type, tensor.shape, tensor.byte_order, lambda: file_pieces(tensor)
    if hasattr(tensor, "to_blocks"):
        form = format_of(int(tensor.type))
        shape = tuple(map(int, tensor.shape))
        return form.type, shape, "little", lambda: block_pieces(checked_blocks(tensor.to_blocks(), form), form)
    if hasattr(tensor, "dtype") and hasattr(tensor, "shape"):
        found = np.dtype(tensor.dtype).name
        if found not in TYPE_OF_ARRAY:
            raise GGUFError(f"expected an array of {', '.join(TYPE_OF_ARRAY)}, or (type, blocks), found {found}")
        return TYPE_OF_ARRAY[found], tuple(map(int, tensor.shape)), "little", lambda: array_pieces(np.asarray(tensor))
    if isinstance(tensor, tuple) and len(tensor) == 2:
        form = format_of(int(tensor[0]))
        blocks = checked_blocks(tensor[1], form)
        shape = (*blocks.shape[:-1], blocks.shape[-1] // form.bytes_per_block * form.block_size)
        return form.type, shape, "little", lambda: block_pieces(blocks, form)
    raise GGUFError(f"expected a TensorView, an array, (type, blocks) or blocks, found {type(tensor).__name__}")


def file_pieces(view: TensorView) -> Iterator[np.ndarray]:
    unit = view.format.bytes_per_block
    step = max(PIECE // unit, 1) * unit
    for start in range(0, view.nbytes, step):
        # Asked of the source piece by piece, so that it notices a file that is cut while it is copied.
        yield np.frombuffer(view.source.view(view.offset + start, min(step, view.nbytes - start)), np.uint8)


def checked_blocks(blocks: Any, form: BlockFormat) -> np.ndarray:
    blocks = np.asarray(blocks)
    if blocks.dtype != np.uint8 or not blocks.ndim or blocks.shape[-1] % form.bytes_per_block:
        expected = f"uint8 blocks of {form.bytes_per_block} bytes along the last axis"
        raise GGUFError(f"expected {expected}, found {blocks.dtype} {list(blocks.shape)}")
    return blocks


def block_pieces(blocks: np.ndarray, form: BlockFormat) -> Iterator[np.ndarray]:
    # With an axis for the bytes of a block, pieces end where blocks do.
    unit = form.bytes_per_block
    return array_pieces(blocks.reshape(*blocks.shape[:-1], blocks.shape[-1] // unit, unit))


def array_pieces(values: np.ndarray) -> Iterator[np.ndarray]:
    """The bytes of an array, little-endian, in C order; a view of any strides is never copied as a whole."""
    if values.nbytes <= PIECE:
        dtype = values.dtype.newbyteorder("<") if values.dtype.kind in "iuf" else values.dtype
        if values.size:
            yield np.ascontiguousarray(values, dtype).reshape(-1).view(np.uint8)
    elif len(values) == 1:
        yield from array_pieces(values[0])
    else:
        step = max(PIECE // (values.nbytes // len(values)), 1)
        for start in range(0, len(values), step):
            yield from array_pieces(values[start : start + step])
