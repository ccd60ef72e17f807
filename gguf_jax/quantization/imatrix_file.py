"""The two formats of importance matrices: reading and writing sums of squares.

The one that is written now is a GGUF file with two F32 tensors for a weight W, `W.in_sum2` `[n_mat, n_in]` and
`W.counts` `[n_mat, 1]` (without the axis of `n_mat` where that is 1). The older one (`.dat`), little-endian, in bytes:

    n_entries i32
      name_length i32   name u8[]   calls i32   n i32   values f32[n] (mean of squares x calls)      for each entry
    chunks i32                                                                                       optional
      dataset_length i32   dataset u8[]                                                              optional

`calls` is the number of chunks that an entry was counted in. The older format therefore knows neither how many tokens
an expert saw nor how long a chunk is.
"""

from __future__ import annotations

import os
import struct
from types import MappingProxyType
from typing import Literal

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.gguf import GGUFFile, TensorView, Typed, ValueType, read, write
from gguf_jax.gguf.atomic import replacing
from gguf_jax.gguf.cursor import Cursor
from gguf_jax.gguf.parse import MAGIC
from gguf_jax.gguf.source import FileMap
from gguf_jax.gguf.text import printable, shown
from gguf_jax.gguf.value_type import ArrayOf
from gguf_jax.quantization.imatrix_sums import ImatrixSums, Sums

Format = Literal["gguf", "dat"]

DATASETS, CHUNKS, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
KEYS = {DATASETS: ArrayOf(ValueType.STRING), CHUNKS: ValueType.U32, CHUNK_SIZE: ValueType.U32}
"""The keys of a GGUF imatrix, each of which llama-quantize needs, and their types."""

SUMS, COUNTS = ".in_sum2", ".counts"

MAX_I32 = 2**31 - 1


def format_of(path: str) -> Format:
    """The format that a name asks for: the older one where it ends in `.dat`."""
    return "dat" if path.endswith(".dat") else "gguf"


def read_sums(path: str | os.PathLike[str]) -> ImatrixSums:
    """Reads either format, told apart by the first bytes.

    Raises:
        GGUFError: as `imatrix.read_imatrix`.
    """
    name = os.fsdecode(path)
    source = FileMap(name)
    try:
        if bytes(source.view(0, min(4, source.size))) != MAGIC:
            return read_legacy(name, source)
    finally:
        source.close()
    with read(name, shards=False) as file:
        return read_gguf(name, file)


def read_gguf(path: str, file: GGUFFile) -> ImatrixSums:
    where = printable(path)
    for key, kind in KEYS.items():
        found = file.metadata.types.get(key)
        if found != kind:
            raise GGUFError(
                f"{where}: {key}: expected an imatrix, with this key of type {kind}, found {found or 'none'}"
            )
    sums = {name.removesuffix(SUMS): view for name, view in file.tensors.items() if name.endswith(SUMS)}
    counts = {name.removesuffix(COUNTS): view for name, view in file.tensors.items() if name.endswith(COUNTS)}
    if not sums:
        raise GGUFError(f"{where}: expected tensors with names ending in {SUMS}, found none")
    for name in counts:
        if name not in sums:
            raise GGUFError(f"{where}: entry {shown(name)}: expected {SUMS} beside {COUNTS}, found none")
    entries = {}
    for name, view in sums.items():
        what = f"{where}: entry {shown(name)}"
        if not name:
            raise GGUFError(f"{what}: expected a name before {SUMS}, found none")
        if name not in counts:
            raise GGUFError(f"{what}: expected {COUNTS} beside {SUMS}, found none")
        entries[name] = counted(numbers(view, what), numbers(counts[name], what).ravel(), what)
    return ImatrixSums(
        entries=MappingProxyType(entries),
        datasets=tuple(file.metadata[DATASETS]),
        chunks=file.metadata[CHUNKS],
        chunk_size=file.metadata[CHUNK_SIZE],
        path=path,
    )


def numbers(view: TensorView, what: str) -> np.ndarray:
    """A tensor of the file: float32 in its shape, all finite and from 0."""
    suffix = SUMS if view.name.endswith(SUMS) else COUNTS
    if view.type is not GGMLType.F32 or not view.n_elements:
        found = f"{view.type.name} {list(view.shape)}"
        raise GGUFError(f"{what}: {suffix}: expected F32 and at least one number, found {found}")
    values = view.dequantize()
    check_numbers(values, f"{what}: {suffix}")
    return values


def check_numbers(values: np.ndarray, what: str) -> None:
    good = np.isfinite(values) & (values >= 0)
    if not good.all():
        at = int(np.argmin(good))
        raise GGUFError(f"{what}: expected finite numbers from 0, found {values.flat[at]} at {at}")


def counted(sums: np.ndarray, counts: np.ndarray, what: str) -> Sums:
    """Sums `[..., n_in]` and counts `[n_mat]` of a file, counts as C's lround has them: a half away from zero."""
    n_in = sums.shape[-1] if sums.ndim else 1
    if sums.size != len(counts) * n_in:
        expected = f"{sums.size // n_in} counts, as {SUMS} has the shape {list(sums.shape)}"
        raise GGUFError(f"{what}: {COUNTS}: expected {expected}, found {len(counts)}")
    return Sums(sums.reshape(-1, n_in), np.floor(counts.astype(np.float64) + 0.5))  # in float64, where the sum is exact


def read_legacy(path: str, source: FileMap) -> ImatrixSums:
    cursor = Cursor(source.view(0, source.size), source.size, source.name)
    n = integer(cursor, "number of entries", least=1)
    # An entry takes a name of one byte, its length, the calls, the count of values and one value.
    cursor.check_count(n, 17, "number of entries")
    entries: dict[str, Sums] = {}
    for i in range(n):
        name = text(cursor, f"name of entry {i}", least=1)
        what = f"entry {shown(name)}"
        if name in entries:
            raise cursor.fail(what, "each name once", "it twice")
        entries[name] = legacy_entry(cursor, what)
    chunks, datasets = 0, ()
    if cursor.position < cursor.size:
        chunks = integer(cursor, "number of chunks")
    if cursor.position < cursor.size:
        name = text(cursor, "dataset")
        datasets = (name,) if name else ()
    if cursor.position < cursor.size:
        raise cursor.fail("end", f"the end of the file at {cursor.position}", f"{cursor.size} bytes")
    return ImatrixSums(MappingProxyType(entries), datasets, chunks, None, path)


def legacy_entry(cursor: Cursor, what: str) -> Sums:
    """Values `[1, n]`, counted in calls."""
    calls = integer(cursor, f"calls of {what}")
    n = integer(cursor, f"number of values of {what}", least=1)
    cursor.check_count(n, 4, f"number of values of {what}")
    values = np.frombuffer(cursor.take(4 * n, f"values of {what}"), "<f4").astype(np.float32)
    check_numbers(values, f"{cursor.file}: {what}")
    return Sums(values[None], np.array([calls], np.float64))


def integer(cursor: Cursor, what: str, least: int = 0) -> int:
    found = cursor.number(ValueType.I32, what)
    if found < least:
        raise cursor.fail(what, f"at least {least}", found)
    return found


def text(cursor: Cursor, what: str, least: int = 0) -> str:
    n = integer(cursor, f"length of {what}", least)
    raw = bytes(cursor.take(n, what))
    if b"\0" in raw:
        raise cursor.fail(what, "a text without NUL", shown(raw))
    return raw.decode("utf-8", "surrogateescape")


def write_imatrix(path: str | os.PathLike[str], sums: ImatrixSums, format: Format | None = None) -> None:
    """Writes an imatrix, as a whole or not at all; without a `format` that of the name (`format_of`).

    The GGUF file keeps sums and counts, rounded to float32. The older format keeps no counts: an entry that saw nothing
    is left out, an expert that saw nothing gets ones. Its values are rounded once, from float64, so that what was read
    from a file of the older format is written back byte for byte.

    Raises:
        GGUFError: there is nothing to write, a name or a number does not fit the format, or the system refuses.
    """
    name = os.fsdecode(path)
    if not sums.entries:
        raise GGUFError(f"{printable(name)}: expected at least one entry to write, found none")
    if (format or format_of(name)) == "dat":
        content = legacy_bytes(name, sums)
        with replacing(name, len(content)) as file:
            file.write(content)
        return
    metadata = {
        "general.type": "imatrix",
        DATASETS: Typed(list(sums.datasets), KEYS[DATASETS]),
        CHUNKS: Typed(sums.chunks, KEYS[CHUNKS]),
        CHUNK_SIZE: Typed(sums.chunk_size or 0, KEYS[CHUNK_SIZE]),
    }
    tensors: dict[str, np.ndarray] = {}
    for entry, (in_sum2, counts) in sums.entries.items():
        n_mat, n_in = in_sum2.shape
        tensors[entry + SUMS] = in_sum2.astype(np.float32).reshape((n_mat, n_in) if n_mat > 1 else (n_in,))
        tensors[entry + COUNTS] = counts.astype(np.float32).reshape((n_mat, 1) if n_mat > 1 else (1,))
    write(name, metadata, tensors)


def legacy_bytes(path: str, sums: ImatrixSums) -> bytes:
    where = printable(path)
    unit = sums.chunk_size or 1  # in a file of the older format counts are calls
    kept = {name: entry for name, entry in sums.entries.items() if entry.counts.any()}
    if not kept:
        raise GGUFError(f"{where}: expected at least one entry that saw a token, found none")
    pieces = [struct.pack("<i", len(kept))]
    for name, (in_sum2, counts) in kept.items():
        calls = int(-(-counts.max() // unit))
        if max(calls, in_sum2.size) > MAX_I32:
            found = f"{calls} and {in_sum2.size}"
            raise GGUFError(f"{where}: entry {shown(name)}: expected at most {MAX_I32} calls and values, found {found}")
        seen = counts[:, None] > 0
        # the product is exact in float64; by a count of whole calls the quotient then is too
        values = np.where(seen, in_sum2.astype(np.float64), 1) * calls / np.where(seen, counts[:, None], 1)
        raw = name.encode("utf-8", "surrogateescape")
        pieces += [struct.pack("<i", len(raw)), raw, struct.pack("<ii", calls, in_sum2.size)]
        pieces.append(values.astype("<f4").tobytes())
    dataset = sums.datasets[-1].encode("utf-8", "surrogateescape") if sums.datasets else b""
    pieces += [struct.pack("<ii", min(sums.chunks, MAX_I32), len(dataset)), dataset]
    return b"".join(pieces)
