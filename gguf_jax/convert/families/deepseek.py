"""DeepSeek 2 and 3: latent attention, whose second projection of keys and values is two tensors in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gguf_jax.convert import keys
from gguf_jax.convert.config import Config
from gguf_jax.convert.families.common import ACTIVATIONS, GATED, PRE_NORM, SILU, Tensors, Transforms, value_of
from gguf_jax.convert.family import Family, Modules
from gguf_jax.convert.keys import Values
from gguf_jax.convert.transforms import LatentKV

_LAYER = "model.layers.{}."
MODULES: Modules = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    f"{_LAYER}input_layernorm": "blk.{}.attn_norm",
    f"{_LAYER}self_attn.q_proj": "blk.{}.attn_q",
    f"{_LAYER}self_attn.q_a_proj": "blk.{}.attn_q_a",
    f"{_LAYER}self_attn.q_a_layernorm": "blk.{}.attn_q_a_norm",
    f"{_LAYER}self_attn.q_b_proj": "blk.{}.attn_q_b",
    f"{_LAYER}self_attn.kv_a_proj_with_mqa": "blk.{}.attn_kv_a_mqa",
    f"{_LAYER}self_attn.kv_a_layernorm": "blk.{}.attn_kv_a_norm",
    f"{_LAYER}self_attn.kv_b_proj": ("blk.{}.attn_k_b", "blk.{}.attn_v_b"),
    f"{_LAYER}self_attn.o_proj": "blk.{}.attn_output",
    **PRE_NORM,
    **GATED,
    f"{_LAYER}mlp.gate": "blk.{}.ffn_gate_inp",
    f"{_LAYER}mlp.gate.e_score_correction_bias": "blk.{}.exp_probs_b.bias",
    **{
        f"{_LAYER}mlp.{hf}.{name}_proj": f"blk.{{}}.ffn_{name}_{gguf}"
        for hf, gguf in (("experts.{e}", "exps"), ("shared_experts", "shexp"))
        for name in ("gate", "up", "down")
    },
}

SOFTMAX, SIGMOID = 1, 2


def _sizes(config: Config) -> dict[str, int]:
    names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    return {name: config.integer(name, low=1, high=keys.MOST_LENGTH) for name in names}


def _deepseek(config: Config, gating: int) -> Values:
    config.expect(ACTIVATIONS, SILU, "silu")
    config.expect(("moe_layer_freq",), (1,), 1)
    scoring = "softmax" if gating == SOFTMAX else "sigmoid"
    config.expect(("scoring_func",), (scoring,), scoring)
    config.expect(("rope_interleave",), (True,), True)
    config.first(("qk_head_dim", "ep_size", "seq_aux", "aux_loss_alpha", "num_nextn_predict_layers"))
    size = _sizes(config)
    rank, rope = size["kv_lora_rank"], size["qk_rope_head_dim"]
    values = keys.shared(config)
    section = keys.checked_rope(config)
    if section["rope_type"] == "yarn" and "mscale_all_dim" in section:
        config.expect_equal("rope_parameters.mscale", section.get("mscale", 1.0), section["mscale_all_dim"])
        values.pop("rope.scaling.attn_factor", None)
        values["rope.scaling.yarn_log_multiplier"] = 0.1 * float(section["mscale_all_dim"])  # a tenth, in these files
    if config.first(("q_lora_rank",))[1] is not None:
        values["attention.q_lora_rank"] = config.integer("q_lora_rank", low=1)
    if config.flag("norm_topk_prob", False):
        values["expert_weights_norm"] = True
    return {
        **values,
        "attention.head_count_kv": 1,  # one for all heads, as it is computed
        "leading_dense_block_count": config.integer("first_k_dense_replace", default=0),
        "vocab_size": config.integer("vocab_size"),
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": size["qk_nope_head_dim"] + rope,
        "attention.value_length_mla": size["v_head_dim"],
        "expert_feed_forward_length": config.integer("moe_intermediate_size", low=1),
        "expert_shared_count": config.integer("n_shared_experts", default=0),
        "expert_weights_scale": config.number("routed_scaling_factor", default=1.0),
        "expert_gating_func": gating,
        "rope.dimension_count": rope,
    }


def _deepseek2(config: Config) -> Values:
    config.expect(("topk_method",), ("greedy",), "greedy")  # of groups, files know DeepSeek 3's way to choose alone
    values = _deepseek(config, SOFTMAX)
    if values.get("expert_group_count", 1) == 1:
        return values
    return {key: value for key, value in values.items() if not key.startswith("expert_group")}


def _deepseek3(config: Config) -> Values:
    config.expect(("topk_method",), ("noaux_tc",), "noaux_tc")
    return _deepseek(config, SIGMOID)


def _transforms(config: Config) -> Transforms:
    size, heads = _sizes(config), config.integer("num_attention_heads", low=1, high=keys.MOST_HEADS)
    nope, value = size["qk_nope_head_dim"], size["v_head_dim"]
    if heads * (nope + value) > keys.MOST_ROWS:
        raise config.error("v_head_dim", f"at most {keys.MOST_ROWS} rows of {heads} heads", value)
    return {"self_attn.kv_b_proj": LatentKV(heads, nope, value)}


def _config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    rope, heads = value_of(metadata, "rope.dimension_count"), value_of(metadata, "attention.head_count")
    third = value_of(metadata, "expert_gating_func") == SIGMOID
    names = {
        "first_k_dense_replace": "leading_dense_block_count",
        "kv_lora_rank": "attention.kv_lora_rank",
        "q_lora_rank": "attention.q_lora_rank",
        "v_head_dim": "attention.value_length_mla",
        "moe_intermediate_size": "expert_feed_forward_length",
        "n_routed_experts": "expert_count",
        "n_shared_experts": "expert_shared_count",
        "routed_scaling_factor": "expert_weights_scale",
        "n_group": "expert_group_count",
        "topk_group": "expert_group_used_count",
    }
    section = keys.exported(metadata, "deepseek2")["rope_parameters"]
    if (tenth := value_of(metadata, "rope.scaling.yarn_log_multiplier")) is not None:
        section["mscale"] = section["mscale_all_dim"] = round(10 * tenth, 6)
    return {
        "architectures": ["DeepseekV3ForCausalLM" if third else "DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v3" if third else "deepseek_v2",
        "hidden_act": "silu",
        "head_dim": rope,
        "num_key_value_heads": heads,
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": value_of(metadata, "attention.key_length_mla") - rope,
        "norm_topk_prob": bool(value_of(metadata, "expert_weights_norm", False)),
        "topk_method": "noaux_tc" if third else "greedy",
        "rope_parameters": section,
        **{hf: value_of(metadata, name) for hf, name in names.items()},
    }


DEEPSEEK2 = Family(
    architecture="deepseek2",
    classes=("DeepseekV2ForCausalLM",),
    model_type="deepseek_v2",
    modules=MODULES,
    metadata=_deepseek2,
    config=_config,
    transforms=_transforms,
    defaults={"rms_norm_eps": 1e-6},
)
DEEPSEEK3 = replace(DEEPSEEK2, classes=("DeepseekV3ForCausalLM",), model_type="deepseek_v3", metadata=_deepseek3)
