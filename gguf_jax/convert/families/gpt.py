"""GPT-2 and GPT-NeoX: a fused projection of queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_jax.convert import keys
from gguf_jax.convert.config import Config
from gguf_jax.convert.families.common import ACTIVATIONS, GELU_TANH, Tensors, Transforms, value_of
from gguf_jax.convert.family import Family
from gguf_jax.convert.keys import Values
from gguf_jax.convert.transforms import Transpose, grouped_qkv


def _gpt2(config: Config) -> Values:
    config.expect(ACTIVATIONS, GELU_TANH, "gelu_new")
    config.expect(("scale_attn_by_inverse_layer_idx",), (False,), False)
    config.expect(("add_cross_attention",), (False,), False)
    values = keys.shared(config)
    values.setdefault("feed_forward_length", 4 * values["embedding_length"])
    return {key: value for key, value in values.items() if not key.startswith("rope.")}


def _gpt2_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    names = {
        "n_layer": "block_count",
        "n_positions": "context_length",
        "n_embd": "embedding_length",
        "n_inner": "feed_forward_length",
        "n_head": "attention.head_count",
        "layer_norm_epsilon": "attention.layer_norm_epsilon",
    }
    return {"activation_function": "gelu_new"} | {hf: value_of(metadata, name) for hf, name in names.items()}


GPT2 = Family(
    architecture="gpt2",
    classes=("GPT2LMHeadModel", "GPT2Model"),
    model_type="gpt2",
    modules={
        "transformer.wte": "token_embd",
        "transformer.wpe": "position_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
        "transformer.h.{}.ln_1": "blk.{}.attn_norm",
        "transformer.h.{}.ln_2": "blk.{}.ffn_norm",
        "transformer.h.{}.attn.c_attn": "blk.{}.attn_qkv",
        "transformer.h.{}.attn.c_proj": "blk.{}.attn_output",
        "transformer.h.{}.mlp.c_fc": "blk.{}.ffn_up",
        "transformer.h.{}.mlp.c_proj": "blk.{}.ffn_down",
    },
    metadata=_gpt2,
    config=_gpt2_config,
    transforms=lambda config: dict.fromkeys(("attn_qkv", "attn_output", "ffn_up", "ffn_down"), Transpose()),
    defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    prefix="transformer.",
)


def _gptneox(config: Config) -> Values:
    config.expect(ACTIVATIONS, ("gelu",), "gelu")
    values = keys.without_usual_base(keys.shared(config))
    values["rope.dimension_count"] = keys.rotated(config)
    return {**values, "use_parallel_residual": config.flag("use_parallel_residual", True)}


def _gptneox_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    length = value_of(metadata, "embedding_length") // value_of(metadata, "attention.head_count")
    return {
        "hidden_act": "gelu",
        "use_parallel_residual": value_of(metadata, "use_parallel_residual"),
        "rotary_pct": value_of(metadata, "rope.dimension_count") / length,
        "rotary_emb_base": value_of(metadata, "rope.freq_base", 10000.0),
        "layer_norm_eps": value_of(metadata, "attention.layer_norm_epsilon"),
    }


def _gptneox_transforms(config: Config) -> Transforms:
    heads = config.integer("num_attention_heads", low=1, high=keys.MOST_HEADS)
    return {"attn_qkv": grouped_qkv(heads, 1, keys.head_length(config))}


GPTNEOX = Family(
    architecture="gptneox",
    classes=("GPTNeoXForCausalLM", "GPTNeoXModel"),
    model_type="gpt_neox",
    modules={
        "gpt_neox.embed_in": "token_embd",
        "gpt_neox.final_layer_norm": "output_norm",
        "embed_out": "output",
        "gpt_neox.layers.{}.input_layernorm": "blk.{}.attn_norm",
        "gpt_neox.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
        "gpt_neox.layers.{}.attention.query_key_value": "blk.{}.attn_qkv",
        "gpt_neox.layers.{}.attention.dense": "blk.{}.attn_output",
        "gpt_neox.layers.{}.mlp.dense_h_to_4h": "blk.{}.ffn_up",
        "gpt_neox.layers.{}.mlp.dense_4h_to_h": "blk.{}.ffn_down",
    },
    metadata=_gptneox,
    config=_gptneox_config,
    transforms=_gptneox_transforms,
    defaults={"rotary_pct": 0.25},
    prefix="gpt_neox.",
)
