"""Names and keys that several families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_jax.convert.family import Modules
from gguf_jax.convert.keys import Values
from gguf_jax.convert.transforms import Transform
from gguf_jax.gguf import TensorView

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
EXPERTS: Modules = {
    "model.layers.{}.mlp.gate": "blk.{}.ffn_gate_inp",
    "model.layers.{}.mlp.experts.{e}.gate_proj": "blk.{}.ffn_gate_exps",
    "model.layers.{}.mlp.experts.{e}.up_proj": "blk.{}.ffn_up_exps",
    "model.layers.{}.mlp.experts.{e}.down_proj": "blk.{}.ffn_down_exps",
}
SHARED_EXPERT: Modules = {
    "model.layers.{}.mlp.shared_expert_gate": "blk.{}.ffn_gate_inp_shexp",
    "model.layers.{}.mlp.shared_expert.gate_proj": "blk.{}.ffn_gate_shexp",
    "model.layers.{}.mlp.shared_expert.up_proj": "blk.{}.ffn_up_shexp",
    "model.layers.{}.mlp.shared_expert.down_proj": "blk.{}.ffn_down_shexp",
}
LLAMA: Modules = {**ATTENTION, **PRE_NORM, **GATED}
GEMMA2: Modules = {
    **ATTENTION, **POST_NORM, **GATED, "model.layers.{}.pre_feedforward_layernorm": "blk.{}.ffn_norm"
}  # fmt: skip

ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "activation")
SILU = ("silu", "swish")
GELU, GELU_TANH = ("gelu", "gelu_python"), ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


def value_of(metadata: Mapping[str, Any], name: str, default: Any = None) -> Any:
    return metadata.get(f"{metadata['general.architecture']}.{name}", default)


def windows_of(metadata: Mapping[str, Any]) -> Values:
    """What `windows` made, the way back."""
    found: Values = {}
    if length := value_of(metadata, "attention.sliding_window"):
        found["sliding_window"] = length
        pattern = value_of(metadata, "attention.sliding_window_pattern")
        if pattern is not None:
            found["layer_types"] = ["sliding_attention" if slides else "full_attention" for slides in pattern.tolist()]
    return found
