"""Falcon: heads in groups of queries, one key and one value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gguf_jax.convert import keys
from gguf_jax.convert.config import Config
from gguf_jax.convert.families.common import ACTIVATIONS, Tensors, Transforms, value_of
from gguf_jax.convert.family import Family
from gguf_jax.convert.keys import Values
from gguf_jax.convert.transforms import grouped_qkv


def _falcon_kv_heads(config: Config) -> int:
    """Of the new form its own number; of the old one, or as many as heads."""
    heads = config.integer(*keys.HEADS, low=1, high=keys.MOST_HEADS)
    multi_query = config.flag("multi_query", True)
    if config.flag("new_decoder_architecture", False):
        return config.integer("num_kv_heads", "n_head_kv", default=heads, low=1, high=heads)
    config.first(("num_kv_heads", "n_head_kv"))
    return 1 if multi_query else heads


def _falcon(config: Config) -> Values:
    config.expect(ACTIVATIONS, ("gelu",), "gelu")
    config.expect(("alibi",), (False,), False)
    config.expect(("apply_residual_connection_post_layernorm",), (False,), False)
    new = config.flag("new_decoder_architecture", False)
    if not new:
        config.expect(("parallel_attn",), (True,), True)
    config.first(("parallel_attn",))
    config.expect(("ffn_hidden_size",), (None, 4 * config.integer("hidden_size")))
    norms = config.first(("num_ln_in_parallel_attn",))[1]
    if new and norms not in (None, 2):
        raise config.error("num_ln_in_parallel_attn", "2", norms)
    values = keys.without_usual_base(keys.shared(config))
    values.pop("feed_forward_length", None)
    return {
        **values,
        "context_length": config.integer("max_position_embeddings", default=2048),
        "tensor_data_layout": "jploski",
        "feed_forward_length": 4 * values["embedding_length"],
        "attention.head_count_kv": _falcon_kv_heads(config),
    }


def _falcon_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    new = "blk.0.attn_norm_2.weight" in tensors
    kv_heads = value_of(metadata, "attention.head_count_kv")
    return {
        "activation": "gelu",
        "alibi": False,
        "bias": "blk.0.attn_qkv.bias" in tensors,
        "parallel_attn": True,
        "new_decoder_architecture": new,
        "multi_query": new or kv_heads == 1,
        "num_kv_heads": kv_heads,
        "layer_norm_epsilon": value_of(metadata, "attention.layer_norm_epsilon"),
    }


def _falcon_unused(names: Collection[str]) -> Collection[str]:
    norms = {"transformer.h.{}.input_layernorm", "transformer.h.{}.ln_mlp"}
    return norms - {"transformer.h.{}.ln_mlp" if "blk.0.attn_norm_2.weight" in names else min(norms)}


def _falcon_transforms(config: Config) -> Transforms:
    heads, groups = config.integer(*keys.HEADS, low=1, high=keys.MOST_HEADS), _falcon_kv_heads(config)
    if heads % groups:
        raise config.error("num_kv_heads", f"a divisor of {heads}", groups)
    return {"attn_qkv": grouped_qkv(groups, heads // groups, keys.head_length(config))}


FALCON = Family(
    architecture="falcon",
    classes=("FalconForCausalLM", "RWForCausalLM"),
    model_type="falcon",
    modules={
        "transformer.word_embeddings": "token_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
        "transformer.h.{}.input_layernorm": "blk.{}.attn_norm",
        "transformer.h.{}.ln_mlp": "blk.{}.attn_norm",
        "transformer.h.{}.ln_attn": "blk.{}.attn_norm_2",
        "transformer.h.{}.self_attention.query_key_value": "blk.{}.attn_qkv",
        "transformer.h.{}.self_attention.dense": "blk.{}.attn_output",
        "transformer.h.{}.mlp.dense_h_to_4h": "blk.{}.ffn_up",
        "transformer.h.{}.mlp.dense_4h_to_h": "blk.{}.ffn_down",
    },
    metadata=_falcon,
    config=_falcon_config,
    transforms=_falcon_transforms,
    defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    prefix="transformer.",
    unused=_falcon_unused,
)
