"""`Experts`: a feed-forward part made of many, of which a router chooses a few for every position.

    p = gating(ffn_gate_inp(x))                       [n_expert]
    chosen = the `used` largest of p + exp_probs_b    (of the best groups only, where experts have groups)
    w = scale * p[chosen] / sum(p[chosen])            (without the sum, if weights are not normalized)
    y = sum_i w_i down_i(silu(gate_i(x)) * up_i(x)) + shared(x)

where `shared` is a gated part that every position goes through, times `sigmoid(ffn_gate_inp_shexp . x)` in some models.
As for `feed_forward`, layers are the block's own attributes, with GGUF's names.

The router is never rounded (`precision="exact"`): which expert is chosen hangs on its last bits, and it is small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from gguf_jax import ops
from gguf_jax.nn.linear import Linear, gated
from gguf_jax.nn.observe import Observable
from gguf_jax.nn.param import normal
from gguf_jax.ops import Precision

LEAST_SUM = 2.0**-14
"""What a sum of weights counts as at least when they are divided by it: float16's smallest normal number, as ggml."""

Gating = Literal["softmax", "sigmoid", "softmax_weight"]
"""How the router's numbers become weights; `softmax_weight`: a softmax over those of the chosen experts alone."""


def swiglu_oai(gate: jax.Array, up: jax.Array) -> jax.Array:
    """gpt-oss: `g sigmoid(1.702 g) (u + 1)`, gates cut at 7 and the rest at both -7 and 7."""
    gate, up = jnp.minimum(gate, 7.0), jnp.clip(up, -7.0, 7.0)
    return gate * jax.nn.sigmoid(1.702 * gate) * (up + 1)


def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    return jax.nn.silu(gate) * up


Gate = Literal["swiglu", "swiglu_oai"]

GATES: dict[Gate, Callable[[jax.Array, jax.Array], jax.Array]] = {"swiglu": swiglu, "swiglu_oai": swiglu_oai}


class ExpertLinear(Observable, nnx.Module):
    """A `Linear` for every expert: `weight [n_expert, out, in]`, packed or float, an optional `bias [n_expert, out]`.

    `x [B, T, in]` or `[B, T, used, in]` with int `experts [B, T, used]` -> `[B, T, used, out]`.
    """

    def __init__(
        self, count: int, in_features: int, out_features: int, *, bias: bool = False, rngs: nnx.Rngs | None
    ) -> None:
        self.weight: nnx.Variable = normal(rngs, (count, out_features, in_features))
        self.bias = nnx.Param(jnp.zeros((count, out_features))) if bias else None

    def __call__(self, x: jax.Array, experts: jax.Array, precision: Precision = "exact") -> jax.Array:
        self.observe(x, experts)
        y = ops.grouped_linear(x, self.weight.get_value(), experts, precision=precision)
        return self.completed(y, experts)

    def completed(self, y: jax.Array, experts: jax.Array) -> jax.Array:
        """The weight's product `y [B, T, used, out]` and the bias."""
        return y if self.bias is None else y + self.bias.get_value()[experts].astype(y.dtype)


class ProbsBias(nnx.Module):
    """`exp_probs_b.bias [n_expert]`: what is added to the router's probabilities for the choice of experts alone."""

    def __init__(self, count: int) -> None:
        self.bias: nnx.Variable = nnx.Param(jnp.zeros(count))


class Score(Observable, nnx.Module):
    """`sigmoid(weight . x)`, `x [..., in] -> [..., 1]`; `weight` is `[in]` or `[1, in]`, as files have it."""

    def __init__(self, shape: tuple[int, ...], *, rngs: nnx.Rngs | None) -> None:
        self.weight: nnx.Variable = normal(rngs, shape)

    def __call__(self, x: jax.Array) -> jax.Array:
        self.observe(x)
        weight = self.weight.get_value()
        return jax.nn.sigmoid(ops.linear(x, weight.reshape(1, weight.size)))


@dataclass(frozen=True)
class Experts:
    """See the module.

    Attributes:
        count, used: experts there are, and for a position.
        length: of an expert's inner row; `shared_length` of the part that every position goes through, 0: none.
        shared_gate: shape of `ffn_gate_inp_shexp.weight`, None: it counts in full.
        groups, groups_used: of experts; a group is as good as its best two.
        router_bias, bias: of the router; of the experts.
        fused: gate and up are one weight, `ffn_gate_up_exps`, gate first.
    """

    count: int
    used: int
    length: int
    gating: Gating = "softmax"
    norm_weights: bool = True
    scale: float = 1.0
    gate: Gate = "swiglu"
    shared_length: int = 0
    shared_gate: tuple[int, ...] | None = None
    groups: int = 1
    groups_used: int = 1
    probs_bias: bool = False
    router_bias: bool = False
    bias: bool = False
    fused: bool = False

    def layers(self, width: int, length: int, bias: bool, rngs: nnx.Rngs | None) -> dict[str, nnx.Module]:
        """Name -> layer, of a block whose rows have `width` elements; `length` and `bias` are of other forms."""
        del length, bias

        def experts(inputs: int, outputs: int) -> ExpertLinear:
            return ExpertLinear(self.count, inputs, outputs, bias=self.bias, rngs=rngs)

        layers: dict[str, nnx.Module] = {"ffn_gate_inp": Linear(width, self.count, bias=self.router_bias, rngs=rngs)}
        if self.fused:
            layers["ffn_gate_up_exps"] = experts(width, 2 * self.length)
        else:
            layers |= {"ffn_gate_exps": experts(width, self.length), "ffn_up_exps": experts(width, self.length)}
        layers["ffn_down_exps"] = experts(self.length, width)
        if self.probs_bias:
            layers["exp_probs_b"] = ProbsBias(self.count)
        if self.shared_length:
            shared = [(width, self.shared_length), (width, self.shared_length), (self.shared_length, width)]
            names = ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")
            layers |= {name: Linear(*sizes, rngs=rngs) for name, sizes in zip(names, shared, strict=True)}
        if self.shared_gate is not None:
            layers["ffn_gate_inp_shexp"] = Score(self.shared_gate, rngs=rngs)
        return layers

    def __call__(self, block: Any, x: jax.Array, precision: Precision, positions: jax.Array | None = None) -> jax.Array:
        """`x [B, T, E]` -> `[B, T, E]`. Padding, at negative `positions [B, T]`, goes to no expert: a slot that is idle
        costs no weights."""
        with jax.named_scope("router"):
            bias = block.exp_probs_b.bias.get_value() if self.probs_bias else None
            weights, experts = self.routed(block.ffn_gate_inp(x), bias)
            if positions is not None:
                experts = jnp.where(positions[..., None] < 0, -1, experts)
        with jax.named_scope("experts"):
            y = block.ffn_down_exps(self._inner(block, x, experts, precision), experts, precision)
            total = _weighted(y, weights.astype(y.dtype))
        if not self.shared_length:
            return total
        with jax.named_scope("shared_expert"):
            shared = block.ffn_down_shexp(gated(x, block.ffn_gate_shexp, block.ffn_up_shexp, precision), precision)
            return total + (shared if self.shared_gate is None else shared * block.ffn_gate_inp_shexp(x))

    def routed(self, logits: jax.Array, probs_bias: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The router's `logits [B, T, n_expert]` -> float32 weights and int32 experts, `[B, T, used]`, best first."""
        logits = logits.astype(jnp.float32)
        match self.gating:
            case "softmax":
                probs = jax.nn.softmax(logits, axis=-1)
            case "sigmoid":
                probs = jax.nn.sigmoid(logits)
            case "softmax_weight":
                probs = logits
        selection = probs if probs_bias is None else probs + probs_bias.astype(jnp.float32)
        _, experts = jax.lax.top_k(self._of_best_groups(selection), self.used)
        weights = jnp.take_along_axis(probs, experts, axis=-1)
        if self.gating == "softmax_weight":
            weights = jax.nn.softmax(weights, axis=-1)
        if self.norm_weights:
            weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), LEAST_SUM)
        return weights * self.scale, experts

    def _of_best_groups(self, selection: jax.Array) -> jax.Array:
        """`selection [B, T, n_expert]`, minus infinity outside of the best groups."""
        if self.groups == 1:
            return selection
        grouped = selection.reshape(*selection.shape[:-1], self.groups, -1)
        best, _ = jax.lax.top_k(grouped, min(2, grouped.shape[-1]))
        _, groups = jax.lax.top_k(best.sum(-1), self.groups_used)
        chosen = jax.nn.one_hot(groups, self.groups, dtype=bool).any(-2)
        return jnp.where(chosen[..., None], grouped, -jnp.inf).reshape(selection.shape)

    def _inner(self, block: Any, x: jax.Array, experts: jax.Array, precision: Precision) -> jax.Array:
        """`[B, T, used, length]`: what the experts' last matrices are multiplied by."""
        act = GATES[self.gate]
        if self.fused:
            return act(*jnp.split(block.ffn_gate_up_exps(x, experts, precision), 2, axis=-1))
        gate, up = block.ffn_gate_exps, block.ffn_up_exps
        gate.observe(x, experts)
        up.observe(x, experts)
        weights = gate.weight.get_value(), up.weight.get_value()
        if act is swiglu and not self.bias:
            return ops.gated_grouped_linear(x, *weights, experts, precision=precision)
        products = ops.grouped_linears(x, weights, experts, precision=precision)
        return act(*(layer.completed(y, experts) for layer, y in zip((gate, up), products, strict=True)))


def _weighted(y: jax.Array, weights: jax.Array) -> jax.Array:
    """The sum of `y [..., used, E]` times `weights [..., used]`, from the first to the last: in one order, whatever
    else a program holds."""
    total = y[..., 0, :] * weights[..., 0, None]
    for i in range(1, y.shape[-2]):
        total = total + y[..., i, :] * weights[..., i, None]
    return total
