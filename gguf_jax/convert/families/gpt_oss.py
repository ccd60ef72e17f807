"""gpt-oss: experts whose gate and up projections lie in turn, in MXFP4 or (as transformers saves them) transposed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gguf_jax.convert import keys
from gguf_jax.convert.config import Config
from gguf_jax.convert.families.common import ACTIVATIONS, ATTENTION, SILU, Tensors, Transforms, value_of, windows_of
from gguf_jax.convert.family import Family, Modules
from gguf_jax.convert.keys import Values
from gguf_jax.convert.transforms import Chain, Deal, Transpose

_LAYER = "model.layers.{}."
BOTH = ("blk.{}.ffn_gate_exps", "blk.{}.ffn_up_exps")
PACKED = ("mlp.experts.gate_up_proj_packed", "mlp.experts.down_proj_packed")
MODULES: Modules = {
    **{hf: to for hf, to in ATTENTION.items() if not hf.endswith(("q_norm", "k_norm"))},
    f"{_LAYER}self_attn.sinks": "blk.{}.attn_sinks",
    f"{_LAYER}post_attention_layernorm": "blk.{}.post_attention_norm",
    f"{_LAYER}mlp.router": "blk.{}.ffn_gate_inp",
    f"{_LAYER}mlp.experts.gate_up_proj": BOTH,
    f"{_LAYER}mlp.experts.gate_up_proj_bias": tuple(f"{name}.bias" for name in BOTH),
    f"{_LAYER}mlp.experts.down_proj": "blk.{}.ffn_down_exps",
    f"{_LAYER}mlp.experts.down_proj_bias": "blk.{}.ffn_down_exps.bias",
    f"{_LAYER}{PACKED[0]}": BOTH,
    f"{_LAYER}{PACKED[1]}": "blk.{}.ffn_down_exps",
}
TRANSFORMS: Transforms = {
    "mlp.experts.gate_up_proj": Chain((Transpose(), Deal(2))),
    "mlp.experts.gate_up_proj_bias": Deal(2, columns=True),
    "mlp.experts.down_proj": Transpose(),
    PACKED[0]: Deal(2),
}


def _gpt_oss(config: Config) -> Values:
    config.expect(ACTIVATIONS, SILU, "silu")
    config.expect(("swiglu_limit",), (7.0,), 7.0)
    config.expect(("swiglu_alpha",), (1.702,), 1.702)
    config.first(("initial_context_length",))  # which RoPE's own keys say too
    config.first(("experts_per_token",))
    values = {**keys.shared(config, rounded=True), **keys.windows(config, every=2)}
    return {**values, "expert_feed_forward_length": config.integer("intermediate_size", low=1)}


def _config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    return {"hidden_act": "silu", "num_local_experts": value_of(metadata, "expert_count"), **windows_of(metadata)}


def _unused(names: Collection[str]) -> Collection[str]:
    return [f"{_LAYER}{module}" for module in PACKED]


GPT_OSS = Family(
    architecture="gpt-oss",
    classes=("GptOssForCausalLM",),
    model_type="gpt_oss",
    modules=MODULES,
    metadata=_gpt_oss,
    config=_config,
    transforms=lambda config: TRANSFORMS,
    defaults={"rms_norm_eps": 1e-5},
    quantized=("mxfp4",),
    unused=_unused,
)
