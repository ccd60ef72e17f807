"""The header of a GGUF file: bytes -> metadata and tensor descriptions. Pure: it sees a buffer, no file.

Everything in it is hostile; `cursor` bounds counts and lengths, and sizes are Python ints, which do not wrap.
"""

from __future__ import annotations

import array
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.formats import format_of
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.gguf.cursor import Cursor
from gguf_jax.gguf.metadata import Metadata
from gguf_jax.gguf.string_array import StringArray
from gguf_jax.gguf.text import shown
from gguf_jax.gguf.value_type import BYTE_ORDERS, DTYPES, AnyType, ArrayOf, ValueType

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_NAME_BYTES = 63
"""ggml keeps a name in 64 bytes with its final NUL."""
MAX_KEY_BYTES = 65535
"""The specification's: `write` keeps to it, and reading does where it is strict."""
MAX_DEPTH = 64
MAX_NESTED = 1 << 16
"""Inner arrays of a nested array in one file: each costs far more memory here than its 12 bytes there."""
MAX_ELEMENTS = 1 << 60
"""Below this the size of a tensor in bytes fits an int64 as any dtype, dimensions of zero counted as one."""

STRICT_KEY = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
"""The specification's lower_snake_case segments; `-` too, which it does not name and every tool writes."""


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of one tensor: `shape` in NumPy order, `offset` in bytes from the start of the data."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """A parsed header. `end` is where it ends and `data_offset` where tensor data start, in bytes of the file."""

    version: int
    byte_order: str
    alignment: int
    metadata: Metadata
    tensors: dict[str, TensorInfo]
    end: int
    data_offset: int


def parse(buffer: memoryview, size: int, file: str, *, strict: bool = False) -> Header:
    """Parses the header of `file`, which has `size` bytes, from its first bytes.

    Raises:
        GGUFError: a field is not as it must be; with `strict`, as the specification wants it.
        Incomplete: the header is longer than `buffer`.
    """
    cursor = Cursor(buffer, size, file)
    cursor.strict = strict
    version = read_version(cursor)
    n_tensors = cursor.length("tensor count")
    n_values = cursor.length("metadata count")
    # A tensor takes at least the length of its name, dimensions, type and offset; a value a key of one byte and a type.
    cursor.check_count(n_tensors, cursor.length_size + 16, "tensor count")
    cursor.check_count(n_values, cursor.length_size + 6, "metadata count")
    metadata = read_metadata(cursor, n_values)
    alignment = read_alignment(cursor, metadata)
    tensors = read_tensors(cursor, n_tensors, alignment)
    data_offset = -(-cursor.position // alignment) * alignment
    check_extents(cursor, tensors, data_offset)
    if strict:
        check_quantization_version(cursor, metadata, tensors)
    order = next(name for name, prefix in BYTE_ORDERS.items() if prefix == cursor.order)
    return Header(version, order, alignment, metadata, tensors, cursor.position, data_offset)


def read_version(cursor: Cursor) -> int:
    """Reads magic and version, and sets the byte order and the size of lengths that follow from it."""
    magic = bytes(cursor.take(4, "magic"))
    if magic != MAGIC:
        raise cursor.fail("magic", shown(MAGIC), shown(magic))
    raw = bytes(cursor.take(4, "version"))
    # No version needs more than one byte, so the byte order is the one in which the number is small.
    version = min(int.from_bytes(raw, "little"), int.from_bytes(raw, "big"))
    if version not in ((3,) if cursor.strict else (1, 2, 3)):
        raise cursor.fail("version", "3" if cursor.strict else "1, 2 or 3", version)
    cursor.order = "<" if raw[0] else ">"
    cursor.length_size = 4 if version == 1 else 8
    return version


def read_metadata(cursor: Cursor, n: int) -> Metadata:
    values: dict[str, Any] = {}
    types: dict[str, AnyType] = {}
    for i in range(n):
        key = cursor.string(f"metadata key {i}")
        what = f"metadata key {shown(key)}"
        if not key:
            raise cursor.fail(f"metadata key {i}", "a name", "an empty string")
        if key in values:
            raise cursor.fail(what, "each key once", "it twice")
        if cursor.strict and not (STRICT_KEY.fullmatch(key) and len(key) <= MAX_KEY_BYTES):
            expected = f"lower_snake_case segments with dots, at most {MAX_KEY_BYTES} bytes"
            raise cursor.fail(f"metadata key {i}", expected, shown(key))
        kind = read_value_type(cursor, what)
        if kind is ValueType.ARRAY:
            types[key], values[key] = read_array(cursor, what, 1)
        else:
            types[key], values[key] = kind, read_scalar(cursor, kind, what)
    return Metadata.trusted(values, types)


def read_value_type(cursor: Cursor, what: str) -> ValueType:
    kind = cursor.u32(f"type of {what}")
    try:
        return ValueType(kind)
    except ValueError:
        raise cursor.fail(f"type of {what}", f"0 to {int(max(ValueType))}", kind) from None


def read_scalar(cursor: Cursor, kind: ValueType, what: str) -> Any:
    if kind is ValueType.STRING:
        return cursor.string(what)
    if kind is ValueType.BOOL:
        byte = cursor.number(ValueType.U8, what)
        if cursor.strict and byte > 1:
            raise cursor.fail(what, "a bool of 0 or 1", byte)
        return byte != 0
    return cursor.number(kind, what)


def read_array(cursor: Cursor, what: str, depth: int) -> tuple[ArrayOf, Any]:
    if depth > MAX_DEPTH:
        raise cursor.fail(what, f"arrays nested at most {MAX_DEPTH} deep", "deeper ones")
    element = read_value_type(cursor, f"elements of {what}")
    kind = ArrayOf(element)
    match element:
        case ValueType.ARRAY:
            n = cursor.count(4 + cursor.length_size, f"length of {what}")
            cursor.nested += n
            if cursor.nested > MAX_NESTED:
                raise cursor.fail(what, f"at most {MAX_NESTED} inner arrays in a file", cursor.nested)
            return kind, [read_array(cursor, what, depth + 1)[1] for _ in range(n)]
        case ValueType.STRING:
            n = cursor.count(cursor.length_size, f"length of {what}")
            return kind, read_strings(cursor, n, what)
    dtype = DTYPES[element]
    n = cursor.count(dtype.itemsize, f"length of {what}")
    raw = bytes(cursor.take(n * dtype.itemsize, what))
    if element is ValueType.BOOL:
        values = np.frombuffer(raw, np.uint8)
        if cursor.strict and n and values.max() > 1:
            raise cursor.fail(what, "bools of 0 or 1", int(values.max()))
        values = values != 0
    else:
        values = np.frombuffer(raw, dtype.newbyteorder(cursor.order)).astype(dtype, copy=False)
    values.flags.writeable = False
    return kind, values


def read_strings(cursor: Cursor, n: int, what: str) -> StringArray:
    """Finds where `n` strings start. A vocabulary has hundreds of thousands, so this is the loop that counts: it does
    not look at what it reads, and lets the first length that points outside of the buffer fail on the next read.
    (Guessing all starts at once with NumPy and then checking the chain of lengths took 60 % of the time: too little.)
    """
    buffer, first, header = cursor.buffer, cursor.position, cursor.length_size
    layout = cursor.order + ("I" if header == 4 else "Q")
    length_at = struct.Struct(layout).unpack_from
    starts = array.array("q")
    position = first
    try:
        for _ in range(n):
            starts.append(position)
            position += header + length_at(buffer, position)[0]
        starts.append(position)
    except (struct.error, OverflowError, IndexError):
        at = min(position, cursor.size)
        cursor.require(header, f"string {len(starts) - 1} of {what}", at)
        raise AssertionError("unreachable: the position is inside of the file and of the buffer") from None
    cursor.require(position - first, what)
    cursor.position = position
    edges = np.frombuffer(starts, np.int64) - first
    strings = StringArray(bytes(buffer[first:position]), edges, layout)
    if cursor.strict:
        check_utf8(cursor, strings, what)
    return strings


def check_utf8(cursor: Cursor, strings: StringArray, what: str) -> None:
    for i, raw in enumerate(strings.raws()):
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise cursor.fail(f"string {i} of {what}", "UTF-8", shown(raw)) from None


def read_alignment(cursor: Cursor, metadata: Metadata) -> int:
    if "general.alignment" not in metadata:
        return DEFAULT_ALIGNMENT
    what, kind, value = "general.alignment", metadata.types["general.alignment"], metadata["general.alignment"]
    if kind is not ValueType.U32:
        raise cursor.fail(what, "type u32", f"type {kind}")
    if value.bit_count() != 1 or (cursor.strict and value % 8):
        raise cursor.fail(what, f"a power of two{', a multiple of 8' if cursor.strict else ''}", value)
    return value


def read_tensors(cursor: Cursor, n: int, alignment: int) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for i in range(n):
        info = read_tensor(cursor, i, alignment)
        if info.name in tensors:
            raise cursor.fail(f"tensor {shown(info.name)}", "each name once", "it twice")
        tensors[info.name] = info
    return tensors


def read_tensor(cursor: Cursor, index: int, alignment: int) -> TensorInfo:
    name = cursor.string(f"name of tensor {index}", MAX_NAME_BYTES)
    what = f"tensor {shown(name)}"
    n_dims = cursor.u32(f"{what}: number of dimensions")
    if n_dims > MAX_DIMS:
        raise cursor.fail(f"{what}: number of dimensions", f"at most {MAX_DIMS}", n_dims)
    shape = tuple(cursor.length(f"{what}: dimension {d}") for d in range(n_dims))[::-1]
    type_id = cursor.u32(f"{what}: type")
    offset = cursor.u64(f"{what}: offset")
    try:
        nbytes = tensor_nbytes(type_id, shape)
    except ValueError as error:
        raise GGUFError(f"{cursor.file}: {what}: {error}") from None
    if offset % alignment:
        raise cursor.fail(f"{what}: offset", f"a multiple of the alignment {alignment}", offset)
    return TensorInfo(name, GGMLType(type_id), shape, offset, nbytes)


def tensor_nbytes(type_id: int, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; GGUFError (or the format's ValueError) where type and shape do not go together."""
    form = format_of(type_id)
    elements, nonzero = 1, 1
    for n in shape:
        elements *= n
        nonzero *= max(n, 1)
    if nonzero >= MAX_ELEMENTS:
        raise GGUFError(f"shape {shape}: expected fewer than {MAX_ELEMENTS} elements, found {nonzero}")
    row = shape[-1] if shape else 1
    return form.row_bytes(row) * (elements // row if row else 0)


def check_extents(cursor: Cursor, tensors: dict[str, TensorInfo], data_offset: int) -> None:
    """Every tensor must lie in the file, and no two may share a byte."""
    end, previous = 0, ""
    for info in sorted(tensors.values(), key=lambda info: info.offset):
        what = f"tensor {shown(info.name)}"
        if not info.nbytes:
            continue
        if data_offset + info.offset + info.nbytes > cursor.size:
            found = f"{max(cursor.size - data_offset - info.offset, 0)} to the end of the file"
            raise cursor.fail(what, f"{info.nbytes} bytes at offset {data_offset + info.offset}", found)
        if info.offset < end:
            raise cursor.fail(f"{what}: offset", f"at least {end}, where {shown(previous)} ends", info.offset)
        end, previous = info.offset + info.nbytes, info.name


def check_quantization_version(cursor: Cursor, metadata: Metadata, tensors: dict[str, TensorInfo]) -> None:
    key = "general.quantization_version"
    if key not in metadata and any(format_of(info.type).is_quantized for info in tensors.values()):
        raise cursor.fail(key, "a u32, as there are quantized tensors", "none")
