"""Shapes that `linear` has in real models, for measuring, and small ones, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class LinearShape(NamedTuple):
    """Weights `[outputs[i], inputs]` of one call, and the numbers of rows of x they are multiplied with."""

    outputs: tuple[int, ...]
    inputs: int
    rows: tuple[int, ...]


ROWS = (1, 4, 8, 32, 512)
"""A token, some sequences at once, and chunks of a prompt."""


def _qwen2(embedding: int, feed_forward: int, key_value: int) -> dict[str, LinearShape]:
    return {
        "attn_q": LinearShape((embedding,), embedding, ROWS),
        "attn_k": LinearShape((key_value,), embedding, ROWS),
        "ffn_up": LinearShape((feed_forward,), embedding, ROWS),
        "ffn_down": LinearShape((embedding,), feed_forward, ROWS),
        "output": LinearShape((151936,), embedding, (1, 4, 8)),  # a prompt needs its last token's alone
    }


def _of_models(name: str, outputs_of: Callable[[int, int, int], tuple[int, ...]]) -> dict[str, LinearShape]:
    return {f"{model}.{name}": LinearShape(outputs_of(*sizes), sizes[0], ROWS) for model, sizes in MODELS.items()}


MODELS = {"qwen2-1.5b": (1536, 8960, 256), "qwen2-7b": (3584, 18944, 512)}
"""Embedding, feed-forward, keys and values."""

# attn_output has the shape of attn_q, attn_v that of attn_k, ffn_gate that of ffn_up
SHAPES = {
    **{f"{model}.{name}": shape for model, sizes in MODELS.items() for name, shape in _qwen2(*sizes).items()},
    "small.wide": LinearShape((512,), 256, (1, 5)),
    "small.long": LinearShape((48,), 768, (1, 5)),
}

TOGETHER = {
    **_of_models("attn_qkv", lambda embedding, feed_forward, key_value: (embedding, key_value, key_value)),
    "small.attn_qkv": LinearShape((64, 32, 32), 256, (1, 5)),
}
"""Of `linears`."""

GATED = {
    **_of_models("ffn_gate_up", lambda embedding, feed_forward, key_value: (feed_forward, feed_forward)),
    "small.ffn_gate_up": LinearShape((48, 48), 256, (1, 5)),
}
"""Of `gated_linear`."""
