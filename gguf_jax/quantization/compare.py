"""`compare_files`: how far every tensor of one file is from that of another, whatever their types.

Both files are mapped, and rows are decoded chunk by chunk, so that memory does not grow with them. A tensor whose type
and bytes are the same in both is not decoded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.formats import dequantize
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.gguf import TensorView, read
from gguf_jax.gguf.text import printable
from gguf_jax.quantization.imatrix import Imatrix
from gguf_jax.quantization.report import Sums, TensorError

CHUNK = 1 << 21
"""Weights decoded at a time."""

LAYER = re.compile(r"blk\.(\d+)\.(.+)")


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
        """Of a name `blk.N.PART`; None for tensors outside of layers."""
        found = LAYER.fullmatch(self.name)
        return int(found[1]) if found else None

    @property
    def part(self) -> str:
        """The name without its layer."""
        found = LAYER.fullmatch(self.name)
        return found[2] if found else self.name

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
    on_tensor: Callable[[str, int, int], object] = lambda name, index, count: None,
) -> Comparison:
    """The error of `b` against `a`, tensor by tensor.

    Args:
        a, b: GGUF files; any shard of a split one stands for all.
        importances: weigh the squared errors of `weighted_rmse`.
        on_tensor: called with name, index and count before each tensor.

    Raises:
        GGUFError: a file cannot be read, or they have no tensor of one name and shape in common.
    """
    with read(a) as first, read(b) as second:
        shared = [name for name in first.tensors if name in second.tensors]
        shapes = {name: (first.tensors[name].shape, second.tensors[name].shape) for name in shared}
        common = [name for name in shared if shapes[name][0] == shapes[name][1]]
        if not common:
            names = " and ".join(printable(os.fsdecode(path)) for path in (a, b))
            raise GGUFError(f"{names}: expected tensors of one name and shape in both, found none")
        found, total = [], Sums()
        for index, name in enumerate(common):
            on_tensor(name, index, len(common))
            entry = importances.entries.get(name) if importances else None
            difference, sums = compared(first.tensors[name], second.tensors[name], entry)
            found.append(difference)
            total += sums
        return Comparison(
            tuple(found),
            tuple(name for name in first.tensors if name not in second.tensors),
            tuple(name for name in second.tensors if name not in first.tensors),
            tuple(name for name in shared if shapes[name][0] != shapes[name][1]),
            TensorError.of(total),
        )


def compared(a: TensorView, b: TensorView, importance: np.ndarray | None) -> tuple[TensorDifference, Sums]:
    """The difference of two tensors of one shape, and its sums. `importance` counts where it is of the row's length."""
    columns = a.shape[-1] if a.shape else 1
    rows_a, rows_b = (view.blocks().reshape(a.n_elements // max(columns, 1), -1) for view in (a, b))
    weights = importance.reshape(-1) if importance is not None and importance.size == columns else None
    same = a.type == b.type and bool((rows_a == rows_b).all())
    sums, step = Sums(), max(1, CHUNK // max(columns, 1))
    for start in range(0, len(rows_a), step):
        x = dequantize(rows_a[start : start + step], a.type)
        y = x if same else dequantize(rows_b[start : start + step], b.type)
        sums += Sums.of(x, y, weights)
    return TensorDifference(a.name, a.shape, (a.type, b.type), (a.nbytes, b.nbytes), same, TensorError.of(sums)), sums
