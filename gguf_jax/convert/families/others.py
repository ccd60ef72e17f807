"""StarCoder 2, StableLM and OLMo 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_jax.convert import keys
from gguf_jax.convert.config import Config
from gguf_jax.convert.families.common import (
    ACTIVATIONS,
    ATTENTION,
    GATED,
    GELU_TANH,
    LLAMA,
    POST_NORM,
    PRE_NORM,
    SILU,
    Tensors,
    value_of,
    windows_of,
)
from gguf_jax.convert.family import Family
from gguf_jax.convert.keys import Values


def _starcoder2(config: Config) -> Values:
    config.expect(ACTIVATIONS, GELU_TANH, "gelu_pytorch_tanh")
    config.expect(("norm_type",), ("layer_norm",), "layer_norm")
    config.expect(("mlp_type",), ("default",), "default")
    return {**keys.shared(config), **keys.windows(config, every=None)}


def _starcoder2_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "norm_epsilon": value_of(metadata, "attention.layer_norm_epsilon"),
        "use_bias": "blk.0.attn_q.bias" in tensors,
        "sliding_window": None,
        **windows_of(metadata),
    }


STARCODER2 = Family(
    architecture="starcoder2",
    classes=("Starcoder2ForCausalLM",),
    model_type="starcoder2",
    modules={
        **ATTENTION,
        **PRE_NORM,
        "model.layers.{}.mlp.c_fc": "blk.{}.ffn_up",
        "model.layers.{}.mlp.c_proj": "blk.{}.ffn_down",
    },
    metadata=_starcoder2,
    config=_starcoder2_config,
    defaults={"norm_epsilon": 1e-5, "tie_word_embeddings": True},
)


def _stablelm(config: Config) -> Values:
    config.expect(ACTIVATIONS, SILU, "silu")
    values = keys.without_usual_base(keys.shared(config))
    # the form of a block, told by which norms there are
    values["use_parallel_residual"] = config.flag("use_parallel_residual", True)
    return {**values, "rope.dimension_count": keys.rotated(config)}


def _stablelm_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    length = value_of(metadata, "embedding_length") // value_of(metadata, "attention.head_count")
    return {
        "hidden_act": "silu",
        "use_qkv_bias": "blk.0.attn_q.bias" in tensors,
        "qk_layernorm": "blk.0.attn_q_norm.weight" in tensors,
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in tensors,
        "partial_rotary_factor": value_of(metadata, "rope.dimension_count") / length,
    }


STABLELM = Family(
    architecture="stablelm",
    classes=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    model_type="stablelm",
    modules={
        **{hf: to for hf, to in LLAMA.items() if not hf.endswith(("q_norm", "k_norm"))},
        "model.layers.{}.self_attn.q_layernorm.norms.{e}": "blk.{}.attn_q_norm",
        "model.layers.{}.self_attn.k_layernorm.norms.{e}": "blk.{}.attn_k_norm",
    },
    metadata=_stablelm,
    config=_stablelm_config,
    defaults={"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25},
)


def _olmo2(config: Config) -> Values:
    config.expect(ACTIVATIONS, SILU, "silu")
    return {**keys.shared(config), **keys.windows(config, every=4, always=True)}


def _olmo2_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    found = {"hidden_act": "silu", **windows_of(metadata)}
    third = {"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3"} if "sliding_window" in found else {}
    return found | third


OLMO2 = Family(
    architecture="olmo2",
    classes=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    model_type="olmo2",
    modules={**ATTENTION, **POST_NORM, **GATED},
    metadata=_olmo2,
    config=_olmo2_config,
)
