"""The program that `steps` has no use for: the logits behind every token of a chunk."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from gguf_jax.generation.steps import Leaves, Spec


@partial(jax.jit, static_argnames=("spec", "span"), donate_argnames=("cache",))
def all_logits(
    leaves: Leaves, tokens: jax.Array, positions: jax.Array, cache: Any, *, spec: Spec, span: int
) -> tuple[jax.Array, Any]:
    """Run int32 `tokens [1, T]` at `positions [1, T]` (-1: padding, behind the others) into the cache (donated): the
    logits float32 `[1, T, V]` behind each of them, and the cache. `span` exceeds every position."""
    model: Any = spec.model(leaves)
    hidden, cache = model.hidden(tokens, positions, cache, span=span, dtype=spec.dtype, precision=spec.precision)
    return model.logits(hidden, spec.precision), cache
