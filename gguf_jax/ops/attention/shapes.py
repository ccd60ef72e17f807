"""Shapes that `attention` has in real models, for measuring, and small ones, for tests."""

from __future__ import annotations

from typing import NamedTuple


class AttentionShape(NamedTuple):
    """Of one sequence: `queries` that end at the last of `span` filled positions, `heads` of `depth` that share
    `groups` of keys and values."""

    queries: int
    span: int
    heads: int
    groups: int
    depth: int


def _of_model(heads: int, groups: int, depth: int) -> dict[str, AttentionShape]:
    return {
        **{f"tg@d{span}": AttentionShape(1, span, heads, groups, depth) for span in (512, 4096)},
        **{f"pp512@d{span - 512}": AttentionShape(512, span, heads, groups, depth) for span in (512, 4096)},
    }


SHAPES = {
    **{f"qwen2-1.5b.{name}": shape for name, shape in _of_model(12, 2, 128).items()},
    **{f"qwen2-7b.{name}": shape for name, shape in _of_model(28, 4, 128).items()},
    "small.tg": AttentionShape(1, 40, 4, 2, 32),
    "small.pp": AttentionShape(8, 40, 4, 2, 32),
}
