"""Llama and its kin: Mistral, Mixtral, Granite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gguf_jax.convert import keys
from gguf_jax.convert.config import Config
from gguf_jax.convert.families.common import (
    ACTIVATIONS,
    ATTENTION,
    LLAMA,
    PRE_NORM,
    SILU,
    Tensors,
    Transforms,
    value_of,
    windows_of,
)
from gguf_jax.convert.family import VISION, Family
from gguf_jax.convert.keys import Values
from gguf_jax.convert.transforms import interleaved_rope


def llama(config: Config) -> Values:
    config.expect(ACTIVATIONS, SILU, "silu")
    sized = {
        "vocab_size": config.integer("vocab_size"),
        "rope.dimension_count": keys.head_length(config),
    }
    length = {"attention.key_length": sized["rope.dimension_count"]}
    length["attention.value_length"] = length["attention.key_length"]
    return {**keys.shared(config), **length, **sized, **keys.windows(config, every=None)}


def llama_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    found: Values = {"hidden_act": "silu", **windows_of(metadata)}
    if "sliding_window" in found and metadata["general.architecture"] == "llama":
        found |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}  # a llama with windows
    if "rope_freqs.weight" in tensors:
        base = value_of(metadata, "rope.freq_base", 10000.0)
        found["rope_parameters"] = keys.llama3_section(tensors["rope_freqs.weight"].dequantize(), base)
    if "blk.0.attn_q.bias" in tensors:
        found["attention_bias"] = True
    if "blk.0.ffn_up.bias" in tensors:
        found["mlp_bias"] = True
    return found


def _turned(config: Config, heads: int, kv_heads: int) -> Transforms:
    length = keys.head_length(config)
    return {
        "attn_q": interleaved_rope(heads, heads * length),
        "attn_k": interleaved_rope(kv_heads, kv_heads * length),
    }


def llama_transforms(config: Config) -> Transforms:
    heads = config.integer(*keys.HEADS, low=1, high=keys.MOST_HEADS)
    return _turned(config, heads, config.integer("num_key_value_heads", default=heads, low=1, high=heads))


def _llama_tensors(config: Config) -> Mapping[str, np.ndarray]:
    factors = keys.llama3_factors(config)
    return {} if factors is None else {"rope_freqs.weight": factors}


LLAMA_FAMILY = Family(
    architecture="llama",
    classes=("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "LlamaModel", "MistralModel"),
    model_type="llama",
    modules=LLAMA,
    metadata=llama,
    config=llama_config,
    transforms=llama_transforms,
    tensors=_llama_tensors,
    computed=("rope_freqs.weight",),
)


MIXTRAL = replace(
    LLAMA_FAMILY,
    classes=("MixtralForCausalLM",),
    model_type="mixtral",
    modules={
        **ATTENTION,
        **PRE_NORM,
        "model.layers.{}.block_sparse_moe.gate": "blk.{}.ffn_gate_inp",
        "model.layers.{}.block_sparse_moe.experts.{e}.w1": "blk.{}.ffn_gate_exps",
        "model.layers.{}.block_sparse_moe.experts.{e}.w2": "blk.{}.ffn_down_exps",
        "model.layers.{}.block_sparse_moe.experts.{e}.w3": "blk.{}.ffn_up_exps",
    },
)

GRANITE_SCALES = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def _granite(config: Config) -> Values:
    values = llama(config)
    for key in ("attention.key_length", "attention.value_length"):
        values.pop(key, None)  # which the architecture has no place for
    for gguf, name in GRANITE_SCALES.items():
        if config.first((name,))[1]:
            values[gguf] = config.number(name)
    return values


def _granite_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    scales = {name: value for gguf, name in GRANITE_SCALES.items() if (value := value_of(metadata, gguf)) is not None}
    return {**llama_config(metadata, tensors), **scales}


GRANITE = Family(
    architecture="granite",
    classes=("GraniteForCausalLM",),
    model_type="granite",
    modules=LLAMA,
    metadata=_granite,
    config=_granite_config,
    transforms=llama_transforms,
)


def _granitemoe(config: Config) -> Values:
    values = _granite(config)
    if config.first(("shared_intermediate_size",))[1]:
        values["expert_shared_feed_forward_length"] = config.integer("shared_intermediate_size")
    return values


def _granitemoe_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    found = _granite_config(metadata, tensors)
    if (shared := value_of(metadata, "expert_shared_feed_forward_length")) is not None:
        names = {"architectures": ["GraniteMoeSharedForCausalLM"], "model_type": "granitemoeshared"}
        found |= {**names, "shared_intermediate_size": shared}
    return found


GRANITEMOE = replace(
    GRANITE,
    architecture="granitemoe",
    classes=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    model_type="granitemoe",
    modules={
        **ATTENTION,
        **PRE_NORM,
        "model.layers.{}.block_sparse_moe.router.layer": "blk.{}.ffn_gate_inp",
        "model.layers.{}.block_sparse_moe.input_linear": ("blk.{}.ffn_gate_exps", "blk.{}.ffn_up_exps"),
        "model.layers.{}.block_sparse_moe.output_linear": "blk.{}.ffn_down_exps",
        "model.layers.{}.shared_mlp.input_linear": ("blk.{}.ffn_gate_shexp", "blk.{}.ffn_up_shexp"),
        "model.layers.{}.shared_mlp.output_linear": "blk.{}.ffn_down_shexp",
    },
    metadata=_granitemoe,
    config=_granitemoe_config,
)


def _ministral3(config: Config) -> Values:
    config.expect(("sliding_window",), (None,))
    section = keys.checked_rope(config)
    values = llama(config)
    if section["rope_type"] == "yarn":
        config.expect_equal("rope_parameters.mscale", section.get("mscale", 1.0), 1.0)
        if "attention_factor" not in section:
            values.pop("rope.scaling.attn_factor", None)  # which follows from the multiplier
        values["rope.scaling.yarn_log_multiplier"] = float(section.get("mscale_all_dim", 1.0))
        values["attention.temperature_scale"] = float(section.get("llama_4_scaling_beta", 0.0))
    return values


def _ministral3_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    found = llama_config(metadata, tensors)
    section = keys.exported(metadata, "mistral3")["rope_parameters"]
    if section["rope_type"] == "yarn":
        section["mscale"] = 1.0
        section["mscale_all_dim"] = value_of(metadata, "rope.scaling.yarn_log_multiplier")
        section["llama_4_scaling_beta"] = value_of(metadata, "attention.temperature_scale")
    return {**found, "rope_parameters": section}


MINISTRAL3 = replace(
    LLAMA_FAMILY,
    architecture="mistral3",
    classes=("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
    model_type="ministral3",
    metadata=_ministral3,
    config=_ministral3_config,
    skip=VISION,
)
