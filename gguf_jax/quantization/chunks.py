"""A few rows of a tensor at a time: read, checked, encoded, compared. What the workers of `file.quantize_file` do.

A chunk is whole rows of one tensor and, where importance differs from expert to expert, of one expert. Every type
encodes row by row, so the bytes of a tensor do not depend on where its chunks begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from gguf_jax.formats import dequantize, format_of
from gguf_jax.formats.block_format import BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.gguf.tensor_view import TensorView, swapped
from gguf_jax.quantization.report import Sums

CHUNK = 1 << 21
"""Weights in a chunk: as float32 8 MB, so that what a worker holds of one, encoded and compared too, is some 60 MB; and
enough that what Python does for a chunk is nothing beside encoding it."""

PLAIN = {GGMLType.F32: "<f4", GGMLType.F16: "<f2", GGMLType.BF16: "bfloat16"}
"""Types whose values are arrays already, with their dtype."""

Encode = Callable[[np.ndarray, GGMLType, np.ndarray | None], np.ndarray]
"""`encoder.encode_rows` on one thread."""


@dataclass(frozen=True)
class Bad:
    """What keeps a chunk from being written: at the flat `index` of the tensor stands `found`."""

    index: int
    found: str


@dataclass(frozen=True)
class Task:
    """What becomes of a tensor: `view` as `type`; importance is float32 `[experts, n]`, or None."""

    view: TensorView
    type: GGMLType
    importance: np.ndarray | None = None

    @property
    def columns(self) -> int:
        return self.view.shape[-1] if self.view.shape else 1

    @property
    def rows(self) -> int:
        return self.view.n_elements // self.columns if self.columns else 0

    @property
    def copied(self) -> bool:
        return self.view.type == self.type

    @property
    def row_bytes(self) -> int:
        return format_of(self.type).row_bytes(self.columns)

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes

    @property
    def rows_per_expert(self) -> int:
        return self.view.shape[-2] if len(self.view.shape) > 1 else 1

    def chunks(self, weights: int = CHUNK) -> Iterator[tuple[int, int]]:
        """First row and the row after the last of each chunk of at most `weights` weights, or one row."""
        step = max(1, weights // max(self.columns, 1))
        unit = self.rows if self.importance is None else self.rows_per_expert
        for start in range(0, self.rows, max(unit, 1)):
            for first in range(start, start + unit, step):
                yield first, min(first + step, start + unit)

    def importance_of(self, row: int) -> np.ndarray | None:
        """float32 `[n]` for the expert that a row belongs to."""
        if self.importance is None:
            return None
        return self.importance[row // self.rows_per_expert % len(self.importance)]


@dataclass(frozen=True)
class Chunk:
    """Rows `first` to `last` as they are to be written, uint8 `[rows, row_bytes]`; or why they are not."""

    first: int
    last: int
    blocks: np.ndarray
    bad: Bad | None = None
    sums: Sums | None = None


def processed(task: Task, first: int, last: int, encode: Encode, *, checked: bool, measured: bool) -> Chunk:
    """Encodes rows `first` to `last`.

    `checked`: looks for NaN and infinity in the weights, and in the scales that they were given (which overflow their
    float16 where weights are huge). `measured`: sums up the error.
    """
    raw = raw_rows(task.view, first, last)
    bad = not_finite(raw, task.view.format, first * task.columns) if checked else None
    if bad is not None and not task.copied and task.type != GGMLType.F32:
        return Chunk(first, last, raw[:0], bad)
    sums = None
    if task.copied:
        blocks = np.array(raw)  # the mapping is given back below
    else:
        values = values_of(raw, task.view.type, task.columns)
        importance = task.importance_of(first)
        if task.type == GGMLType.F32:
            blocks = np.ascontiguousarray(values, "<f4").view(np.uint8).reshape(len(values), task.row_bytes)
        else:
            blocks = encode(values, task.type, importance)
        if checked and bad is None:
            bad = not_finite(
                blocks, format_of(task.type), first * task.columns, what=f"weights too large for {task.type.name}"
            )
        if measured and bad is None:
            sums = compared(values, blocks, task.type, importance)
    row = raw.shape[-1]
    del raw
    task.view.source.release(task.view.offset + first * row, (last - first) * row)
    return Chunk(first, last, blocks, bad, sums)


def compared(values: np.ndarray, blocks: np.ndarray, type: GGMLType, importance: np.ndarray | None) -> Sums:
    """The error of rows that were written as `blocks`."""
    return Sums.of(values, dequantize(blocks, type).reshape(values.shape), importance)


def raw_rows(view: TensorView, first: int, last: int) -> np.ndarray:
    """Rows of a tensor as little-endian bytes, uint8 `[rows, row_bytes]`; asked of the source anew each time, so that a
    file that is cut while it is read is noticed."""
    row = view.format.row_bytes(view.shape[-1] if view.shape else 1)
    if first == last or not row:
        return np.empty((last - first, row), np.uint8)
    raw = np.frombuffer(view.source.view(view.offset + first * row, (last - first) * row), np.uint8)
    if view.byte_order == "big":
        raw = swapped(raw, view.format, "big", "little")
    return raw.reshape(last - first, row)


def values_of(raw: np.ndarray, type: GGMLType, columns: int) -> np.ndarray:
    """The weights of rows of bytes, `[rows, columns]`: float32, float16 or bfloat16 as they stand there, float32 of
    what is quantized."""
    if type in PLAIN:
        import ml_dtypes  # noqa: F401 - NumPy knows "bfloat16" by name once this is imported

        # A file whose alignment is less than the size of a float is allowed, and not what an encoder may be handed.
        return np.require(raw.view(np.dtype(PLAIN[type])), requirements=["A", "C"])
    return dequantize(raw, type).reshape(len(raw), columns).astype(np.float32, copy=False)


def not_finite(blocks: np.ndarray, form: BlockFormat, start: int, what: str | None = None) -> Bad | None:
    """The first value of bytes `[rows, row_bytes]` that is NaN or infinite: a weight, or of a packed type a scale, for
    which its block's first weight stands. Scales of eight bits (MXFP4, NVFP4) are finite by ggml's rules."""
    if not blocks.size:
        return None
    records = np.ascontiguousarray(blocks).reshape(-1, form.bytes_per_block).view(form.layout).reshape(-1)
    found: list[tuple[int, str]] = []
    for values, mask in float_bits(records, form):
        exponents = values & mask
        if exponents.max() == mask:
            at = int((exponents == mask).argmax())
            nan = bool(values[at] & ((mask & -mask) - 1))
            found.append((at, what or ("nan" if nan else "an infinity")))
    if not found:
        return None
    at, text = min(found)
    if form.is_quantized and what is None:
        text = f"a scale that is {text}"
    return Bad(start + at * form.block_size, text)


def float_bits(records: np.ndarray, form: BlockFormat) -> Iterator[tuple[np.ndarray, int]]:
    """Every float of `records` as an unsigned integer, with the mask of its exponent."""
    match form.type:
        case GGMLType.BF16:
            yield records["values"], 0x7F80
        case GGMLType.IQ1_M:
            words = records["scales"].view("<u2").reshape(-1, 4)
            nibbles = [(words[:, i] >> 12).astype(np.uint16) << 4 * i for i in range(4)]
            yield nibbles[0] | nibbles[1] | nibbles[2] | nibbles[3], 0x7C00
        case _:
            for name in form.layout.names or ():
                kind = form.layout[name]
                if kind.base.kind == "f":
                    mask = {2: 0x7C00, 4: 0x7F800000, 8: 0x7FF0000000000000}[kind.itemsize]
                    yield records[name].view(f"<u{kind.itemsize}"), mask


def index_text(index: int, columns: int) -> str:
    row, column = divmod(index, max(columns, 1))
    return f"index {index} (row {row}, column {column})"
