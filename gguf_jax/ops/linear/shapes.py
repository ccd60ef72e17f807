"""Shapes that `linear` has in real models, for measuring, and small ones, for tests."""

from __future__ import annotations

from typing import NamedTuple


class LinearShape(NamedTuple):
    """A weight `[outputs, inputs]`, and the numbers of rows of x it is multiplied with."""

    outputs: int
    inputs: int
    rows: tuple[int, ...]


ROWS = (1, 4, 8, 32, 512)
"""A token, some sequences at once, and chunks of a prompt."""


def _qwen2(embedding: int, feed_forward: int, key_value: int) -> dict[str, LinearShape]:
    return {
        "attn_q": LinearShape(embedding, embedding, ROWS),
        "attn_k": LinearShape(key_value, embedding, ROWS),
        "ffn_up": LinearShape(feed_forward, embedding, ROWS),
        "ffn_down": LinearShape(embedding, feed_forward, ROWS),
        "output": LinearShape(151936, embedding, (1, 4, 8)),  # a prompt needs its last token's alone
    }


# attn_output has the shape of attn_q, attn_v that of attn_k, ffn_gate that of ffn_up
SHAPES = {
    **{f"qwen2-1.5b.{name}": shape for name, shape in _qwen2(1536, 8960, 256).items()},
    **{f"qwen2-7b.{name}": shape for name, shape in _qwen2(3584, 18944, 512).items()},
    "small.wide": LinearShape(512, 256, (1, 5)),
    "small.long": LinearShape(48, 768, (1, 5)),
}
