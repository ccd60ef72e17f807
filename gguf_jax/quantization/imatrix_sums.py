"""What an importance matrix is made of: sums of squared activations and counts, and how they are merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import printable, shown

CHUNK_SIZE = 512
"""Tokens of a chunk, unless asked otherwise: llama-imatrix's, which most files of the older format were made with."""


class Sums(NamedTuple):
    """Of one weight: `in_sum2`, sums of squares of what its columns met, float `[n_mat, n_in]`, and `counts`, how many
    vectors those are, float64 `[n_mat]` and whole. `n_mat` is the number of experts, or 1."""

    in_sum2: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, eq=False)
class ImatrixSums:
    """An importance matrix before anything is divided, as files hold it and as it can be added to.

    Attributes:
        entries: weight name -> its sums, in file order.
        datasets: names of the texts that the activations are of.
        chunks: how many pieces of them were evaluated.
        chunk_size: tokens in a piece. None: read from a file of the older format, which counts in chunks instead of
            tokens and whose entries are `[1, n_mat * n_in]`.
        path: the file, where it came from one.
    """

    entries: Mapping[str, Sums]
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int | None
    path: str = field(default="")

    def in_tokens(self, chunk_size: int) -> ImatrixSums:
        """Counted in tokens and float64; what counts in chunks is taken to have had chunks of `chunk_size`."""
        unit = chunk_size if self.chunk_size is None else 1
        entries = {
            name: Sums(in_sum2.astype(np.float64) * unit, counts * unit)
            for name, (in_sum2, counts) in self.entries.items()
        }
        return replace(self, entries=entries, chunk_size=self.chunk_size or chunk_size)

    def unseen(self) -> dict[str, tuple[int, int]]:
        """Entries with experts that saw no token: how many of how many."""
        zeros = {name: int(np.sum(entry.counts == 0)) for name, entry in self.entries.items()}
        return {name: (n, len(self.entries[name].counts)) for name, n in zeros.items() if n}

    def shaped(self, weights: Mapping[str, tuple[int, int]]) -> ImatrixSums:
        """The same for a model with these weights (name -> `(n_mat, n_in)`): entries of the older format are divided
        into experts.

        Raises:
            GGUFJaxError: there is no such weight, or it has another number of columns.
        """
        entries = {}
        for name, entry in self.entries.items():
            what = f"{printable(self.path)}: entry {shown(name)}"
            if name not in weights:
                raise GGUFJaxError(f"{what}: expected a weight of the model, which has none of this name")
            n_mat, n_in = weights[name]
            if entry.in_sum2.size != n_mat * n_in:
                raise GGUFJaxError(f"{what}: expected {n_mat * n_in} values for the model, found {entry.in_sum2.size}")
            entries[name] = divided(entry, n_mat, what)
        return replace(self, entries=entries)


def divided(entry: Sums, n_mat: int, what: str) -> Sums:
    """The entry as one of `n_mat` matrices; a count that is alone is everyone's."""
    if len(entry.counts) not in (1, n_mat):
        raise GGUFJaxError(f"{what}: expected {n_mat} counts, found {len(entry.counts)}")
    return Sums(entry.in_sum2.reshape(n_mat, -1), np.broadcast_to(entry.counts, n_mat).copy())


def added(a: Mapping[str, Sums], b: Mapping[str, Sums], path: str = "") -> dict[str, Sums]:
    """Entry by entry; `path` names what `b` came from."""
    total = dict(a)
    for name, more in b.items():
        if name not in total:
            total[name] = more
            continue
        what = f"{printable(path)}: entry {shown(name)}"
        have = total[name]
        if have.in_sum2.size != more.in_sum2.size:
            raise GGUFJaxError(f"{what}: expected {have.in_sum2.size} values as before, found {more.in_sum2.size}")
        n_mat = max(len(have.counts), len(more.counts))
        have, more = divided(have, n_mat, what), divided(more, n_mat, what)
        total[name] = Sums(have.in_sum2 + more.in_sum2, have.counts + more.counts)
    return total


def merged(parts: list[ImatrixSums], chunk_size: int) -> ImatrixSums:
    """The sum of several importance matrices in chunks of `chunk_size`, entries in the order of their names, as
    llama-imatrix writes them; its number of chunks is that of the entry with most tokens.

    Raises:
        GGUFJaxError: two of them give one entry different numbers of values.
    """
    entries: dict[str, Sums] = {}
    for part in parts:
        entries = added(entries, part.in_tokens(chunk_size).entries, part.path)
    datasets = tuple(name for part in parts for name in part.datasets)
    return ImatrixSums(dict(sorted(entries.items())), datasets, chunks_of(entries, chunk_size), chunk_size)


def chunks_of(entries: Mapping[str, Sums], chunk_size: int) -> int:
    return int(max((entry.counts.max() for entry in entries.values()), default=0) // chunk_size)
