"""Mixtures of experts: what their readers share, and Mixtral (`llama`), Qwen2 MoE and Qwen3 MoE."""

from __future__ import annotations

from typing import Any

from gguf_jax.errors import GGUFError
from gguf_jax.models.architectures import reader
from gguf_jax.models.architectures.reader import Shapes
from gguf_jax.models.config import DecoderConfig
from gguf_jax.models.keys import Keys
from gguf_jax.nn.experts import Experts, Gating
from gguf_jax.nn.rope import RopePairing

GATINGS: dict[int, Gating] = {1: "softmax", 2: "sigmoid", 3: "softmax_weight"}
"""Of `expert_gating_func`."""

MOST_USED = 256
"""Experts of a position: a program has a sum for each of them."""


def experts(keys: Keys, shapes: Shapes, *, length: int | None = None, first: int = 0, **options: Any) -> Experts:
    """The feed-forward part of a model with experts.

    Args:
        length: of an expert's inner row where no key says it.
        first: the first block that has them.
        options: fields of `Experts` that the architecture's name decides.
    """
    count, used = keys.integer("expert_count"), keys.integer("expert_used_count", high=MOST_USED)
    if used > count:
        raise GGUFError(f"{keys.architecture}.expert_used_count: expected at most {count} (experts), found {used}")
    length = keys.integer("expert_feed_forward_length", length)
    blk = f"blk.{first}"
    fused = f"{blk}.ffn_gate_up_exps.weight" in shapes
    for tensor, axis in ((f"{blk}.ffn_gate_inp.weight", 0), (f"{blk}.ffn_down_exps.weight", 0)):
        reader.agree(keys, "expert_count", count, shapes, tensor, axis)
    reader.agree(keys, "expert feed_forward_length", length, shapes, f"{blk}.ffn_down_exps.weight", 2)
    values: dict[str, Any] = dict(
        count=count,
        used=used,
        length=length,
        scale=keys.number("expert_weights_scale", 0.0, high=1e6) or 1.0,
        probs_bias=f"{blk}.exp_probs_b.bias" in shapes,
        router_bias=f"{blk}.ffn_gate_inp.bias" in shapes,
        bias=f"{blk}.ffn_down_exps.bias" in shapes,
        fused=fused,
        **_groups(keys, count, used),
    )
    return Experts(**(values | options))


def _groups(keys: Keys, count: int, used: int) -> dict[str, int]:
    groups = keys.integer("expert_group_count", 0, low=0) or 1
    if groups == 1:
        return {}
    if count % groups:
        raise GGUFError(
            f"{keys.architecture}.expert_group_count: expected a divisor of {count} experts, found {groups}"
        )
    chosen = keys.integer("expert_group_used_count", high=groups)
    if chosen * (count // groups) < used:
        raise GGUFError(
            f"{keys.architecture}.expert_group_used_count: expected groups with at least {used} experts, found "
            f"{chosen} of {count // groups}"
        )
    return dict(groups=groups, groups_used=chosen)


def decoder(
    keys: Keys, shapes: Shapes, *, pairing: RopePairing, shared_length: int = 0, **options: Any
) -> DecoderConfig:
    """A decoder that may have experts in place of its feed-forward part, their weights normalized (Mixtral)."""
    if keys.integer("expert_count", 0, low=0):
        length = keys.integer("feed_forward_length")
        options["feed_forward"] = experts(keys, shapes, length=length, shared_length=shared_length)
    return reader.decoder(keys, shapes, pairing=pairing, **options)


def qwen2moe(keys: Keys, shapes: Shapes) -> DecoderConfig:
    """Weights as the softmax gives them; a part that every position goes through, as much as a gate of its own says."""
    used = keys.integer("expert_used_count")
    feed_forward = experts(
        keys,
        shapes,
        length=max(1, keys.integer("feed_forward_length", 1) // used),
        norm_weights=False,
        shared_length=keys.integer("expert_shared_feed_forward_length", keys.integer("feed_forward_length", 1)),
        shared_gate=tuple(shapes.get("blk.0.ffn_gate_inp_shexp.weight", ())) or (keys.integer("embedding_length"),),
    )
    return reader.decoder(keys, shapes, pairing=RopePairing.HALVES, feed_forward=feed_forward)


def qwen3moe(keys: Keys, shapes: Shapes, **options: Any) -> DecoderConfig:
    length = max(1, keys.integer("feed_forward_length", 1) // keys.integer("expert_used_count"))
    feed_forward = experts(keys, shapes, length=length)
    return reader.decoder(keys, shapes, pairing=RopePairing.HALVES, feed_forward=feed_forward, **options)
