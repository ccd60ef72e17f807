"""Tensors that are made row by row: what a transformation gives, without a second copy of what it takes.

A conversion asks for a few rows at a time, of tensors that may be larger than memory. So a transformation does not make
an array: it makes a `Rows`, which finds the rows asked for among those of its parts. The names of the classes here are
those of NumPy's functions on whole arrays, which define what they give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

NEAR = 1024
"""Rows that are at most so far apart are read with what lies between them."""


class Rows(Protocol):
    """A tensor `shape`, seen as `[rows, columns]` of its last axis."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def rows(self, first: int, last: int) -> np.ndarray:
        """`[last - first, columns]`; may be a view."""
        ...

    def release(self, first: int, last: int) -> None:
        """Hint that these rows will not be needed again soon."""
        ...


def count(tensor: Rows) -> int:
    """How many rows it has."""
    return math.prod(tensor.shape[:-1])


def whole(tensor: Rows) -> np.ndarray:
    return tensor.rows(0, count(tensor)).reshape(tensor.shape)


@dataclass(frozen=True)
class Array:
    """An array in memory."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype

    def rows(self, first: int, last: int) -> np.ndarray:
        columns = self.shape[-1] if self.shape else 1
        return self.values.reshape(math.prod(self.shape[:-1]), columns)[first:last]

    def release(self, first: int, last: int) -> None:
        pass


@dataclass(frozen=True)
class Reshaped:
    """The same rows under another shape: the last axis stays."""

    tensor: Rows
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def rows(self, first: int, last: int) -> np.ndarray:
        return self.tensor.rows(first, last)

    def release(self, first: int, last: int) -> None:
        self.tensor.release(first, last)


@dataclass(frozen=True)
class Take:
    """Rows in another order, or some of them: row `i` is row `order[i]` of `tensor`."""

    tensor: Rows
    order: np.ndarray
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def rows(self, first: int, last: int) -> np.ndarray:
        parts = [self.tensor.rows(low, high)[order - low] for order, low, high in self._pieces(first, last)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else self.tensor.rows(0, 0)

    def _pieces(self, first: int, last: int) -> list[tuple[np.ndarray, int, int]]:
        """Rows in pieces that lie close together, each with the first row and the row after the last that it spans:
        what lies between two distant pieces is not read."""
        order = self.order[first:last]
        if not len(order):
            return []
        breaks = np.flatnonzero(np.abs(np.diff(order)) > NEAR) + 1
        return [(part, int(part.min()), int(part.max()) + 1) for part in np.split(order, breaks)]

    def release(self, first: int, last: int) -> None:
        for _, low, high in self._pieces(first, last):
            self.tensor.release(low, high)


@dataclass(frozen=True)
class Concatenated:
    """The rows of several tensors one after the other, under a shape: `np.concatenate`, and `np.stack`."""

    tensors: Sequence[Rows]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        return self.tensors[0].dtype

    def _spans(self, first: int, last: int) -> list[tuple[Rows, int, int]]:
        found, start = [], 0
        for tensor in self.tensors:
            end = start + count(tensor)
            if first < end and start < last:
                found.append((tensor, max(first - start, 0), min(last, end) - start))
            start = end
        return found

    def rows(self, first: int, last: int) -> np.ndarray:
        spans = self._spans(first, last)
        if len(spans) == 1:
            tensor, low, high = spans[0]
            return tensor.rows(low, high)
        parts = [tensor.rows(low, high) for tensor, low, high in spans]
        return np.concatenate(parts) if parts else self.tensors[0].rows(0, 0)

    def release(self, first: int, last: int) -> None:
        for tensor, low, high in self._spans(first, last):
            tensor.release(low, high)


@dataclass(frozen=True)
class Transposed:
    """The last two axes exchanged. Every row reads all rows of its matrix: a column of each."""

    tensor: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        *lead, rows, columns = self.tensor.shape
        return (*lead, columns, rows)

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def rows(self, first: int, last: int) -> np.ndarray:
        columns, inner = self.shape[-2:]  # rows of a matrix here, rows of a matrix there
        parts = [self.tensor.rows(0, 0).reshape(0, inner)]
        while first < last:
            matrix, row = divmod(first, columns)
            stop = min(columns, row + last - first)
            parts.append(self.tensor.rows(matrix * inner, (matrix + 1) * inner)[:, row:stop].T)
            first += stop - row
        return np.ascontiguousarray(np.concatenate(parts))

    def release(self, first: int, last: int) -> None:
        columns, inner = self.shape[-2:]
        done = last // columns * inner  # a matrix is read for each of its columns, and may go with the last
        if last % columns == 0:
            self.tensor.release(first // columns * inner, done)


@dataclass(frozen=True)
class Mapped:
    """Every row through a function that keeps its length, in float32."""

    tensor: Rows
    function: Callable[[np.ndarray], np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def rows(self, first: int, last: int) -> np.ndarray:
        return self.function(self.tensor.rows(first, last).astype(np.float32)).astype(np.float32, copy=False)

    def release(self, first: int, last: int) -> None:
        self.tensor.release(first, last)


@dataclass(frozen=True)
class Every:
    """Of each row the elements `first`, `first + step`, ..."""

    tensor: Rows
    first: int
    step: int

    @property
    def shape(self) -> tuple[int, ...]:
        *lead, columns = self.tensor.shape
        return (*lead, columns // self.step)

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def rows(self, first: int, last: int) -> np.ndarray:
        return np.ascontiguousarray(self.tensor.rows(first, last)[:, self.first :: self.step])

    def release(self, first: int, last: int) -> None:
        self.tensor.release(first, last)


@dataclass(frozen=True)
class Dealt:
    """Rows of elements that are taken from the tensors in turn: what `Every` undoes."""

    tensors: Sequence[Rows]

    @property
    def shape(self) -> tuple[int, ...]:
        *lead, columns = self.tensors[0].shape
        return (*lead, columns * len(self.tensors))

    @property
    def dtype(self) -> np.dtype:
        return self.tensors[0].dtype

    def rows(self, first: int, last: int) -> np.ndarray:
        parts = np.stack([tensor.rows(first, last) for tensor in self.tensors], -1)
        return parts.reshape(last - first, -1)

    def release(self, first: int, last: int) -> None:
        for tensor in self.tensors:
            tensor.release(first, last)


@dataclass(frozen=True)
class MXFP4:
    """ggml's MXFP4 blocks, uint8 `[..., n_blocks * 17]`, of transformers' two tensors: `blocks [..., n_blocks, 16]`, of
    which a byte holds two neighbours (ggml's: two that are 16 apart), and exponents `scales [..., n_blocks]`."""

    blocks: Rows
    scales: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        *lead, count = self.scales.shape
        return (*lead, count * 17)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def rows(self, first: int, last: int) -> np.ndarray:
        each = self.scales.shape[-1]
        packed = self.blocks.rows(first * each, last * each)
        codes = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), 32)
        scales = self.scales.rows(first, last).reshape(-1, 1)
        return np.concatenate([scales, codes[:, :16] | codes[:, 16:] << 4], 1).reshape(last - first, each * 17)

    def release(self, first: int, last: int) -> None:
        each = self.scales.shape[-1]
        self.blocks.release(first * each, last * each)
        self.scales.release(first, last)
