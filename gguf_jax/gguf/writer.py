"""`write`: metadata and tensors -> a GGUF file, streamed beside its target and then renamed over it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gguf_jax.errors import GGUFError
from gguf_jax.formats import format_of
from gguf_jax.gguf.atomic import replacing
from gguf_jax.gguf.encode import encoded_header
from gguf_jax.gguf.metadata import Metadata
from gguf_jax.gguf.outgoing import PIECE, Outgoing, outgoing
from gguf_jax.gguf.parse import DEFAULT_ALIGNMENT, MAX_KEY_BYTES
from gguf_jax.gguf.string_array import encode_string
from gguf_jax.gguf.tensor_view import swapped
from gguf_jax.gguf.text import printable, shown
from gguf_jax.gguf.value_type import BYTE_ORDERS, ValueType
from gguf_jax.gguf.values import Typed


def write(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Any],
    *,
    byte_order: str = "little",
    alignment: int | None = None,
    version: int = 3,
) -> None:
    """Writes a GGUF file, in place of whatever file has that path, as a whole or not at all.

    Everything is checked before the first byte is written. Data are streamed: a few megabytes are held at a time
    (besides one tensor at a time of those that `to_blocks` makes). The target may be a file that is being read: what is
    mapped of it stays valid.

    Args:
        path: the file; its folder must exist.
        metadata: a `Metadata`, which keeps its types, or a mapping of plain values, whose types are: bool; int, the
            first of u32, i32, u64, i64 that holds it; float, f32; str; NumPy scalars and one-dimensional arrays, their
            own; a list, the array of its elements' type, one for all of them. `Typed(value, type)` says otherwise.
        tensors: by name, in the order of the file; each one a `TensorView`; an array in NumPy order (float32, float16,
            bfloat16, float64, int8 ... int64); `(type, blocks)` with blocks uint8 `[..., row_bytes]` in ggml's
            little-endian layout; anything with `.type`, `.shape` and `.to_blocks()`, which returns such blocks; or a
            flax variable that holds one of these.
        byte_order: "little" or "big"; see `tensor_view.swapped` for what a big-endian tensor is.
        alignment: of tensor data, a power of two; by default that of `general.alignment` in the metadata, else 32.
            One that is not 32 is put into the metadata.
        version: 3; 1 and 2 for old readers.

    Raises:
        GGUFError: an argument cannot be written, the disk has no room, or the system refuses.
    """
    target = os.fsdecode(path)
    try:
        if byte_order not in BYTE_ORDERS:
            raise GGUFError(f"byte order: expected little or big, found {byte_order!r}")
        if version not in (1, 2, 3):
            raise GGUFError(f"version: expected 1, 2 or 3, found {version!r}")
        values = checked_metadata(metadata, alignment)
        unit = values.get("general.alignment", DEFAULT_ALIGNMENT)
        placed: list[tuple[Outgoing, int]] = []
        end = 0
        for name, tensor in tensors.items():
            placed.append((outgoing(name, tensor), end))
            end += padded(placed[-1][0].nbytes, unit)
        header = encoded_header(values, placed, byte_order, version)
    except GGUFError as error:
        raise GGUFError(f"{printable(target)}: {error}") from error

    header_bytes = sum(map(len, header))
    data_offset = padded(header_bytes, unit) if placed else header_bytes
    with replacing(target, data_offset + end) as file:
        for piece in header:
            file.write(piece)
        write_zeros(file, data_offset - header_bytes)
        for tensor, _ in placed:
            write_tensor(file, tensor, byte_order, target)
            write_zeros(file, padded(tensor.nbytes, unit) - tensor.nbytes)


def padded(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


def checked_metadata(metadata: Mapping[str, Any], alignment: int | None) -> Metadata:
    values = metadata if isinstance(metadata, Metadata) else Metadata(metadata)
    key = "general.alignment"
    if alignment is not None and alignment != values.get(key, DEFAULT_ALIGNMENT):
        values = values.updated({key: Typed(alignment, ValueType.U32)})
    if key in values and (values.types[key] is not ValueType.U32 or values[key].bit_count() != 1):
        raise GGUFError(f"{key}: expected a power of two of type u32, found {values[key]} of type {values.types[key]}")
    for name in values:
        check_key(name)
    return values


def check_key(key: Any) -> None:
    if not isinstance(key, str):
        raise GGUFError(f"metadata key {shown(key)}: expected a key of type str, found {type(key).__name__}")
    try:
        n = len(encode_string(key))
    except GGUFError as error:
        raise GGUFError(f"metadata key {error}") from error
    if not 1 <= n <= MAX_KEY_BYTES:
        raise GGUFError(f"metadata key {shown(key)}: expected 1 to {MAX_KEY_BYTES} bytes, found {n}")


def write_tensor(file: Any, tensor: Outgoing, byte_order: str, path: str) -> None:
    form = format_of(tensor.type)
    written = 0
    for piece in tensor.pieces():
        written += len(piece)
        if written > tensor.nbytes:
            break
        in_order = piece if tensor.byte_order == byte_order else swapped(piece, form, tensor.byte_order, byte_order)
        file.write(in_order.data)
    if written != tensor.nbytes:
        expected = f"{tensor.nbytes} bytes for shape {list(tensor.shape)}"
        raise GGUFError(f"{printable(path)}: tensor {shown(tensor.name)}: expected {expected}, found {written}")


def write_zeros(file: Any, n: int) -> None:
    for start in range(0, n, PIECE):
        file.write(bytes(min(PIECE, n - start)))
