"""`compare_files`: how far every tensor of one file is from that of another, whatever their types.

Both files are mapped, and rows are read, decoded and compared chunk by chunk (`chunks`), so that memory does not grow
with them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.gguf import TensorView, read
from gguf_jax.gguf.text import printable
from gguf_jax.quantization.chunks import Task, compared, raw_rows, values_of
from gguf_jax.quantization.imatrix import Imatrix
from gguf_jax.quantization.report import Sums, TensorError

LAYER = re.compile(r"blk\.(\d+)\.(.+)")


def place_of(name: str) -> tuple[int | None, str]:
    """Layer and part of a tensor's name `blk.N.PART`; None and the name itself for tensors outside of layers."""
    found = LAYER.fullmatch(name)
    return (int(found[1]), found[2]) if found else (None, name)


@dataclass(frozen=True)
class TensorDifference:
    """One tensor that both files have in one shape: its types, and the error of the second against the first."""

    name: str
    shape: tuple[int, ...]
    types: tuple[GGMLType, GGMLType]
    nbytes: tuple[int, int]
    same_bytes: bool
    error: TensorError

    @property
    def layer(self) -> int | None:
        """None for tensors outside of layers."""
        return place_of(self.name)[0]

    @property
    def part(self) -> str:
        """The name without its layer."""
        return place_of(self.name)[1]

    def as_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "type_a": self.types[0].name,
            "type_b": self.types[1].name,
            "bytes_a": self.nbytes[0],
            "bytes_b": self.nbytes[1],
            "same_bytes": self.same_bytes,
            **asdict(self.error),
        }


@dataclass(frozen=True)
class Comparison:
    """What `compare_files` finds.

    Attributes:
        tensors: those that both have in one shape, in the order of the first file.
        only_a, only_b: names that one of them has.
        other_shape: names whose shapes differ.
        total: the error over all weights of `tensors`.
    """

    tensors: tuple[TensorDifference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    other_shape: tuple[str, ...]
    total: TensorError


def compare_files(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    importances: Imatrix | None = None,
    on_weights: Callable[[int, int], object] = lambda done, total: None,
) -> Comparison:
    """The error of `b` against `a`, tensor by tensor.

    Args:
        a, b: GGUF files; any shard of a split one stands for all.
        importances: weigh the squared errors of `weighted_rmse`.
        on_weights: told how many weights are done with, of how many, after each chunk.

    Raises:
        GGUFError: a file cannot be read, or they have no tensor of one name and shape in common.
        GGUFJaxError: an importance has not the length of its tensor.
    """
    with read(a) as first, read(b) as second:
        shared = [name for name in first.tensors if name in second.tensors]
        shapes = {name: (first.tensors[name].shape, second.tensors[name].shape) for name in shared}
        common = [name for name in shared if shapes[name][0] == shapes[name][1]]
        if not common:
            names = " and ".join(printable(os.fsdecode(path)) for path in (a, b))
            raise GGUFError(f"{names}: expected tensors of one name and shape in both, found none")
        pairs = [(first.tensors[name], second.tensors[name]) for name in common]
        weights = [importances.of(a.name, a.shape) if importances else None for a, _ in pairs]
        done, all_weights = 0, sum(a.n_elements for a, _ in pairs)
        found, total = [], Sums()
        for (one, other), importance in zip(pairs, weights, strict=True):
            sums, same = Sums(), one.type == other.type
            for chunk, equal, n in chunks_of(one, other, importance):
                sums, same, done = sums + chunk, same and equal, done + n
                on_weights(done, all_weights)
            types, nbytes = (one.type, other.type), (one.nbytes, other.nbytes)
            found.append(TensorDifference(one.name, one.shape, types, nbytes, same, TensorError.of(sums)))
            total += sums
        return Comparison(
            tuple(found),
            tuple(name for name in first.tensors if name not in second.tensors),
            tuple(name for name in second.tensors if name not in first.tensors),
            tuple(name for name in shared if shapes[name][0] != shapes[name][1]),
            TensorError.of(total),
        )


def chunks_of(a: TensorView, b: TensorView, importance: np.ndarray | None) -> Iterator[tuple[Sums, bool, int]]:
    """Of each chunk of two tensors of one shape: the sums, whether the bytes are equal, and how many weights it has."""
    task = Task(a, a.type, importance)
    for first, last in task.chunks():
        raw, other = raw_rows(a, first, last), raw_rows(b, first, last)
        equal = a.type == b.type and bool((raw == other).all())
        values = values_of(raw, a.type, task.columns)
        yield compared(values, other, b.type, task.importance_of(first)), equal, values.size
        for view in (a, b):  # give the mapping back
            view.source.release(view.offset, view.nbytes)
