"""`read`: a path or an address -> `GGUFFile`, with the header checked and the tensors mapped, not loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.gguf import remote
from gguf_jax.gguf.metadata import Metadata
from gguf_jax.gguf.parse import Header, parse
from gguf_jax.gguf.shards import Part, joined_metadata, opened_with_siblings
from gguf_jax.gguf.source import FileMap, Source
from gguf_jax.gguf.tensor_view import TensorView


@dataclass(frozen=True, eq=False)
class GGUFFile:
    """An open GGUF file, or all shards of one. A context manager; closing it takes nothing from arrays already made.

    Attributes:
        paths: the files, in order; one unless the model is split.
        version: 1, 2 or 3 (of the first file, as all below).
        byte_order: "little" or "big".
        alignment: of tensor data, in bytes.
        data_offset: where tensor data start, in bytes.
        metadata: keys and values; of a split model the first file's, without the `split.*` keys.
        tensors: by name, in file order.
        size: bytes of all files together.
    """

    paths: tuple[str, ...]
    version: int
    byte_order: str
    alignment: int
    data_offset: int
    metadata: Metadata
    tensors: dict[str, TensorView]
    size: int
    _sources: tuple[Source, ...] = field(repr=False)

    @property
    def path(self) -> str:
        """The file, or the first of them."""
        return self.paths[0]

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(address: str | os.PathLike[str], *, strict: bool = False, shards: bool = True) -> GGUFFile:
    """Opens a GGUF file, version 1, 2 or 3, of either byte order.

    Args:
        address: a path, of which the tensors are mapped into memory and read when touched; or `https://...`,
            `http://...`, `hf://user/repo/file.gguf`, of which only the header is fetched. Any one shard
            (`...-00002-of-00003.gguf`) stands for all of them.
        strict: refuse what the specification forbids, not only what cannot be read safely: versions before 3, keys
            that are not lower_snake_case, strings that are not UTF-8, bools other than 0 and 1, an alignment that is
            no multiple of 8, padding that is not zero, quantized tensors without `general.quantization_version`.
        shards: whether to open the other shards of a split file too; without, one file is just that file.

    Raises:
        GGUFError: the file cannot be read or is malformed; one line that names the file and the field or tensor,
            with what was expected and what was found.
    """
    name = os.fsdecode(address)
    open_one = remote.open_part if remote.is_remote(name) else open_part

    def opened(address: str) -> Part:
        return open_one(address, strict)

    first = opened(name)
    try:
        return joined(opened_with_siblings(first, opened) if shards else [first])
    except BaseException:
        first.source.close()
        raise


def open_part(path: str, strict: bool) -> Part:
    """Maps one file and parses its header."""
    source = FileMap(path)
    try:
        header = parse(source.view(0, source.size), source.size, source.name, strict=strict)
        if strict:
            check_padding(source, header)
    except BaseException:
        source.close()
        raise
    return Part(path, header, source)


def check_padding(source: Source, header: Header) -> None:
    """Every byte between the header and the first tensor, and from one tensor to the next, must be zero."""
    at = header.end
    for info in sorted(header.tensors.values(), key=lambda info: info.offset):
        start = min(header.data_offset + info.offset, source.size)
        gap = np.frombuffer(source.view(at, max(start - at, 0)), np.uint8)
        if gap.any():
            raise GGUFError(f"{source.name}: padding at offset {at + int(gap.argmax())}: expected 0, found {gap.max()}")
        at = max(at, start + info.nbytes)


def joined(parts: Sequence[Part]) -> GGUFFile:
    first = parts[0].header
    tensors = {
        info.name: TensorView(
            info.name,
            info.type,
            info.shape,
            part.header.data_offset + info.offset,
            info.nbytes,
            part.header.byte_order,
            part.source,
        )
        for part in parts
        for info in part.header.tensors.values()
    }
    return GGUFFile(
        paths=tuple(part.address for part in parts),
        version=first.version,
        byte_order=first.byte_order,
        alignment=first.alignment,
        data_offset=first.data_offset,
        metadata=joined_metadata(parts),
        tensors=tensors,
        size=sum(part.source.size for part in parts),
        _sources=tuple(part.source for part in parts),
    )
