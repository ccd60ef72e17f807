"""DeepSeek-V2 and -V3, and what is built like them (Kimi K2)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from gguf_jax.errors import GGUFError
from gguf_jax.models.architectures import mixture, reader
from gguf_jax.models.architectures.reader import Shapes, optional_scale
from gguf_jax.models.config import DecoderConfig, Temperature
from gguf_jax.models.keys import Keys
from gguf_jax.nn.latent import Absorbed, Latent
from gguf_jax.nn.rope import RopePairing, magnitude


def deepseek2(keys: Keys, shapes: Shapes) -> DecoderConfig:
    """Latent attention; experts behind some dense blocks, with a part that every position goes through."""
    block_count = keys.integer("block_count")
    lead = keys.integer("leading_dense_block_count", 0, low=0, high=block_count)
    form = _projection(keys, shapes)
    absorbed = isinstance(form, Absorbed)
    options: dict[str, Any] = dict(projection=form, leading_dense_block_count=lead)
    if lead < block_count:
        options["feed_forward"] = _experts(keys, shapes, lead)
    if absorbed:
        options |= dict(head_count_kv=1, key_length=form.rope + form.rank, value_length=form.rank)
    base = reader.decoder(keys, shapes, pairing=RopePairing.INTERLEAVED, **options)
    assert base.rope is not None
    rope, length, stretch = base.rope, form.nope + form.rope, 1.0
    if rope.yarn is not None:
        # files hold a tenth of `mscale_all_dim`, and `mscale` is the same in every model that has it
        all_dim = rope.yarn.mscale_all_dim / 0.1
        rope = replace(rope, yarn=replace(rope.yarn, mscale=all_dim or 1.0, mscale_all_dim=all_dim))
        stretch = magnitude(rope) * (1 + 0.1 * all_dim * math.log(max(1.0, rope.factor)))
    return replace(base, rope=rope, attention_scale=stretch**2 * length**-0.5, temperature=_temperature(keys))


def _projection(keys: Keys, shapes: Shapes) -> Absorbed | Latent:
    absorbed = "blk.0.attn_k_b.weight" in shapes
    ending = "_mla" if absorbed else ""
    heads, rope = keys.integer("attention.head_count"), keys.integer("rope.dimension_count")
    key, value = (keys.integer(f"attention.{name}_length{ending}") for name in ("key", "value"))
    rank = keys.integer("attention.kv_lora_rank")
    if key <= rope:
        label = f"{keys.architecture}.attention.key_length{ending}"
        raise GGUFError(f"{label}: expected more than rope.dimension_count, {rope}, found {key}")
    q_rank = None if "blk.0.attn_q.weight" in shapes else keys.integer("attention.q_lora_rank")
    reader.agree(
        keys, "attention.kv_lora_rank + rope.dimension_count", rank + rope, shapes, "blk.0.attn_kv_a_mqa.weight", 0
    )
    reader.agree(keys, "attention.head_count x value_length", heads * value, shapes, "blk.0.attn_output.weight", 1)
    queries = "blk.0.attn_q.weight" if q_rank is None else "blk.0.attn_q_b.weight"
    reader.agree(keys, "attention.head_count x key_length", heads * key, shapes, queries, 0)
    eps = keys.number("attention.layer_norm_rms_epsilon", high=1e3)
    return (Absorbed if absorbed else Latent)(heads, key - rope, rope, rank, value, eps, q_rank)


def _experts(keys: Keys, shapes: Shapes, lead: int) -> Any:
    length = keys.integer("expert_feed_forward_length")
    gating = keys.integer("expert_gating_func", 1, low=0, high=max(mixture.GATINGS)) or 1
    return mixture.experts(
        keys,
        shapes,
        first=lead,
        gating=mixture.GATINGS[gating],
        norm_weights=keys.flag("expert_weights_norm", False),
        shared_length=length * keys.integer("expert_shared_count", low=0),
    )


def _temperature(keys: Keys) -> Temperature | None:
    scale = optional_scale(keys, "attention.temperature_scale")
    return None if scale is None else Temperature(scale, keys.integer("attention.temperature_length"))
