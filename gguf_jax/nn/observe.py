"""Watching what weights are multiplied by: for importance matrices, and for whoever wants to look at activations.

A layer that multiplies by a weight says what by, `observe(x)`; nobody listens unless a program that is being traced
gives the layer an `observer`. A compiled program makes its model anew from the leaves whenever it is traced, so an
observer lives as long as that trace, and belongs to that program: there is no state between programs, and nothing that
a cache of programs could mix up. What an observer computes from `x` is part of the program.

    model = spec.model(leaves)                  # inside of a jitted function
    for name, layer in observable(model):
        layer.observer = ...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import jax
from flax import nnx


class Observer(Protocol):
    """Takes `x [B, T, n_in]`, which a weight `[n_out, n_in]` is multiplied by. Of experts, `[n_expert, n_out, n_in]`,
    it takes `experts` too, int `[B, T, used]`, those that each position goes to; x is then `[B, T, n_in]`, or
    `[B, T, used, n_in]` where every expert meets values of its own."""

    def __call__(self, x: jax.Array, experts: jax.Array | None = None, /) -> None: ...


class Observable:
    """What a module with a parameter `weight` derives from, to be found by `observable`."""

    weight: nnx.Variable
    observer: Observer | None = None

    def observe(self, x: jax.Array, experts: jax.Array | None = None) -> None:
        if self.observer is not None:
            self.observer(x, experts)


def observable(model: nnx.Module) -> Iterator[tuple[str, Observable]]:
    """Every layer of a model that can be observed, with its weight's name, such as `blk.3.attn_q.weight`."""
    for path, module in nnx.iter_graph(model):
        if isinstance(module, Observable):
            yield ".".join(map(str, (*path, "weight"))), module
