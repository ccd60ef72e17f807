"""config.json of models as they were published, by transformers of several years: every key is known, and what comes of
those that are renamed or left out. The tensors are not needed for that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gguf_jax.convert.config import Config
from gguf_jax.convert.families import family_of
from gguf_jax.errors import GGUFJaxError
from tests.convert.folders import MODELS

PLAIN = dict(
    attention_dropout=0.0, bos_token_id=1, eos_token_id=2, initializer_range=0.02, torch_dtype="bfloat16",
    transformers_version="4.40.0", use_cache=True,
)  # fmt: skip

CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Llama 2": (
        dict(
            architectures=["LlamaForCausalLM"], hidden_act="silu", hidden_size=4096, intermediate_size=11008,
            max_position_embeddings=4096, model_type="llama", num_attention_heads=32, num_hidden_layers=32,
            num_key_value_heads=32, pretraining_tp=1, rms_norm_eps=1e-5, rope_scaling=None, tie_word_embeddings=False,
            vocab_size=32000, _name_or_path="meta-llama/Llama-2-7b-hf",
        ),
        {"attention.key_length": 128, "context_length": 4096},
    ),
    "Llama 3.1": (
        dict(
            architectures=["LlamaForCausalLM"], attention_bias=False, bos_token_id=128000, hidden_act="silu",
            eos_token_id=[128001, 128008, 128009], hidden_size=4096, intermediate_size=14336, mlp_bias=False,
            max_position_embeddings=131072, model_type="llama", num_attention_heads=32, num_hidden_layers=32,
            num_key_value_heads=8, pretraining_tp=1, rms_norm_eps=1e-5, rope_theta=500000.0,
            rope_scaling=dict(
                factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192,
                rope_type="llama3",
            ),
            tie_word_embeddings=False, vocab_size=128256,
        ),
        {"rope.freq_base": 500000.0, "attention.head_count_kv": 8, "rope.scaling.type": None},
    ),
    "Mistral 7B 0.1": (
        dict(
            architectures=["MistralForCausalLM"], hidden_act="silu", hidden_size=4096, intermediate_size=14336,
            max_position_embeddings=32768, model_type="mistral", num_attention_heads=32, num_hidden_layers=32,
            num_key_value_heads=8, rms_norm_eps=1e-5, rope_theta=10000.0, sliding_window=4096,
            tie_word_embeddings=False, vocab_size=32000,
        ),
        {"attention.sliding_window": 4096},
    ),
    "Mixtral": (
        dict(
            architectures=["MixtralForCausalLM"], hidden_act="silu", hidden_size=4096, intermediate_size=14336,
            max_position_embeddings=32768, model_type="mixtral", num_attention_heads=32, num_experts_per_tok=2,
            num_hidden_layers=32, num_key_value_heads=8, num_local_experts=8, output_router_logits=False,
            rms_norm_eps=1e-5, rope_theta=1e6, router_aux_loss_coef=0.02, sliding_window=None,
            tie_word_embeddings=False, vocab_size=32000,
        ),
        {"expert_count": 8, "expert_used_count": 2, "attention.sliding_window": None},
    ),
    "Qwen2.5": (
        dict(
            architectures=["Qwen2ForCausalLM"], hidden_act="silu", hidden_size=896, intermediate_size=4864,
            max_position_embeddings=32768, max_window_layers=21, model_type="qwen2", num_attention_heads=14,
            num_hidden_layers=24, num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1e6, sliding_window=32768,
            tie_word_embeddings=True, use_sliding_window=False, vocab_size=151936,
        ),
        {"attention.sliding_window": None, "rope.freq_base": 1e6},
    ),
    "Qwen3": (
        dict(
            architectures=["Qwen3ForCausalLM"], attention_bias=False, head_dim=128, hidden_act="silu",
            hidden_size=1024, intermediate_size=3072, max_position_embeddings=40960, max_window_layers=28,
            model_type="qwen3", num_attention_heads=16, num_hidden_layers=28, num_key_value_heads=8,
            rms_norm_eps=1e-6, rope_scaling=None, rope_theta=1e6, sliding_window=None, tie_word_embeddings=True,
            use_sliding_window=False, vocab_size=151936,
        ),
        {"attention.key_length": 128},
    ),
    "Qwen3 MoE": (
        dict(
            architectures=["Qwen3MoeForCausalLM"], attention_bias=False, decoder_sparse_step=1, head_dim=128,
            hidden_act="silu", hidden_size=2048, intermediate_size=6144, max_position_embeddings=40960,
            max_window_layers=48, mlp_only_layers=[], model_type="qwen3_moe", moe_intermediate_size=768,
            norm_topk_prob=True, num_attention_heads=32, num_experts=128, num_experts_per_tok=8,
            num_hidden_layers=48, num_key_value_heads=4, output_router_logits=False, rms_norm_eps=1e-6,
            rope_scaling=None, rope_theta=1e6, router_aux_loss_coef=0.001, sliding_window=None,
            tie_word_embeddings=False, use_sliding_window=False, vocab_size=151936,
        ),
        {"expert_count": 128, "expert_feed_forward_length": 768},
    ),
    "Gemma": (
        dict(
            architectures=["GemmaForCausalLM"], attention_bias=False, head_dim=256, hidden_act="gelu",
            hidden_activation=None, hidden_size=2048, intermediate_size=16384, max_position_embeddings=8192,
            model_type="gemma", num_attention_heads=8, num_hidden_layers=18, num_key_value_heads=1,
            pad_token_id=0, rms_norm_eps=1e-6, rope_scaling=None, rope_theta=10000.0, vocab_size=256000,
        ),
        {"rope.freq_base": None, "attention.key_length": 256},
    ),
    "Gemma 2 27B": (
        dict(
            architectures=["Gemma2ForCausalLM"], attention_bias=False, attn_logit_softcapping=50.0,
            cache_implementation="hybrid", final_logit_softcapping=30.0, head_dim=128,
            hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh", hidden_size=4608,
            intermediate_size=36864, max_position_embeddings=8192, model_type="gemma2", num_attention_heads=32,
            num_hidden_layers=46, num_key_value_heads=16, pad_token_id=0, query_pre_attn_scalar=144,
            rms_norm_eps=1e-6, rope_theta=10000.0, sliding_window=4096, sliding_window_size=4096, vocab_size=256000,
            _attn_implementation="eager",
        ),
        {"attention.sliding_window": 4096, "attn_logit_softcapping": 50.0, "attention.scale": None},
    ),
    "Gemma 3 4B": (
        dict(
            architectures=["Gemma3ForConditionalGeneration"], boi_token_index=255999, eoi_token_index=256000,
            eos_token_id=[1, 106], image_token_index=262144, mm_tokens_per_image=256, model_type="gemma3",
            text_config=dict(
                hidden_size=2560, intermediate_size=10240, model_type="gemma3_text", num_hidden_layers=34,
                rope_scaling=dict(factor=8.0, rope_type="linear"), sliding_window=1024,
            ),
            vision_config=dict(hidden_size=1152, image_size=896),
        ),
        {
            "attention.head_count": 8, "attention.head_count_kv": 4, "attention.key_length": 256,
            "rope.freq_base": 1e6, "rope.scaling.factor": 8.0, "context_length": 131072,
        },
    ),
    "Phi 3 mini 4k": (
        dict(
            architectures=["Phi3ForCausalLM"], auto_map={}, embd_pdrop=0.0, hidden_act="silu", hidden_size=3072,
            intermediate_size=8192, max_position_embeddings=4096, model_type="phi3", num_attention_heads=32,
            num_hidden_layers=32, num_key_value_heads=32, original_max_position_embeddings=4096, pad_token_id=32000,
            resid_pdrop=0.0, rms_norm_eps=1e-5, rope_scaling=None, rope_theta=10000.0, sliding_window=2047,
            tie_word_embeddings=False, vocab_size=32064, attention_bias=False,
        ),
        {"rope.dimension_count": 96, "attention.sliding_window": 2047},
    ),
    "Phi 3.5 mini": (
        dict(
            architectures=["Phi3ForCausalLM"], embd_pdrop=0.0, hidden_act="silu", hidden_size=3072,
            intermediate_size=8192, max_position_embeddings=131072, model_type="phi3", num_attention_heads=32,
            num_hidden_layers=32, num_key_value_heads=32, original_max_position_embeddings=4096, pad_token_id=32000,
            resid_pdrop=0.0, rms_norm_eps=1e-5, rope_theta=10000.0, sliding_window=262144, vocab_size=32064,
            rope_scaling=dict(long_factor=[1.5] * 48, short_factor=[1.0] * 48, type="longrope"),
        ),
        {"rope.scaling.attn_factor": float(np.sqrt(1 + np.log(32) / np.log(4096)))},
    ),
    "GPT-2": (
        dict(
            architectures=["GPT2LMHeadModel"], activation_function="gelu_new", attn_pdrop=0.1, embd_pdrop=0.1,
            layer_norm_epsilon=1e-5, model_type="gpt2", n_ctx=1024, n_embd=768, n_head=12, n_layer=12,
            n_positions=1024, resid_pdrop=0.1, summary_activation=None, summary_first_dropout=0.1,
            summary_proj_to_labels=True, summary_type="cls_index", summary_use_proj=True,
            task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}}, vocab_size=50257,
        ),
        {"feed_forward_length": 3072, "context_length": 1024, "rope.freq_base": None},
    ),
    "Pythia": (
        dict(
            architectures=["GPTNeoXForCausalLM"], hidden_act="gelu", hidden_size=512, intermediate_size=2048,
            layer_norm_eps=1e-5, max_position_embeddings=2048, model_type="gpt_neox", num_attention_heads=8,
            num_hidden_layers=6, rotary_emb_base=10000, rotary_pct=0.25, tie_word_embeddings=False,
            use_parallel_residual=True, vocab_size=50304,
        ),
        {"rope.dimension_count": 16, "use_parallel_residual": True},
    ),
    "Falcon 7B": (
        dict(
            architectures=["FalconForCausalLM"], alibi=False, apply_residual_connection_post_layernorm=False,
            attention_dropout=0.0, bias=False, hidden_dropout=0.0, hidden_size=4544, layer_norm_epsilon=1e-5,
            model_type="falcon", multi_query=True, new_decoder_architecture=False, num_attention_heads=71,
            num_hidden_layers=32, parallel_attn=True, vocab_size=65024,
        ),
        {"attention.head_count_kv": 1, "context_length": 2048},
    ),
    "StarCoder2": (
        dict(
            architectures=["Starcoder2ForCausalLM"], attention_dropout=0.1, embedding_dropout=0.1,
            hidden_act="gelu_pytorch_tanh", hidden_size=3072, intermediate_size=12288, layer_norm_epsilon=1e-5,
            max_position_embeddings=16384, mlp_type="default", model_type="starcoder2", norm_epsilon=1e-5,
            norm_type="layer_norm", num_attention_heads=24, num_hidden_layers=30, num_key_value_heads=2,
            residual_dropout=0.1, rope_theta=999999.4420358813, sliding_window=4096, use_bias=True, vocab_size=49152,
        ),
        {"attention.layer_norm_epsilon": 1e-5},
    ),
    "StableLM 2": (
        dict(
            architectures=["StableLmForCausalLM"], hidden_act="silu", hidden_dropout=0.0, hidden_size=2048,
            intermediate_size=5632, layer_norm_eps=1e-5, max_position_embeddings=4096, model_type="stablelm",
            num_attention_heads=32, num_hidden_layers=24, num_key_value_heads=32, partial_rotary_factor=0.25,
            qk_layernorm=False, rope_scaling=None, rope_theta=10000, tie_word_embeddings=False,
            use_parallel_residual=False, use_qkv_bias=True, vocab_size=100352,
        ),
        {"rope.dimension_count": 16, "use_parallel_residual": False},
    ),
    "OLMo 2": (
        dict(
            architectures=["Olmo2ForCausalLM"], attention_bias=False, hidden_act="silu", hidden_size=4096,
            intermediate_size=11008, max_position_embeddings=4096, model_type="olmo2", num_attention_heads=32,
            num_hidden_layers=32, num_key_value_heads=32, pad_token_id=100277, rms_norm_eps=1e-6, rope_scaling=None,
            rope_theta=500000, tie_word_embeddings=False, vocab_size=100352,
        ),
        {"attention.sliding_window": None},
    ),
    "Granite 3": (
        dict(
            architectures=["GraniteForCausalLM"], attention_bias=False, attention_multiplier=0.015625,
            embedding_multiplier=12.0, hidden_act="silu", hidden_size=2048, intermediate_size=8192,
            logits_scaling=8.0, max_position_embeddings=131072, mlp_bias=False, model_type="granite",
            num_attention_heads=32, num_hidden_layers=40, num_key_value_heads=8, pad_token_id=0,
            residual_multiplier=0.22, rms_norm_eps=1e-5, rope_scaling=None, rope_theta=5000000.0,
            tie_word_embeddings=True, vocab_size=49155,
        ),
        {"embedding_scale": 12.0, "residual_scale": 0.22, "logit_scale": 8.0},
    ),
    "Command R": (
        dict(
            architectures=["CohereForCausalLM"], attention_bias=False, hidden_act="silu", hidden_size=8192,
            intermediate_size=22528, layer_norm_eps=1e-5, logit_scale=0.0625, max_position_embeddings=8192,
            model_max_length=131072, model_type="cohere", num_attention_heads=64, num_hidden_layers=40,
            num_key_value_heads=64, pad_token_id=0, rope_theta=8000000.0, use_qk_norm=False, vocab_size=256000,
        ),
        {"context_length": 131072, "rope.scaling.type": "none", "logit_scale": 0.0625},
    ),
    "Command R7B": (
        dict(
            architectures=["Cohere2ForCausalLM"], attention_bias=False, cache_implementation="hybrid", head_dim=128,
            hidden_act="silu", hidden_size=4096, intermediate_size=14336, layer_norm_eps=1e-5, layer_switch=4,
            logit_scale=0.25, max_position_embeddings=8192, model_type="cohere2", num_attention_heads=32,
            num_hidden_layers=32, num_key_value_heads=8, order_of_interleaved_layers="local_attn_first",
            pad_token_id=0, position_embedding_type="rope_gptj", rope_theta=50000, rotary_pct=1.0,
            sliding_window=4096, sliding_window_pattern=4, use_embedding_sharing=True, use_gated_activation=True,
            use_parallel_block=True, use_parallel_embedding=True, vocab_size=256000,
        ),
        {"attention.sliding_window": 4096, "attention.sliding_window_pattern": None},
    ),
    "DeepSeek V2 Lite": (
        dict(
            architectures=["DeepseekV2ForCausalLM"], attention_bias=False, auto_map={}, aux_loss_alpha=0.001,
            first_k_dense_replace=1, hidden_act="silu", hidden_size=2048, intermediate_size=10944, kv_lora_rank=512,
            max_position_embeddings=163840, model_type="deepseek_v2", moe_intermediate_size=1408, moe_layer_freq=1,
            n_group=1, n_routed_experts=64, n_shared_experts=2, norm_topk_prob=False, num_attention_heads=16,
            num_experts_per_tok=6, num_hidden_layers=27, num_key_value_heads=16, pretraining_tp=1, q_lora_rank=None,
            qk_nope_head_dim=128, qk_rope_head_dim=64, rms_norm_eps=1e-6,
            rope_scaling=dict(
                beta_fast=32, beta_slow=1, factor=40, mscale=0.707, mscale_all_dim=0.707,
                original_max_position_embeddings=4096, type="yarn",
            ),
            rope_theta=10000, routed_scaling_factor=1.0, scoring_func="softmax", seq_aux=True,
            tie_word_embeddings=False, topk_group=1, topk_method="greedy", v_head_dim=128, vocab_size=102400,
        ),
        {
            "attention.key_length": 576, "attention.key_length_mla": 192, "rope.scaling.attn_factor": None,
            "rope.scaling.yarn_log_multiplier": 0.1 * 0.707, "expert_gating_func": 1,
        },
    ),
    "DeepSeek V3": (
        dict(
            architectures=["DeepseekV3ForCausalLM"], attention_bias=False, auto_map={}, aux_loss_alpha=0.001,
            ep_size=1, first_k_dense_replace=3, hidden_act="silu", hidden_size=7168, intermediate_size=18432,
            kv_lora_rank=512, max_position_embeddings=163840, model_type="deepseek_v3", moe_intermediate_size=2048,
            moe_layer_freq=1, n_group=8, n_routed_experts=256, n_shared_experts=1, norm_topk_prob=True,
            num_attention_heads=128, num_experts_per_tok=8, num_hidden_layers=61, num_key_value_heads=128,
            num_nextn_predict_layers=1, pretraining_tp=1, q_lora_rank=1536, qk_nope_head_dim=128,
            qk_rope_head_dim=64, rms_norm_eps=1e-6,
            rope_scaling=dict(
                beta_fast=32, beta_slow=1, factor=40, mscale=1.0, mscale_all_dim=1.0,
                original_max_position_embeddings=4096, type="yarn",
            ),
            rope_theta=10000, routed_scaling_factor=2.5, scoring_func="sigmoid", seq_aux=True,
            tie_word_embeddings=False, topk_group=4, topk_method="noaux_tc", v_head_dim=128, vocab_size=129280,
        ),
        {"expert_group_count": 8, "expert_weights_scale": 2.5, "expert_weights_norm": True, "expert_gating_func": 2},
    ),
    "gpt-oss 20B": (
        dict(
            architectures=["GptOssForCausalLM"], attention_bias=True, experts_per_token=4, head_dim=64,
            hidden_act="silu", hidden_size=2880, initial_context_length=4096, intermediate_size=2880,
            layer_types=["sliding_attention", "full_attention"] * 12, max_position_embeddings=131072,
            model_type="gpt_oss", num_attention_heads=64, num_experts_per_tok=4, num_hidden_layers=24,
            num_key_value_heads=8, num_local_experts=32, output_router_logits=False, pad_token_id=199999,
            quantization_config=dict(quant_method="mxfp4", modules_to_not_convert=["lm_head"]), rms_norm_eps=1e-5,
            rope_scaling=dict(
                beta_fast=32.0, beta_slow=1.0, factor=32.0, original_max_position_embeddings=4096,
                rope_type="yarn", truncate=False,
            ),
            rope_theta=150000, router_aux_loss_coef=0.9, sliding_window=128, swiglu_limit=7.0,
            tie_word_embeddings=False, vocab_size=201088,
        ),
        {"expert_count": 32, "expert_used_count": 4, "rope.scaling.factor": 32.0, "rope.freq_base": 150000.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_published_config_is_known(name):
    values, expected = CONFIGS[name]
    values = PLAIN | values
    family = family_of(values, "config.json")
    config = Config(values, family.defaults, "config.json")
    config.section("quantization_config")
    found = family.metadata(config)
    family.transforms(config)
    family.tensors(config)
    config.check_all_known(())
    assert {key: found.get(key) for key in expected} == expected
    assert found["block_count"] == values.get("text_config", values).get("num_hidden_layers", values.get("n_layer"))


HOSTILE = ("x", [], {}, -1, 0, 1.5, True, 1 << 40, [1], {"a": [1]}, float("nan"), [[]], ["x"])


def spoiled(values: dict[str, Any]):
    """A config with one value after the other that it should not have, those of sections too."""
    for key, value in values.items():
        for bad in HOSTILE:
            yield f"{key} = {bad}", {**values, key: bad}
        if isinstance(value, dict):
            for inner, changed in spoiled(value):
                yield f"{key}.{inner}", {**values, key: changed}


@pytest.mark.parametrize("name", list(MODELS))
def test_property_whatever_a_key_holds_the_error_is_one_of_ours(name):
    for what, values in spoiled(MODELS[name]["config"]):
        try:
            family = family_of(values, "config.json")
            config = Config(values, family.defaults, "config.json")
            family.metadata(config)
            family.transforms(config)
            family.tensors(config)
            config.check_all_known(())
        except GGUFJaxError:
            continue
        except Exception as error:
            pytest.fail(f"{what}: {error!r}")
