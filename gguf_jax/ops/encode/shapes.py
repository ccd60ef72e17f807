"""Shapes that `encode` has in real models, for measuring, and small ones, for tests."""

from __future__ import annotations

from typing import NamedTuple


class RowsShape(NamedTuple):
    """Rows of `columns` weights, and how many are encoded together."""

    columns: int
    rows: tuple[int, ...]


SHAPES = {
    "qwen2-1.5b.ffn_down": RowsShape(8960, (64,)),
    "qwen2-1.5b.ffn_up": RowsShape(1536, (256,)),
    "small.encode": RowsShape(256, (3,)),
}
