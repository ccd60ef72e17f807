"""Cohere's Command R and Command R7B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_jax.convert import keys
from gguf_jax.convert.config import Config
from gguf_jax.convert.families.common import ACTIVATIONS, LLAMA, SILU, Tensors, value_of, windows_of
from gguf_jax.convert.family import Family
from gguf_jax.convert.keys import Values


def _cohere(config: Config) -> Values:
    config.expect(ACTIVATIONS, SILU, "silu")
    config.expect(("use_parallel_block",), (True,), True)
    config.expect(("use_gated_activation",), (True,), True)
    config.expect(("position_embedding_type",), ("rope_gptj",), "rope_gptj")
    keys.checked_rope(config)
    values = keys.shared(config)
    if config.first(("model_max_length",))[1] is not None:
        values["context_length"] = config.integer("model_max_length")
    return {**values, "logit_scale": config.number("logit_scale"), "rope.scaling.type": "none"}


def _cohere2(config: Config) -> Values:
    config.integer("_sliding_window_pattern", "sliding_window_pattern", default=4)
    config.expect(("order_of_interleaved_layers",), ("local_attn_first",), "local_attn_first")
    config.expect(("layer_switch",), (None, 4))
    config.expect(("use_embedding_sharing",), (True,), True)
    config.first(("use_parallel_embedding",))  # how it is spread over devices
    config.expect(("rotary_pct",), (1, None), 1)
    values = {**_cohere(config), **keys.windows(config, every=4)}
    return {**values, "vocab_size": config.integer("vocab_size"), "rope.dimension_count": keys.head_length(config)}


def _cohere_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    return {
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in tensors,
        "logit_scale": value_of(metadata, "logit_scale"),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in tensors,
        **windows_of(metadata),
    }


COHERE_DEFAULTS = {"layer_norm_eps": 1e-5, "logit_scale": 0.0625, "tie_word_embeddings": True}
COMMAND_R = Family(
    architecture="command-r",
    classes=("CohereForCausalLM",),
    model_type="cohere",
    modules=LLAMA,
    metadata=_cohere,
    config=_cohere_config,
    defaults=COHERE_DEFAULTS,
    skip=("lm_head.weight",),
)
COHERE2 = Family(
    architecture="cohere2",
    classes=("Cohere2ForCausalLM",),
    model_type="cohere2",
    modules=LLAMA,
    metadata=_cohere2,
    config=_cohere_config,
    defaults=COHERE_DEFAULTS | {"sliding_window": 4096},
    skip=("lm_head.weight",),
)
