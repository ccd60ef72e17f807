"""`.safetensors` files: tensors as rows of a mapped file.

The format is eight bytes of length, that many bytes of JSON, then data (the `safetensors` package's README). It is read
here and not by that package, whose tensors are whole or not at all: a conversion in bounded memory wants rows, given
back to the system when they are done with, and bfloat16 without PyTorch. Writing is the same few lines in the other
direction.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.formats import GGMLType
from gguf_jax.gguf.atomic import replacing
from gguf_jax.gguf.source import FileMap
from gguf_jax.gguf.text import printable, shown

MAX_HEADER = 100_000_000
"""Bytes of JSON, as the package limits them."""

DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U8": np.dtype("u1"),  # MXFP4 blocks and their scales
    "I64": np.dtype("<i8"),  # position ids, which nothing needs
    "BOOL": np.dtype("?"),  # masks, likewise
}
"""The dtypes that models here have; a tensor of another one is named when it is asked for."""

WEIGHTS = {"F32": GGMLType.F32, "F16": GGMLType.F16, "BF16": GGMLType.BF16}
"""Those that weights may have, as ggml types."""

SIZES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
"""Bytes of an element of every dtype whose header can be checked."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a mapped file: `offset` and `nbytes` are those of its data. Rows are of its last axis."""

    name: str
    dtype_name: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    source: FileMap

    @property
    def dtype(self) -> np.dtype:
        if self.dtype_name not in DTYPES:
            known = ", ".join(WEIGHTS)
            raise GGUFError(f"{self.source.name}: tensor {shown(self.name)}: expected {known}, found {self.dtype_name}")
        return DTYPES[self.dtype_name]

    @property
    def columns(self) -> int:
        return self.shape[-1] if self.shape else 1

    def rows(self, first: int, last: int) -> np.ndarray:
        """`[last - first, columns]`, a view of the mapped file."""
        row = self.columns * self.dtype.itemsize
        data = self.source.view(self.offset + first * row, (last - first) * row)
        return np.frombuffer(data, self.dtype).reshape(last - first, self.columns)

    def whole(self) -> np.ndarray:
        """The tensor in its shape, a view of the mapped file."""
        return np.frombuffer(self.source.view(self.offset, self.nbytes), self.dtype).reshape(self.shape)

    def release(self, first: int, last: int) -> None:
        row = self.columns * self.dtype.itemsize
        self.source.release(self.offset + first * row, (last - first) * row)


def read_safetensors(path: str) -> dict[str, StoredTensor]:
    """The tensors of a file, by name, in the order of their data.

    Raises:
        GGUFError: the file cannot be read, or its header contradicts itself or the file's size.
    """
    source = FileMap(path)
    try:
        tensors = dict(sorted(_tensors(source), key=lambda item: item[1].offset))
        _check_overlap(source.name, tensors.values())
    except BaseException:
        source.close()
        raise
    return tensors


def _tensors(source: FileMap) -> Iterator[tuple[str, StoredTensor]]:
    name, size = source.name, source.size
    length = int.from_bytes(source.view(0, 8), "little") if size >= 8 else size
    if size < 8 or length > min(size - 8, MAX_HEADER):
        limit = max(0, min(size - 8, MAX_HEADER))
        raise GGUFError(f"{name}: expected a safetensors header of at most {limit} bytes, found {length}")
    try:
        header = json.loads(bytes(source.view(8, length)))
    except (ValueError, RecursionError) as error:
        raise GGUFError(f"{name}: expected a safetensors header of JSON, found {shown(str(error))}") from None
    if not isinstance(header, dict):
        raise GGUFError(f"{name}: expected a safetensors header that is a JSON object, found {type(header).__name__}")
    start = 8 + length
    for tensor, entry in header.items():
        if tensor != "__metadata__":
            yield tensor, _tensor(source, start, tensor, entry)


def _tensor(source: FileMap, start: int, name: str, entry: object) -> StoredTensor:
    where = f"{source.name}: tensor {shown(name)}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise GGUFError(f"{where}: expected dtype, shape and data_offsets, found {shown(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise GGUFError(f"{where}: dtype: expected one of {', '.join(SIZES)}, found {shown(dtype)}")
    if not _are_counts(shape) or len(shape) > 8:
        raise GGUFError(f"{where}: shape: expected at most 8 lengths, found {shown(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise GGUFError(f"{where}: data_offsets: expected two offsets, found {shown(offsets)}")
    begin, end = offsets
    nbytes = math.prod(shape) * SIZES[dtype]
    if end - begin != nbytes:
        raise GGUFError(f"{where}: data_offsets: expected {nbytes} bytes for {dtype} {shape}, found {end - begin}")
    if start + end > source.size:
        raise GGUFError(f"{where}: data_offsets: expected an end of at most {source.size - start}, found {end}")
    return StoredTensor(name, dtype, tuple(shape), start + begin, nbytes, source)


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 62 for v in values)


def _check_overlap(name: str, tensors: Iterable[StoredTensor]) -> None:
    end = 0
    for tensor in tensors:
        if tensor.nbytes and tensor.offset < end:
            raise GGUFError(f"{name}: tensor {shown(tensor.name)}: expected data of its own, found another tensor's")
        end = max(end, tensor.offset + tensor.nbytes)


@dataclass(frozen=True)
class Outgoing:
    """A tensor to be written: `pieces` are its bytes, made when they are asked for."""

    dtype_name: str
    shape: tuple[int, ...]
    pieces: Iterable[np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * SIZES[self.dtype_name]


def write_safetensors(path: str, tensors: Mapping[str, Outgoing]) -> None:
    """Writes a file, whole or not at all."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    at = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype_name,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path, 8 + len(text) + at) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            written = 0
            for piece in tensor.pieces:
                file.write(piece.tobytes())
                written += piece.nbytes
            if written != tensor.nbytes:
                raise GGUFError(f"{printable(path)}: {name}: expected {tensor.nbytes} bytes, found {written}")
