"""Importance matrices as encoders take them: for each weight, how large the activations are that its columns meet.

`read_imatrix` gives the numbers that llama-quantize passes to its encoders, to the bit: quotients in float32.
`imatrix_file` knows the formats, `imatrix_sums` what is added up.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf import Typed, ValueType
from gguf_jax.gguf.text import printable, shown
from gguf_jax.quantization.imatrix_file import read_sums
from gguf_jax.quantization.imatrix_sums import ImatrixSums, Sums

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
        path: the file; empty where there is none.
    """

    entries: Mapping[str, np.ndarray]
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int | None
    path: str = field(default="")

    def of(self, name: str, shape: Sequence[int]) -> np.ndarray | None:
        """Importance of a tensor `[out, in]` or `[experts, out, in]`, float32 `[experts, in]` with one expert where
        there are none; None: there is no entry.

        Raises:
            GGUFJaxError: the entry is of another length.
        """
        entry = self.entries.get(name)
        if entry is None:
            return None
        experts, n = (shape[-3] if len(shape) > 2 else 1), shape[-1] if shape else 1
        if entry.size != experts * n:
            expected = f"expected {experts * n} values ({experts} x {n})"
            raise GGUFJaxError(f"imatrix {printable(self.path)}: tensor {shown(name)}: {expected}, found {entry.size}")
        return np.ascontiguousarray(entry, np.float32).reshape(experts, n)

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
    return imatrix_of(read_sums(path))


def imatrix_of(sums: ImatrixSums) -> Imatrix:
    """What `read_imatrix` would give of a file of these sums, which holds them as float32."""
    mean = mean_of_calls if sums.chunk_size is None else mean_squares
    entries = {name: mean(Sums(each.in_sum2.astype(np.float32), each.counts)) for name, each in sums.entries.items()}
    return Imatrix(MappingProxyType(entries), sums.datasets, sums.chunks, sums.chunk_size, sums.path)


def mean_squares(sums: Sums) -> np.ndarray:
    """Means `[n_mat, n_in]`; ones where nothing was counted."""
    counts = sums.counts.astype(np.float32)[:, None]  # [n_mat, 1]
    seen = counts > 0
    return frozen(np.where(seen, sums.in_sum2 / np.where(seen, counts, np.float32(1)), np.float32(1)))


def mean_of_calls(sums: Sums) -> np.ndarray:
    """Means `[1, n]` of the older format. Sums are stored as means times calls; without calls they are taken as they
    stand."""
    calls = np.float32(sums.counts[0])
    return frozen(sums.in_sum2 / calls if calls else sums.in_sum2.copy())


def frozen(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values
