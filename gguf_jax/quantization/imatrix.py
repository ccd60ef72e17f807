"""Importance matrices: for each weight, how large the activations are that its columns meet, as `llama-imatrix` counts.

Two formats hold the same sums of squares. The one that is written now is a GGUF file with two F32 tensors for a weight
W, `W.in_sum2` `[n_mat, n_in]` and `W.counts` `[n_mat, 1]`. The older one (`.dat`), little-endian, in bytes:

    n_entries i32
      name_length i32   name u8[]   calls i32   n i32   values f32[n] (mean of squares x calls)      for each entry
    chunks i32                                                                                       optional
      dataset_length i32   dataset u8[]                                                              optional

`read_imatrix` gives the numbers that llama-quantize passes to its encoders, to the bit: quotients in float32.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.gguf import GGUFFile, TensorView, Typed, ValueType, read
from gguf_jax.gguf.cursor import Cursor
from gguf_jax.gguf.parse import MAGIC
from gguf_jax.gguf.source import FileMap
from gguf_jax.gguf.text import printable, shown
from gguf_jax.gguf.value_type import ArrayOf

DATASETS, CHUNKS, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
KEYS = {DATASETS: ArrayOf(ValueType.STRING), CHUNKS: ValueType.U32, CHUNK_SIZE: ValueType.U32}
"""The keys of a GGUF imatrix, each of which llama-quantize needs, and their types."""

SUMS, COUNTS = ".in_sum2", ".counts"

MAX_TEXT = 127
"""Bytes of a string that llama-quantize puts into the metadata of a model: what its C struct holds."""


@dataclass(frozen=True, eq=False)
class Imatrix:
    """Importance of the columns of weights.

    Attributes:
        entries: weight name -> mean squared activations, float32 `[n_mat, n_in]`, read-only, in file order. `n_mat` is
            the number of experts, or 1. An expert that saw no token has ones. The older format does not say how many
            experts there are: its entries are `[1, n_mat * n_in]`, the experts one after another.
        datasets: names of the texts that the activations are of.
        chunks: how many pieces of them were evaluated, 0 where the file does not say.
        chunk_size: tokens in a piece; None in the older format.
        path: the file.
    """

    entries: Mapping[str, np.ndarray]
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int | None
    path: str = field(default="")

    def metadata(self, entries: int | None = None) -> dict[str, Typed]:
        """The keys by which llama-quantize says in a model that it was made with this imatrix, with its types: strings
        end after 127 bytes, of several datasets there is the first. `entries` is how many were used, if not all."""
        values = {"quantize.imatrix.file": Typed(cut(self.path), ValueType.STRING)}
        if self.datasets:
            values["quantize.imatrix.dataset"] = Typed(cut(self.datasets[0]), ValueType.STRING)
        used = len(self.entries) if entries is None else entries
        values["quantize.imatrix.entries_count"] = Typed(used, ValueType.U32)
        if self.chunks > 0:
            values["quantize.imatrix.chunks_count"] = Typed(self.chunks, ValueType.U32)
        return values


def cut(text: str) -> str:
    """As a C string of at most 127 bytes; where that ends inside of a character, half of it stays, as there."""
    raw = text.encode("utf-8", "surrogateescape").partition(b"\0")[0][:MAX_TEXT]
    return raw.decode("utf-8", "surrogateescape")


def read_imatrix(path: str | os.PathLike[str]) -> Imatrix:
    """Reads an imatrix of either format, told apart by the first bytes.

    Raises:
        GGUFError: the file cannot be read or is malformed, or an entry holds a number that no mean of squares can be;
            one line that names the file and the entry, with what was expected and what was found.
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


def read_gguf(path: str, file: GGUFFile) -> Imatrix:
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
        entries[name] = mean_squares(numbers(view, what), numbers(counts[name], what).ravel(), what)
    return Imatrix(
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


def mean_squares(sums: np.ndarray, counts: np.ndarray, what: str) -> np.ndarray:
    """Sums `[..., n_in]` and counts `[n_mat]` -> means `[n_mat, n_in]`; ones where nothing was counted."""
    n_in = sums.shape[-1] if sums.ndim else 1
    if sums.size != len(counts) * n_in:
        expected = f"{sums.size // n_in} counts, as {SUMS} has the shape {list(sums.shape)}"
        raise GGUFError(f"{what}: {COUNTS}: expected {expected}, found {len(counts)}")
    # C's lround: a half is rounded away from zero. In float64, where the sum is exact.
    rounded = np.floor(counts.astype(np.float64) + 0.5).astype(np.float32)[:, None]  # [n_mat, 1]
    seen = rounded > 0
    means = np.where(seen, sums.reshape(-1, n_in) / np.where(seen, rounded, np.float32(1)), np.float32(1))
    means.flags.writeable = False
    return means


def read_legacy(path: str, source: FileMap) -> Imatrix:
    cursor = Cursor(source.view(0, source.size), source.size, source.name)
    n = integer(cursor, "number of entries", least=1)
    # An entry takes a name of one byte, its length, the calls, the count of values and one value.
    cursor.check_count(n, 17, "number of entries")
    entries: dict[str, np.ndarray] = {}
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
    return Imatrix(MappingProxyType(entries), datasets, chunks, None, path)


def legacy_entry(cursor: Cursor, what: str) -> np.ndarray:
    """Means `[1, n]`. Sums are stored as means times calls; without calls they are taken as they stand."""
    calls = integer(cursor, f"calls of {what}")
    n = integer(cursor, f"number of values of {what}", least=1)
    cursor.check_count(n, 4, f"number of values of {what}")
    values = np.frombuffer(cursor.take(4 * n, f"values of {what}"), "<f4").astype(np.float32)
    check_numbers(values, f"{cursor.file}: {what}")
    if calls:
        values /= np.float32(calls)
    values.flags.writeable = False
    return values[None]


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
