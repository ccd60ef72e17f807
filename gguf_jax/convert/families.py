"""`FAMILIES`: one entry for each kind of model that can be converted."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from gguf_jax.convert import keys
from gguf_jax.convert.config import Config
from gguf_jax.convert.encoders import ENCODERS
from gguf_jax.convert.family import VISION, Family, Modules
from gguf_jax.convert.keys import Values
from gguf_jax.convert.transforms import Shift, Transform, Transpose, grouped_qkv, interleaved_rope
from gguf_jax.errors import GGUFError, Unsupported
from gguf_jax.gguf import TensorView
from gguf_jax.gguf.text import shown

Tensors = Mapping[str, TensorView]
Transforms = Mapping[str, Transform]

ATTENTION: Modules = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
    "model.layers.{}.self_attn.q_norm": "blk.{}.attn_q_norm",
    "model.layers.{}.self_attn.k_norm": "blk.{}.attn_k_norm",
}
PRE_NORM: Modules = {"model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm"}
POST_NORM: Modules = {
    "model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
    "model.layers.{}.post_feedforward_layernorm": "blk.{}.post_ffw_norm",
}
GATED: Modules = {
    "model.layers.{}.mlp.gate_proj": "blk.{}.ffn_gate",
    "model.layers.{}.mlp.up_proj": "blk.{}.ffn_up",
    "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
}
LLAMA: Modules = {**ATTENTION, **PRE_NORM, **GATED}
GEMMA2: Modules = {
    **ATTENTION, **POST_NORM, **GATED, "model.layers.{}.pre_feedforward_layernorm": "blk.{}.ffn_norm"
}  # fmt: skip

ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "activation")
SILU = ("silu", "swish")
GELU, GELU_TANH = ("gelu", "gelu_python"), ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


def _value(metadata: Mapping[str, Any], name: str, default: Any = None) -> Any:
    return metadata.get(f"{metadata['general.architecture']}.{name}", default)


def _heads_and_windows(metadata: Mapping[str, Any]) -> Values:
    """What `windows` made, the way back."""
    found: Values = {}
    if length := _value(metadata, "attention.sliding_window"):
        found["sliding_window"] = length
        pattern = _value(metadata, "attention.sliding_window_pattern")
        if pattern is not None:
            found["layer_types"] = ["sliding_attention" if slides else "full_attention" for slides in pattern.tolist()]
    return found


# llama ---------------------------------------------------------------------------------------------------------------


def _llama(config: Config) -> Values:
    config.expect(ACTIVATIONS, SILU, "silu")
    sized = {
        "vocab_size": config.integer("vocab_size"),
        "rope.dimension_count": keys.head_length(config),
    }
    length = {"attention.key_length": sized["rope.dimension_count"]}
    length["attention.value_length"] = length["attention.key_length"]
    return {**keys.shared(config), **length, **sized, **keys.windows(config, every=None)}


def _llama_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    found: Values = {"hidden_act": "silu", **_heads_and_windows(metadata)}
    if "sliding_window" in found and metadata["general.architecture"] == "llama":
        found |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}  # a llama with windows
    if "rope_freqs.weight" in tensors:
        base = _value(metadata, "rope.freq_base", 10000.0)
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


def _llama_transforms(config: Config) -> Transforms:
    heads = config.integer(*keys.HEADS, low=1)
    return _turned(config, heads, config.integer("num_key_value_heads", default=heads, low=1))


def _llama_tensors(config: Config) -> Mapping[str, np.ndarray]:
    factors = keys.llama3_factors(config)
    return {} if factors is None else {"rope_freqs.weight": factors}


_LLAMA = Family(
    architecture="llama",
    classes=("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "LlamaModel", "MistralModel"),
    model_type="llama",
    modules=LLAMA,
    metadata=_llama,
    config=_llama_config,
    transforms=_llama_transforms,
    tensors=_llama_tensors,
    computed=("rope_freqs.weight",),
)

# Qwen ----------------------------------------------------------------------------------------------------------------


def _qwen2(config: Config) -> Values:
    config.expect(ACTIVATIONS, SILU, "silu")
    config.first(("max_window_layers",))  # of models with windows; layer_types say the same
    return {**keys.shared(config), **keys.windows(config, every=None)}


def _qwen_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    found = {"hidden_act": "silu", **_heads_and_windows(metadata)}
    return {**found, "use_sliding_window": "sliding_window" in found}


_QWEN2 = Family(
    architecture="qwen2",
    classes=("Qwen2ForCausalLM", "Qwen2Model"),
    model_type="qwen2",
    modules=LLAMA,
    metadata=_qwen2,
    config=_qwen_config,
    defaults={"use_sliding_window": False},
)
_QWEN3 = Family(
    architecture="qwen3",
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    model_type="qwen3",
    modules=LLAMA,
    metadata=_qwen2,
    config=_qwen_config,
    defaults={"use_sliding_window": False, "head_dim": 128},
)

# Gemma ---------------------------------------------------------------------------------------------------------------

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
    usual = keys.head_length(config)
    if values["block_count"] == largest:
        usual = values["embedding_length"] // values["attention.head_count"]
    if scalar != usual:
        values["attention.scale"] = scalar**-0.5


def _gemma2(config: Config) -> Values:
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
        if (cap := _value(metadata, name)) is not None:
            found[name] = cap or None
    scale = _value(metadata, "attention.scale")
    length = _value(metadata, "attention.key_length", 256)
    largest = {"gemma2": 46, "gemma3": 62}.get(metadata["general.architecture"])
    if scale is None and _value(metadata, "block_count") == largest:
        length = _value(metadata, "embedding_length") // _value(metadata, "attention.head_count")
    found["query_pre_attn_scalar"] = length if scale is None else round(scale**-2)
    found |= _heads_and_windows(metadata)
    return found


_GEMMA = Family(
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
_GEMMA2 = Family(
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
_GEMMA3 = Family(
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

# Phi -----------------------------------------------------------------------------------------------------------------


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
    heads, width = _value(metadata, "attention.head_count"), _value(metadata, "embedding_length")
    factors: Values = {}
    if "rope_factors_long.weight" in tensors:
        factors["rope_parameters"] = {
            "rope_type": "longrope",
            "rope_theta": _value(metadata, "rope.freq_base", 10000.0),
            "attention_factor": _value(metadata, "rope.scaling.attn_factor", 1.0),
            "original_max_position_embeddings": _value(metadata, "rope.scaling.original_context_length"),
            "long_factor": tensors["rope_factors_long.weight"].dequantize().tolist(),
            "short_factor": tensors["rope_factors_short.weight"].dequantize().tolist(),
        }
    return {
        **factors,
        "hidden_act": "silu",
        "sliding_window": _value(metadata, "attention.sliding_window") or None,
        "partial_rotary_factor": _value(metadata, "rope.dimension_count") / (width // heads),
        "original_max_position_embeddings": _value(metadata, "rope.scaling.original_context_length"),
    }


_PHI3 = Family(
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

# GPT-2 and GPT-NeoX --------------------------------------------------------------------------------------------------


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
    return {"activation_function": "gelu_new"} | {hf: _value(metadata, name) for hf, name in names.items()}


_GPT2 = Family(
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
    length = _value(metadata, "embedding_length") // _value(metadata, "attention.head_count")
    return {
        "hidden_act": "gelu",
        "use_parallel_residual": _value(metadata, "use_parallel_residual"),
        "rotary_pct": _value(metadata, "rope.dimension_count") / length,
        "rotary_emb_base": _value(metadata, "rope.freq_base", 10000.0),
        "layer_norm_eps": _value(metadata, "attention.layer_norm_epsilon"),
    }


def _gptneox_transforms(config: Config) -> Transforms:
    heads = config.integer("num_attention_heads", low=1)
    return {"attn_qkv": grouped_qkv(heads, 1, keys.head_length(config))}


_GPTNEOX = Family(
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

# Falcon --------------------------------------------------------------------------------------------------------------


def _falcon_kv_heads(config: Config) -> int:
    """Of the new form its own number; of the old one, or as many as heads."""
    heads = config.integer(*keys.HEADS, low=1)
    multi_query = config.flag("multi_query", True)
    if config.flag("new_decoder_architecture", False):
        return config.integer("num_kv_heads", "n_head_kv", default=heads, low=1)
    config.first(("num_kv_heads", "n_head_kv"))
    return 1 if multi_query else heads


def _falcon(config: Config) -> Values:
    config.expect(ACTIVATIONS, ("gelu",), "gelu")
    config.expect(("alibi",), (False,), False)
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
    kv_heads = _value(metadata, "attention.head_count_kv")
    return {
        "activation": "gelu",
        "alibi": False,
        "bias": "blk.0.attn_qkv.bias" in tensors,
        "parallel_attn": True,
        "new_decoder_architecture": new,
        "multi_query": new or kv_heads == 1,
        "num_kv_heads": kv_heads,
        "layer_norm_epsilon": _value(metadata, "attention.layer_norm_epsilon"),
    }


def _falcon_unused(names: Collection[str]) -> Collection[str]:
    norms = {"transformer.h.{}.input_layernorm", "transformer.h.{}.ln_mlp"}
    return norms - {"transformer.h.{}.ln_mlp" if "blk.0.attn_norm_2.weight" in names else min(norms)}


def _falcon_transforms(config: Config) -> Transforms:
    heads, groups = config.integer(*keys.HEADS, low=1), _falcon_kv_heads(config)
    if heads % groups:
        raise config.error("num_kv_heads", f"a divisor of {heads}", groups)
    return {"attn_qkv": grouped_qkv(groups, heads // groups, keys.head_length(config))}


_FALCON = Family(
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

# Others --------------------------------------------------------------------------------------------------------------


def _starcoder2(config: Config) -> Values:
    config.expect(ACTIVATIONS, GELU_TANH, "gelu_pytorch_tanh")
    config.expect(("norm_type",), ("layer_norm",), "layer_norm")
    config.expect(("mlp_type",), ("default",), "default")
    return {**keys.shared(config), **keys.windows(config, every=None)}


def _starcoder2_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "norm_epsilon": _value(metadata, "attention.layer_norm_epsilon"),
        "use_bias": "blk.0.attn_q.bias" in tensors,
        "sliding_window": None,
        **_heads_and_windows(metadata),
    }


_STARCODER2 = Family(
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
    length = _value(metadata, "embedding_length") // _value(metadata, "attention.head_count")
    return {
        "hidden_act": "silu",
        "use_qkv_bias": "blk.0.attn_q.bias" in tensors,
        "qk_layernorm": "blk.0.attn_q_norm.weight" in tensors,
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in tensors,
        "partial_rotary_factor": _value(metadata, "rope.dimension_count") / length,
    }


_STABLELM = Family(
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
    found = {"hidden_act": "silu", **_heads_and_windows(metadata)}
    third = {"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3"} if "sliding_window" in found else {}
    return found | third


_OLMO2 = Family(
    architecture="olmo2",
    classes=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    model_type="olmo2",
    modules={**ATTENTION, **POST_NORM, **GATED},
    metadata=_olmo2,
    config=_olmo2_config,
)

GRANITE_SCALES = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def _granite(config: Config) -> Values:
    values = _llama(config)
    for key in ("attention.key_length", "attention.value_length"):
        values.pop(key, None)  # which the architecture has no place for
    for gguf, name in GRANITE_SCALES.items():
        if config.first((name,))[1]:
            values[gguf] = config.number(name)
    return values


def _granite_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    scales = {name: value for gguf, name in GRANITE_SCALES.items() if (value := _value(metadata, gguf)) is not None}
    return {**_llama_config(metadata, tensors), **scales}


_GRANITE = Family(
    architecture="granite",
    classes=("GraniteForCausalLM",),
    model_type="granite",
    modules=LLAMA,
    metadata=_granite,
    config=_granite_config,
    transforms=_llama_transforms,
)


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
    config.expect(("rotary_pct",), (1, None), 1)
    values = {**_cohere(config), **keys.windows(config, every=4)}
    return {**values, "vocab_size": config.integer("vocab_size"), "rope.dimension_count": keys.head_length(config)}


def _cohere_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    return {
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in tensors,
        "logit_scale": _value(metadata, "logit_scale"),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in tensors,
        **_heads_and_windows(metadata),
    }


COHERE_DEFAULTS = {"layer_norm_eps": 1e-5, "logit_scale": 0.0625, "tie_word_embeddings": True}
_COMMAND_R = Family(
    architecture="command-r",
    classes=("CohereForCausalLM",),
    model_type="cohere",
    modules=LLAMA,
    metadata=_cohere,
    config=_cohere_config,
    defaults=COHERE_DEFAULTS,
    skip=("lm_head.weight",),
)
_COHERE2 = Family(
    architecture="cohere2",
    classes=("Cohere2ForCausalLM",),
    model_type="cohere2",
    modules=LLAMA,
    metadata=_cohere2,
    config=_cohere_config,
    defaults=COHERE_DEFAULTS | {"sliding_window": 4096},
    skip=("lm_head.weight",),
)

FAMILIES: tuple[Family, ...] = (
    _LLAMA, _QWEN2, _QWEN3, _GEMMA, _GEMMA2, _GEMMA3, _PHI3, _GPT2, _GPTNEOX, _FALCON, _STARCODER2, _STABLELM, _OLMO2,
    _GRANITE, _COMMAND_R, _COHERE2, *ENCODERS,
)  # fmt: skip
BY_CLASS = {name: family for family in FAMILIES for name in family.classes}


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """The family of a config.json.

    Raises:
        Unsupported: of none that is known; says which are.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise GGUFError(f"{where}: architectures: expected a list with the model's class, found {shown(names)}")
    for name in names:
        if name in BY_CLASS:
            return BY_CLASS[name]
    near = difflib.get_close_matches(names[0], BY_CLASS, 1, 0.5)
    hint = f" (the nearest is {near[0]})" if near else ""
    raise Unsupported(
        f"{where}: architectures: expected one of {', '.join(sorted(BY_CLASS))}, found {shown(names[0])}{hint}"
    )


def family_of_file(metadata: Mapping[str, Any], where: str) -> Family:
    """The family of a GGUF file."""
    name = metadata.get("general.architecture")
    for family in FAMILIES:
        if family.architecture == name:
            return family
    known = ", ".join(family.architecture for family in FAMILIES)
    raise Unsupported(f"{where}: general.architecture: expected one of {known}, found {shown(name)}")
