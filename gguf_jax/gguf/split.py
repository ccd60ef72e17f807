"""Splitting a model into shards and joining them again, as llama.cpp's `llama-gguf-split` does it, byte for byte.

Some things are done otherwise, on purpose. A file with a `general.alignment` other than 32 keeps it in every shard; the
peer lays data out by 32 and leaves the first shard's key claiming more, which no reader then accepts. A first tensor
that is larger than the limit gets a shard to itself like any later one; the peer gives up. A shape keeps its leading
ones; the peer drops them. Any shard stands for all when it is split again or merged.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.atomic import check_room, replacing, sync_folder
from gguf_jax.gguf.encode import encoded_header
from gguf_jax.gguf.metadata import Metadata
from gguf_jax.gguf.parse import DEFAULT_ALIGNMENT
from gguf_jax.gguf.reader import GGUFFile, read
from gguf_jax.gguf.shards import COUNT, NUMBER, TENSORS
from gguf_jax.gguf.tensor_view import TensorView
from gguf_jax.gguf.text import printable, shown
from gguf_jax.gguf.value_type import INTEGERS, ValueType
from gguf_jax.gguf.values import Typed
from gguf_jax.gguf.writer import padded, write

MAX_SHARDS = 65535
"""`split.count` is a u16."""

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
"""Powers of ten: llama-gguf-split's M and G are, too."""


def size_of(text: str) -> int:
    """Bytes of a size such as `500M` or `2G`."""
    found = re.fullmatch(r"([0-9]{1,12})([KMGT])", text)
    if not found or not int(found[1]):
        raise GGUFError(
            f"size: expected a whole number and K, M, G or T (powers of ten), as in 2G, found {shown(text)}"
        )
    return int(found[1]) * UNITS[found[2]]


def groups_of(
    tensors: Mapping[str, TensorView],
    *,
    max_tensors: int | None = None,
    max_bytes: int | None = None,
    empty_first: bool = False,
) -> list[dict[str, TensorView]]:
    """The tensors of each shard, in file order.

    Args:
        tensors: all of the model's.
        max_tensors: as many in each shard but the last; or
        max_bytes: no more data than this in one, padding counted and metadata not; a tensor that is larger is alone.
        empty_first: the first shard has only metadata.
    """
    if (max_tensors is None) == (max_bytes is None):
        raise GGUFError("split: expected one of a number of tensors and a size")
    if max_tensors is not None and max_tensors < 1:
        raise GGUFError(f"tensors in a shard: expected at least 1, found {max_tensors}")
    numbers = shards_of([view.nbytes for view in tensors.values()], max_tensors=max_tensors, max_bytes=max_bytes)
    groups: list[dict[str, TensorView]] = [{} for _ in range(empty_first + max(numbers, default=0) + 1)]
    for number, (name, view) in zip(numbers, tensors.items(), strict=True):
        groups[empty_first + number][name] = view
    if len(groups) > MAX_SHARDS:
        raise too_many(len(groups))
    return groups


def shards_of(sizes: Sequence[int], *, max_tensors: int | None = None, max_bytes: int | None = None) -> list[int]:
    """The shard of each tensor, from 0, by the bytes of their data; see `groups_of`."""
    found: list[int] = []
    shard, filled, held = 0, 0, 0
    for nbytes in sizes:
        size = padded(nbytes, DEFAULT_ALIGNMENT)
        if held and (held == max_tensors if max_bytes is None else filled + size > max_bytes):
            shard, filled, held = shard + 1, 0, 0
        filled, held = filled + size, held + 1
        found.append(shard)
    if shard >= MAX_SHARDS:
        raise too_many(shard + 1)
    return found


def too_many(count: int) -> GGUFError:
    return GGUFError(f"split: expected at most {MAX_SHARDS} shards, found {count}: the limit is too small")


def shard_paths(prefix: str, count: int) -> list[str]:
    """`prefix-00001-of-00003.gguf` and so on."""
    return [f"{prefix}-{number + 1:05d}-of-{count:05d}.gguf" for number in range(count)]


def shard_metadata(metadata: Metadata, number: int, count: int, tensors: int) -> Metadata:
    """Metadata of shard `number` (from 0) of a model of `tensors` tensors; `metadata` is in the first one only."""
    own = Metadata(
        {
            NUMBER: Typed(number, ValueType.U16),
            TENSORS: Typed(tensors, ValueType.I32),
            COUNT: Typed(count, ValueType.U16),
        }
    )
    return metadata.updated({}, remove=own).updated(typed_items(own)) if number == 0 else own


def typed_items(metadata: Metadata) -> dict[str, Any]:
    return {key: Typed(value, metadata.types[key]) for key, value in metadata.items()}


def write_shards(file: GGUFFile, prefix: str, groups: Sequence[Mapping[str, TensorView]]) -> list[str]:
    """Writes a shard for each group of `file`'s tensors, all of them or none; returns their paths.

    They are written into a folder beside their targets, and are given their names once all are on disk. What had such
    a name is replaced; that may be a shard that is being read."""
    paths = shard_paths(prefix, len(groups))
    folder = os.path.dirname(os.path.abspath(prefix))
    total = sum(map(len, groups))
    try:
        check_room(folder, sum(view.nbytes for group in groups for view in group.values()), printable(prefix))
    except (OSError, ValueError) as error:
        raise (error if isinstance(error, GGUFError) else cannot(prefix, error)) from error
    with staging(prefix, folder) as hidden:
        staged = [os.path.join(hidden, os.path.basename(path)) for path in paths]
        try:
            for number, (path, group) in enumerate(zip(staged, groups, strict=True)):
                metadata = shard_metadata(file.metadata, number, len(groups), total)
                write_whole(path, metadata, group, file.byte_order, file.alignment)
        except GGUFError as error:
            shown_hidden, shown_folder = (
                printable(os.path.join(each, "")) for each in (hidden, os.path.dirname(prefix))
            )
            raise GGUFError(str(error).replace(shown_hidden, shown_folder)) from error
        place(staged, paths)
    sync_folder(folder)
    return paths


def write_whole(
    path: str, metadata: Metadata, tensors: Mapping[str, TensorView], byte_order: str, alignment: int
) -> None:
    """As `write`; where there are no tensors, the header is padded all the same, as llama-gguf-split has it."""
    if tensors:
        write(path, metadata, tensors, byte_order=byte_order, alignment=alignment)
        return
    header = b"".join(encoded_header(metadata, [], byte_order, 3))
    size = padded(len(header), alignment)
    with replacing(path, size) as file:
        file.write(header.ljust(size, b"\0"))


@contextlib.contextmanager
def staging(target: str, folder: str) -> Iterator[str]:
    """A hidden folder in `folder`, which is gone afterwards, whatever happens."""
    try:
        hidden = tempfile.mkdtemp(prefix=".", suffix=".gguf.tmp", dir=folder)
    except OSError as error:
        raise cannot(target, error) from error
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def place(staged: Sequence[str], paths: Sequence[str]) -> None:
    """Gives every file its name; where one cannot have it, those that already have are removed, unless they replaced
    another, which is gone."""
    new: list[str] = []
    try:
        for source, target in zip(staged, paths, strict=True):
            existed = os.path.lexists(target)
            try:
                os.replace(source, target)
            except OSError as error:
                raise cannot(target, error) from error
            if not existed:
                new.append(target)
    except BaseException:
        for path in new:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise


def cannot(target: str, error: Exception) -> GGUFError:
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    return GGUFError(f"{printable(target)}: cannot be written: {printable(reason)}")


def merged_metadata(whole: GGUFFile, *, split_keys: bool = True) -> Metadata:
    """Metadata of the file that the shards of `whole` become.

    With `split_keys` they are as llama-gguf-split leaves them: all of the first shard's, with a `split.count` of 0 for
    "no shard". Without, they are the model's own, and the file is the one that was split.

    Raises GGUFError if `whole` is no shard."""
    with read(whole.path, shards=False) as first:
        metadata = first.metadata
    name = printable(whole.path)
    if not metadata.get(COUNT):  # a merged file has 0
        raise GGUFError(f"{name}: {COUNT}: expected a shard's, at least 1, found {shown(metadata.get(COUNT, 'none'))}")
    for key, expected in ((NUMBER, 0), (TENSORS, len(whole.tensors))):
        if metadata.types.get(key) not in INTEGERS or metadata[key] != expected:
            raise GGUFError(f"{name}: {key}: expected {expected}, found {shown(metadata.get(key, 'none'))}")
    if not split_keys:
        return metadata.updated({}, remove=(NUMBER, COUNT, TENSORS))
    return metadata.updated({}, remove=[COUNT]).updated({COUNT: Typed(0, ValueType.U16)})


def write_merged(whole: GGUFFile, path: str, metadata: Metadata, tensors: Mapping[str, TensorView]) -> None:
    """Writes the tensors of all shards (`whole.tensors`, perhaps watched) into one file."""
    for shard in whole.paths:
        if os.path.exists(path) and os.path.samefile(path, shard):
            raise GGUFError(f"{printable(path)}: expected a file that is not one of the shards to be merged")
    write_whole(path, metadata, tensors, whole.byte_order, whole.alignment)
