"""Shapes that `take_rows` has in real models, for measuring, and small ones, for tests."""

from __future__ import annotations

from typing import NamedTuple


class TableShape(NamedTuple):
    """A table `[entries, width]`, and the numbers of rows taken from it."""

    entries: int
    width: int
    rows: tuple[int, ...]


SHAPES = {
    "qwen2-1.5b.token_embd": TableShape(151936, 1536, (1, 512)),
    "qwen2-7b.token_embd": TableShape(151936, 3584, (1, 512)),
    "small.token_embd": TableShape(300, 256, (1, 5)),
}
