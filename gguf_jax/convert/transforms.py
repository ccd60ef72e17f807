"""How Hugging Face's form of a weight becomes GGUF's, and back: every transformation is a value with its inverse.

`forward` takes tensors as they are stored and gives those of the GGUF file; `inverse` undoes it. Both work on `Rows`,
so nothing is computed until rows are asked for, and a shape that does not fit is a ValueError that says what would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from gguf_jax.convert.rows import Concatenated, Dealt, Every, Mapped, Reshaped, Rows, Take, Transposed, count


class Transform(Protocol):
    def forward(self, tensors: Sequence[Rows]) -> list[Rows]: ...

    def inverse(self, tensors: Sequence[Rows]) -> list[Rows]: ...


@dataclass(frozen=True)
class Same:
    """Nothing changes."""

    def forward(self, tensors: Sequence[Rows]) -> list[Rows]:
        return list(tensors)

    inverse = forward


@dataclass(frozen=True)
class RowOrder:
    """Rows in the order `order` (of each matrix alike, where there are several): forward is `w[order]`."""

    order: tuple[int, ...]

    def _taken(self, tensor: Rows, order: np.ndarray) -> Rows:
        *_, rows, _ = (1, *tensor.shape) if len(tensor.shape) > 1 else (*tensor.shape, 1)
        if rows != len(order):
            raise ValueError(f"expected {len(order)} rows, found {rows} in {list(tensor.shape)}")
        if len(tensor.shape) == 1:  # a bias: its elements are what a matrix's rows are
            column = Reshaped(_Column(tensor), (rows, 1))
            return _Flat(Take(column, order, (rows, 1)))
        starts = np.arange(count(tensor) // rows)[:, None] * rows
        return Take(tensor, (starts + order).reshape(-1), tensor.shape)

    def forward(self, tensors: Sequence[Rows]) -> list[Rows]:
        return [self._taken(tensor, np.array(self.order)) for tensor in tensors]

    def inverse(self, tensors: Sequence[Rows]) -> list[Rows]:
        return [self._taken(tensor, np.argsort(self.order)) for tensor in tensors]


@dataclass(frozen=True)
class _Column:
    """A vector `[n]` as `[n, 1]`."""

    tensor: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.tensor.shape, 1)

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def rows(self, first: int, last: int) -> np.ndarray:
        return self.tensor.rows(0, 1).reshape(-1, 1)[first:last]

    def release(self, first: int, last: int) -> None:
        pass  # a vector is small


@dataclass(frozen=True)
class _Flat:
    """`[n, 1]` as a vector `[n]`."""

    tensor: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape[:-1]

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def rows(self, first: int, last: int) -> np.ndarray:
        return self.tensor.rows(0, count(self.tensor)).reshape(1, -1)[first:last]

    def release(self, first: int, last: int) -> None:
        self.tensor.release(0, count(self.tensor))


def interleaved_rope(heads: int, rows: int) -> RowOrder:
    """From halves to pairs, in each head of queries or keys: RoPE turns elements `i` and `i + D / 2` in transformers'
    form of a llama, and `2 i` and `2 i + 1` in GGUF's."""
    order = np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2)
    return RowOrder(tuple(order.reshape(-1).tolist()))


def grouped_qkv(groups: int, queries: int, length: int) -> RowOrder:
    """From `groups` of `queries` heads, one key and one value, to all queries, all keys, all values."""
    order = np.arange(groups * (queries + 2) * length).reshape(groups, queries + 2, length)
    parts = (order[:, :queries], order[:, queries], order[:, queries + 1])
    return RowOrder(tuple(np.concatenate([part.reshape(-1) for part in parts]).tolist()))


@dataclass(frozen=True)
class Shift:
    """Plus a number: norms that multiply by `1 + weight`."""

    by: float

    def forward(self, tensors: Sequence[Rows]) -> list[Rows]:
        return [Mapped(tensor, partial(np.add, np.float32(self.by))) for tensor in tensors]

    def inverse(self, tensors: Sequence[Rows]) -> list[Rows]:
        return [Mapped(tensor, partial(np.add, np.float32(-self.by))) for tensor in tensors]


@dataclass(frozen=True)
class Transpose:
    """The last two axes exchanged: GPT-2's Conv1D holds `[in, out]`. Vectors stay."""

    def forward(self, tensors: Sequence[Rows]) -> list[Rows]:
        return [Transposed(tensor) if len(tensor.shape) > 1 else tensor for tensor in tensors]

    inverse = forward


@dataclass(frozen=True)
class Stack:
    """Several tensors of one shape (experts, heads) along a new first axis."""

    def forward(self, tensors: Sequence[Rows]) -> list[Rows]:
        shapes = {tensor.shape for tensor in tensors}
        if len(shapes) != 1:
            raise ValueError(f"expected one shape, found {' and '.join(str(list(s)) for s in sorted(shapes)[:2])}")
        return [Concatenated(tuple(tensors), (len(tensors), *tensors[0].shape))]

    def inverse(self, tensors: Sequence[Rows]) -> list[Rows]:
        (tensor,) = tensors
        each = count(tensor) // tensor.shape[0]
        return [Take(tensor, np.arange(i * each, (i + 1) * each), tensor.shape[1:]) for i in range(tensor.shape[0])]


@dataclass(frozen=True)
class Split:
    """One tensor into `parts` of equally many rows, of each of its matrices: a fused gate and up projection."""

    parts: int

    def forward(self, tensors: Sequence[Rows]) -> list[Rows]:
        (tensor,) = tensors
        *lead, rows, columns = tensor.shape
        if rows % self.parts:
            raise ValueError(f"expected a multiple of {self.parts} rows, found {rows} in {list(tensor.shape)}")
        each = rows // self.parts
        order = np.arange(count(tensor)).reshape(-1, self.parts, each)
        return [Take(tensor, order[:, i].reshape(-1), (*lead, each, columns)) for i in range(self.parts)]

    def inverse(self, tensors: Sequence[Rows]) -> list[Rows]:
        *lead, each, columns = tensors[0].shape
        rows = each * self.parts
        order = np.arange(count(tensors[0]) * self.parts).reshape(self.parts, -1, each).swapaxes(0, 1).reshape(-1)
        joined = Concatenated(tuple(tensors), (len(order), columns))
        return [Take(joined, order, (*lead, rows, columns))]


@dataclass(frozen=True)
class Deal:
    """One tensor into `parts`, its rows dealt out in turn (of a bias, its columns): gpt-oss's gate and up."""

    parts: int
    columns: bool = False

    def forward(self, tensors: Sequence[Rows]) -> list[Rows]:
        (tensor,) = tensors
        axis = -1 if self.columns else -2
        *_, length, _ = (*tensor.shape, 1) if self.columns else (1, *tensor.shape)
        if length % self.parts:
            raise ValueError(f"expected a multiple of {self.parts} along axis {axis}, found {list(tensor.shape)}")
        shape = list(tensor.shape)
        shape[axis] //= self.parts
        if self.columns:
            return [Every(tensor, i, self.parts) for i in range(self.parts)]
        order = np.arange(count(tensor)).reshape(-1, self.parts)
        return [Take(tensor, order[:, i], tuple(shape)) for i in range(self.parts)]

    def inverse(self, tensors: Sequence[Rows]) -> list[Rows]:
        *lead, rows, columns = (1, *tensors[0].shape)
        lead = lead[1:] if len(lead) > 1 else []
        if self.columns:
            return [Dealt(tuple(tensors))]
        total = count(tensors[0])
        order = np.arange(total * self.parts).reshape(self.parts, total).T.reshape(-1)
        joined = Concatenated(tuple(tensors), (len(order), columns))
        return [Take(joined, order, (*lead, rows * self.parts, columns))]


@dataclass(frozen=True)
class LatentKV:
    """DeepSeek's second projection of keys and values, `[heads * (key + value), rank]` of which every head's rows lie
    together, as `attn_k_b [heads, rank, key]`, transposed, and `attn_v_b [heads, value, rank]`."""

    heads: int
    key: int
    value: int

    def forward(self, tensors: Sequence[Rows]) -> list[Rows]:
        (tensor,) = tensors
        rows, rank = (1, *tensor.shape)[-2:]
        if rows != self.heads * (self.key + self.value):
            expected = self.heads * (self.key + self.value)
            raise ValueError(f"expected {expected} rows, found {rows} in {list(tensor.shape)}")
        order = np.arange(rows).reshape(self.heads, self.key + self.value)
        keys = Take(tensor, order[:, : self.key].reshape(-1), (self.heads, self.key, rank))
        values = Take(tensor, order[:, self.key :].reshape(-1), (self.heads, self.value, rank))
        return [Transposed(keys), values]

    def inverse(self, tensors: Sequence[Rows]) -> list[Rows]:
        keys, values = Transposed(tensors[0]), tensors[1]
        first = np.arange(self.heads * self.key).reshape(self.heads, self.key)
        second = first.size + np.arange(self.heads * self.value).reshape(self.heads, self.value)
        order = np.concatenate([first, second], 1).reshape(-1)
        rank = values.shape[-1]
        return [Take(Concatenated((keys, values), (len(order), rank)), order, (len(order), rank))]


@dataclass(frozen=True)
class Chain:
    """One after the other."""

    steps: tuple[Transform, ...]

    def forward(self, tensors: Sequence[Rows]) -> list[Rows]:
        found = list(tensors)
        for step in self.steps:
            found = step.forward(found)
        return found

    def inverse(self, tensors: Sequence[Rows]) -> list[Rows]:
        found = list(tensors)
        for step in reversed(self.steps):
            found = step.inverse(found)
        return found
