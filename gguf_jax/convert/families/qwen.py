"""Qwen 2 and 3, with and without experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_jax.convert import keys
from gguf_jax.convert.config import Config
from gguf_jax.convert.families.common import (
    ACTIVATIONS,
    ATTENTION,
    EXPERTS,
    LLAMA,
    PRE_NORM,
    SHARED_EXPERT,
    SILU,
    Tensors,
    value_of,
    windows_of,
)
from gguf_jax.convert.family import Family
from gguf_jax.convert.keys import Values


def _qwen2(config: Config) -> Values:
    config.expect(ACTIVATIONS, SILU, "silu")
    config.first(("max_window_layers",))  # of models with windows; layer_types say the same
    return {**keys.shared(config), **keys.windows(config, every=None)}


def _qwen_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    found = {"hidden_act": "silu", **windows_of(metadata)}
    return {**found, "use_sliding_window": "sliding_window" in found}


QWEN2 = Family(
    architecture="qwen2",
    classes=("Qwen2ForCausalLM", "Qwen2Model"),
    model_type="qwen2",
    modules=LLAMA,
    metadata=_qwen2,
    config=_qwen_config,
    defaults={"use_sliding_window": False},
)
QWEN3 = Family(
    architecture="qwen3",
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    model_type="qwen3",
    modules=LLAMA,
    metadata=_qwen2,
    config=_qwen_config,
    defaults={"use_sliding_window": False, "head_dim": 128},
)


def _experts(config: Config, normalized: bool) -> Values:
    """Every layer has experts, whose weights the architecture normalizes or does not."""
    config.expect(("decoder_sparse_step",), (1,), 1)
    config.expect(("mlp_only_layers",), ([], None))
    config.expect(("norm_topk_prob",), (normalized,), normalized)
    length = config.integer("moe_intermediate_size", low=1)
    return {**_qwen2(config), "expert_feed_forward_length": length}


def _qwen2moe(config: Config) -> Values:
    shared = config.integer("shared_expert_intermediate_size", low=1)
    return {**_experts(config, False), "expert_shared_feed_forward_length": shared}


def _qwen_experts_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    found = _qwen_config(metadata, tensors)
    found["moe_intermediate_size"] = value_of(metadata, "expert_feed_forward_length")
    found["num_experts"] = value_of(metadata, "expert_count")
    found["norm_topk_prob"] = metadata["general.architecture"] == "qwen3moe"
    if (shared := value_of(metadata, "expert_shared_feed_forward_length")) is not None:
        found["shared_expert_intermediate_size"] = shared
    return found


QWEN2MOE = Family(
    architecture="qwen2moe",
    classes=("Qwen2MoeForCausalLM",),
    model_type="qwen2_moe",
    modules={**ATTENTION, **PRE_NORM, **EXPERTS, **SHARED_EXPERT},
    metadata=_qwen2moe,
    config=_qwen_experts_config,
    defaults={"use_sliding_window": False},
)
QWEN3MOE = Family(
    architecture="qwen3moe",
    classes=("Qwen3MoeForCausalLM",),
    model_type="qwen3_moe",
    modules={**ATTENTION, **PRE_NORM, **EXPERTS},
    metadata=lambda config: _experts(config, True),
    config=_qwen_experts_config,
    defaults={"use_sliding_window": False, "head_dim": 128, "norm_topk_prob": False},
)
