"""Gemma 1 to 3: norms that multiply by `1 + weight`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_jax.convert import keys
from gguf_jax.convert.config import Config
from gguf_jax.convert.families.common import (
    ACTIVATIONS,
    GELU_TANH,
    GEMMA2,
    LLAMA,
    Tensors,
    Transforms,
    value_of,
    windows_of,
)
from gguf_jax.convert.family import VISION, Family
from gguf_jax.convert.keys import Values
from gguf_jax.convert.transforms import Shift

GEMMA_NORMS = (
    "output_norm", "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm"
)  # fmt: skip
GEMMA_DEFAULTS = {"head_dim": 256, "tie_word_embeddings": True, "rms_norm_eps": 1e-6}


def _gemma_transforms(config: Config) -> Transforms:
    return {name: Shift(1.0) for name in GEMMA_NORMS}


def _gemma(config: Config) -> Values:
    config.expect(ACTIVATIONS, (*GELU_TANH, "gelu"), "gelu_pytorch_tanh")  # which "gelu" was written for, in error
    return keys.without_usual_base(keys.shared(config))


def _gemma_scale(config: Config, values: Values, largest: int) -> None:
    """The scale of scores is in no key: readers of the file know the largest model by its blocks."""
    if config.first(("query_pre_attn_scalar",))[1] is None:
        return
    scalar = config.number("query_pre_attn_scalar")
    if not scalar > 0:
        raise config.error("query_pre_attn_scalar", "a number above 0", scalar)
    usual = keys.head_length(config)
    if values["block_count"] == largest:
        usual = values["embedding_length"] // values["attention.head_count"]
    if scalar != usual:
        values["attention.scale"] = scalar**-0.5


def _gemma2(config: Config) -> Values:
    config.first(("sliding_window_size",))  # sliding_window once more, in the first files
    values = {**_gemma(config), **keys.windows(config, every=2)}
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        values[name] = config.number(name, default=0.0)
    _gemma_scale(config, values, 46)
    return values


def _gemma3(config: Config) -> Values:
    config.expect(ACTIVATIONS, GELU_TANH, "gelu_pytorch_tanh")
    config.expect(("use_bidirectional_attention",), (False,), False)
    config.expect(("attn_logit_softcapping",), (None,))
    every = config.integer("_sliding_window_pattern", "sliding_window_pattern", default=6, low=1)
    values = {**keys.shared(config), **keys.windows(config, every=6)}
    if "layer_types" not in config and every != 6:
        blocks = range(values["block_count"])
        values["attention.sliding_window_pattern"] = [(i + 1) % every != 0 for i in blocks]
    if config.first(("final_logit_softcapping",))[1] is not None:
        values["final_logit_softcapping"] = config.number("final_logit_softcapping")
    _gemma_scale(config, values, 62)
    return values


def _gemma_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    found: Values = {"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True}
    if metadata["general.architecture"] == "gemma":
        return found
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if (cap := value_of(metadata, name)) is not None:
            found[name] = cap or None
    scale = value_of(metadata, "attention.scale")
    length = value_of(metadata, "attention.key_length", 256)
    largest = {"gemma2": 46, "gemma3": 62}.get(metadata["general.architecture"])
    if scale is None and value_of(metadata, "block_count") == largest:
        length = value_of(metadata, "embedding_length") // value_of(metadata, "attention.head_count")
    found["query_pre_attn_scalar"] = length if scale is None else round(scale**-2)
    found |= windows_of(metadata)
    return found


GEMMA_FAMILY = Family(
    architecture="gemma",
    classes=("GemmaForCausalLM",),
    model_type="gemma",
    modules=LLAMA,
    metadata=_gemma,
    config=_gemma_config,
    transforms=_gemma_transforms,
    defaults=GEMMA_DEFAULTS,
    skip=("lm_head.weight",),
)
GEMMA2_FAMILY = Family(
    architecture="gemma2",
    classes=("Gemma2ForCausalLM",),
    model_type="gemma2",
    modules=GEMMA2,
    metadata=_gemma2,
    config=_gemma_config,
    transforms=_gemma_transforms,
    defaults=GEMMA_DEFAULTS | {"sliding_window": 4096},
    skip=("lm_head.weight",),
)
GEMMA3_FAMILY = Family(
    architecture="gemma3",
    classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    model_type="gemma3_text",
    modules=GEMMA2,
    metadata=_gemma3,
    config=_gemma_config,
    transforms=_gemma_transforms,
    defaults=GEMMA_DEFAULTS
    | {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "rope_theta": 1e6,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    skip=("lm_head.weight", *VISION),
)
