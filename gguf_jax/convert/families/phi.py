"""Phi 3: fused projections, and factors of frequencies for long contexts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.convert import keys
from gguf_jax.convert.config import Config
from gguf_jax.convert.families.common import ACTIVATIONS, ATTENTION, PRE_NORM, SILU, Tensors, value_of
from gguf_jax.convert.family import Family
from gguf_jax.convert.keys import Values


def _phi3(config: Config) -> Values:
    config.expect(ACTIVATIONS, SILU, "silu")
    section = keys.checked_rope(config)
    length = config.integer("max_position_embeddings", low=1)
    original = section.get("original_max_position_embeddings", length)
    values = {
        **keys.shared(config),
        "rope.scaling.original_context_length": original,
        "rope.dimension_count": keys.rotated(config),
        "attention.sliding_window": config.integer("sliding_window", default=0),
    }
    if section["rope_type"] == "longrope":
        scale = length / original
        factor = section.get("attention_factor")
        usual = np.sqrt(1 + np.log(scale) / np.log(original)) if scale > 1 else 1.0
        values["rope.scaling.attn_factor"] = float(usual if factor is None else factor)
        values.pop("rope.scaling.type")  # what the file's factors say, and what the peer does not write
    for key in ("attention.key_length", "attention.value_length"):
        if values.get(key) == values["embedding_length"] // values["attention.head_count"]:
            values.pop(key)
    return values


def _phi3_tensors(config: Config) -> Mapping[str, np.ndarray]:
    section = keys.checked_rope(config)
    if section["rope_type"] != "longrope":
        return {}
    raw = config.section("rope_parameters", "rope_scaling")
    found = {}
    for kind in ("long", "short"):
        factors = raw.get(f"{kind}_factor")
        expected = keys.rotated(config) // 2
        if not isinstance(factors, list) or len(factors) != expected:
            raise config.error(f"rope_parameters.{kind}_factor", f"{expected} numbers", factors)
        try:
            found[f"rope_factors_{kind}.weight"] = np.array(factors, np.float32)
        except (TypeError, ValueError):
            raise config.error(f"rope_parameters.{kind}_factor", "numbers", factors) from None
    return found


def _phi3_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    heads, width = value_of(metadata, "attention.head_count"), value_of(metadata, "embedding_length")
    factors: Values = {}
    if "rope_factors_long.weight" in tensors:
        factors["rope_parameters"] = {
            "rope_type": "longrope",
            "rope_theta": value_of(metadata, "rope.freq_base", 10000.0),
            "attention_factor": value_of(metadata, "rope.scaling.attn_factor", 1.0),
            "original_max_position_embeddings": value_of(metadata, "rope.scaling.original_context_length"),
            "long_factor": tensors["rope_factors_long.weight"].dequantize().tolist(),
            "short_factor": tensors["rope_factors_short.weight"].dequantize().tolist(),
        }
    return {
        **factors,
        "hidden_act": "silu",
        "sliding_window": value_of(metadata, "attention.sliding_window") or None,
        "partial_rotary_factor": value_of(metadata, "rope.dimension_count") / (width // heads),
        "original_max_position_embeddings": value_of(metadata, "rope.scaling.original_context_length"),
    }


PHI3 = Family(
    architecture="phi3",
    classes=("Phi3ForCausalLM",),
    model_type="phi3",
    modules={
        **ATTENTION,
        **PRE_NORM,
        "model.layers.{}.self_attn.qkv_proj": "blk.{}.attn_qkv",
        "model.layers.{}.mlp.gate_up_proj": "blk.{}.ffn_up",
        "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
    },
    metadata=_phi3,
    config=_phi3_config,
    tensors=_phi3_tensors,
    computed=("rope_factors_long.weight", "rope_factors_short.weight"),
)
