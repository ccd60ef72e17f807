"""Shapes that `grouped_linear` has in real models, for measuring, and small ones, for tests."""

from __future__ import annotations

from typing import NamedTuple


class ExpertsShape(NamedTuple):
    """Matrices `[n_expert, outputs, inputs]`, of which each row of x meets `used`, and the numbers of rows."""

    n_expert: int
    used: int
    outputs: int
    inputs: int
    rows: tuple[int, ...]


ROWS = (1, 4, 512)
"""A token, some sequences at once, and a chunk of a prompt."""

SHAPES = {
    "qwen3-30b-a3b.ffn_up_exps": ExpertsShape(128, 8, 768, 2048, ROWS),
    "qwen3-30b-a3b.ffn_down_exps": ExpertsShape(128, 8, 2048, 768, ROWS),
    "gpt-oss-20b.ffn_up_exps": ExpertsShape(32, 4, 2880, 2880, ROWS),
    "mixtral-8x7b.ffn_up_exps": ExpertsShape(8, 2, 14336, 4096, ROWS),
    "small.ffn_up_exps": ExpertsShape(5, 2, 48, 256, (1, 5)),
}
