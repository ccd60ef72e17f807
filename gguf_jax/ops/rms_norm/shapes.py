"""Shapes that `rms_norm` has in real models, for measuring, and small ones, for tests."""

from __future__ import annotations

from typing import NamedTuple


class NormShape(NamedTuple):
    """Rows of `features`, and the numbers of them."""

    features: int
    rows: tuple[int, ...]


SHAPES = {
    "qwen2-1.5b.norm": NormShape(1536, (1, 512)),
    "qwen2-7b.norm": NormShape(3584, (1, 512)),
    "small.norm": NormShape(48, (1, 5)),
}
