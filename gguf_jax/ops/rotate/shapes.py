"""Shapes that `rotate` has in real models, for measuring, and small ones, for tests."""

from __future__ import annotations

from typing import NamedTuple


class RotateShape(NamedTuple):
    """Query and key heads of `depth`, all of it turned, and the numbers of positions."""

    heads: tuple[int, int]
    depth: int
    rows: tuple[int, ...]


SHAPES = {
    "qwen2-1.5b.rope": RotateShape((12, 2), 128, (1, 512)),
    "qwen2-7b.rope": RotateShape((28, 4), 128, (1, 512)),
    "small.rope": RotateShape((4, 2), 32, (1, 5)),
}
