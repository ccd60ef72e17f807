"""The compiled program of importance matrices: sums of squares of what each weight is multiplied by.

The sums are part of the program that runs the windows; what leaves it is one row of numbers for each weight or expert.
Within a window squares are added in float32, as llama-imatrix does throughout; windows are added up in float64 outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from gguf_jax.evals.programs import scores
from gguf_jax.generation.steps import Leaves, Spec
from gguf_jax.models import Decoder
from gguf_jax.nn.observe import Observable, Observer, observable


class Squares(NamedTuple):
    """Of one weight: sums of squares, float32 `[n_mat, n_in]`, and how many vectors those are of, float32 `[n_mat]`."""

    in_sum2: jax.Array
    counts: jax.Array


def collected(model: Decoder, process_output: bool) -> Iterator[tuple[str, Observable]]:
    """The layers that llama-imatrix collects: those of the blocks, and `output.weight` if asked to. A model whose
    output is tied to its embeddings has no `output.weight`; embeddings are never collected."""
    for name, layer in observable(model):
        if name.startswith("blk.") or (process_output and name == "output.weight"):
            yield name, layer


def matrices(layer: Observable) -> tuple[int, int]:
    """`(n_mat, n_in)` of a layer's weight, `[n_out, n_in]` or `[n_mat, n_out, n_in]`."""
    shape = tuple(layer.weight.get_value().shape)
    return (1 if len(shape) == 2 else shape[0]), shape[-1]


def shapes(model: nnx.Module) -> dict[str, tuple[int, int]]:
    """`(n_mat, n_in)` of every weight that could be observed."""
    return {name: matrices(layer) for name, layer in observable(model)}


@partial(jax.jit, static_argnames=("spec", "process_output", "scored"))
def run(
    leaves: Leaves, tokens: jax.Array, valid: jax.Array, *, spec: Spec, process_output: bool, scored: int
) -> tuple[dict[str, Squares], jax.Array]:
    """Run int32 `tokens [B, T]`, whole windows, of which those not `valid [B]` are there for the shape alone.

    Args:
        scored: predictions of each window that are scored, the last ones: position T - 1 - scored on. With 0 no logits
            are made.

    Returns:
        For each weight its sums over all valid windows; and `-log p` of what is scored, float32 `[B, scored]`.
    """
    model = spec.model(leaves)
    found: dict[str, Squares] = {}
    layers = dict(collected(model, process_output))
    for name, layer in layers.items():
        layer.observer = _collector(found, name, matrices(layer)[0], valid)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    hidden, _ = model.hidden(tokens, positions, dtype=spec.dtype, precision=spec.precision)
    if "output.weight" in layers:
        model.logits(hidden, spec.precision)  # for what goes into it; nobody uses the product, so XLA drops it
    for layer in layers.values():
        layer.observer = None
    if not scored:
        return found, jnp.zeros((len(tokens), 0))
    first = tokens.shape[1] - 1 - scored
    with jax.named_scope("score"):
        return found, scores(model, hidden[:, first:-1], tokens[:, first + 1 :], spec.precision)


def _collector(found: dict[str, Squares], name: str, n_mat: int, valid: jax.Array) -> Observer:
    def observe(x: jax.Array, experts: jax.Array | None = None, /) -> None:
        with jax.named_scope("in_sum2"):
            found[name] = squares(x, valid) if experts is None else squares_of_experts(x, experts, n_mat, valid)

    return observe


def squares(x: jax.Array, valid: jax.Array) -> Squares:
    """`x [B, T, n_in]`, counted where `valid [B]` -> `[1, n_in]` and `[1]`."""
    windows = jnp.square(x.astype(jnp.float32)).sum(1)  # [B, n_in]
    in_sum2 = jnp.where(valid[:, None], windows, 0).sum(0, keepdims=True)
    return Squares(in_sum2, valid.sum(keepdims=True, dtype=jnp.float32) * x.shape[1])


def squares_of_experts(x: jax.Array, experts: jax.Array, n_mat: int, valid: jax.Array) -> Squares:
    """`x [B, T, n_in]` or `[B, T, used, n_in]` that goes to `experts [B, T, used]` -> `[n_mat, n_in]` and `[n_mat]`."""
    x2 = jnp.square(x.astype(jnp.float32))
    goes = jax.nn.one_hot(experts, n_mat, dtype=jnp.float32) * valid[:, None, None, None]  # [B, T, used, n_mat]
    counts = goes.sum((0, 1, 2))
    goes, letters = (goes, "btum,btui->mi") if x.ndim == experts.ndim + 1 else (goes.sum(2), "btm,bti->mi")
    return Squares(jnp.einsum(letters, goes, x2, precision=lax.Precision.HIGHEST), counts)
