"""A small model of every architecture: its configuration, written out, and the metadata that a file of it has.

What the two say must be the same: `config_of` is held to that. Sizes are odd where an architecture lets them be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf_jax.models import DecoderConfig
from gguf_jax.models.config import QKNorm, Temperature
from gguf_jax.nn import RopeConfig, RopePairing, YarnConfig
from gguf_jax.nn.experts import Experts
from gguf_jax.nn.feed_forward import FusedGated, Gated, Plain
from gguf_jax.nn.latent import Absorbed, Latent
from gguf_jax.nn.projection import Fused
from tests.support import small_config

HALVES, INTERLEAVED = RopePairing.HALVES, RopePairing.INTERLEAVED
SCALE = 8**-0.5
"""Of scores, heads being 8 long."""

LAYER_NORM = dict(layer_norm=True, norm_bias=True)
BIASES = dict(attn_bias=True, attn_output_bias=True, ffn_bias=True)
PLAIN_WINDOWS = dict(windows=(None, None))


@dataclass(frozen=True)
class Family:
    """One model: `config` says how it differs from `small_config`, `keys` what its file says beside lengths."""

    architecture: str
    config: dict[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)

    def make(self, **changes: Any) -> DecoderConfig:
        """Its configuration; `changes` are of a model of another vocabulary, say."""
        values = dict(architecture=self.architecture, context_length=256) | PLAIN_WINDOWS | self.config
        return small_config(**(values | changes))

    def metadata(self, config: DecoderConfig) -> Mapping[str, Any]:
        """The keys of a file of a model with this configuration."""
        return {f"{self.architecture}.{name}": value for name, value in _lengths(config)} | {
            "general.architecture": self.architecture,
            **{f"{self.architecture}.{name}": value for name, value in self.keys.items()},
        }


def _lengths(c: DecoderConfig) -> Iterator[tuple[str, Any]]:
    yield "block_count", c.block_count
    yield "context_length", c.context_length
    yield "embedding_length", c.embedding_length
    yield "feed_forward_length", c.feed_forward_length
    yield "attention.head_count", c.head_count
    yield "attention.head_count_kv", c.head_count_kv
    yield f"attention.layer_norm_{'' if c.layer_norm else 'rms_'}epsilon", c.norm_eps
    if c.rope is not None:
        yield "rope.dimension_count", c.rope.dimension
        yield "rope.freq_base", c.rope.base


def _rope(pairing: RopePairing, dimension: int = 8, base: float = 1e4, **options: Any) -> RopeConfig:
    return RopeConfig(dimension, base, pairing, **options)


def _windows(count: int, every: int, window: int = 5) -> tuple[int | None, ...]:
    return tuple(None if (i + 1) % every == 0 else window for i in range(count))


GEMMA: dict[str, Any] = dict(
    rope=_rope(HALVES), feed_forward=Gated("gelu_tanh"), embedding_scale=32**0.5, tied_output=True
)
BOTH_NORMS = dict(attn_post_norm=True, ffn_post_norm=True)
COMMAND: dict[str, Any] = dict(
    rope=_rope(INTERLEAVED), layer_norm=True, parallel=True, ffn_norm=False, output_scale=0.25, tied_output=True
)


def _experts(**options: Any) -> dict[str, Any]:
    return dict(feed_forward=Experts(5, 2, 24, **options))


EXPERT_KEYS = {"expert_count": 5, "expert_used_count": 2}
OF_EXPERTS = EXPERT_KEYS | {"expert_feed_forward_length": 24}

YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}

MSCALE = 0.07 / 0.1  # as files have it, and as it is meant
DEEPSEEK: dict[str, Any] = dict(block_count=3, windows=(None, None, None), leading_dense_block_count=1)

FAMILIES: dict[str, Family] = {
    "llama": Family("llama", dict(rope=_rope(INTERLEAVED))),
    "llama, long factors": Family(
        "llama",
        dict(rope=_rope(INTERLEAVED), rope_factors=64),
        {"rope.scaling.type": "longrope", "rope.scaling.original_context_length": 64},
    ),
    "llama, experts": Family(
        "llama", dict(rope=_rope(INTERLEAVED), feed_forward_length=24) | _experts(), EXPERT_KEYS
    ),
    "mistral3": Family(
        "mistral3",
        dict(rope=_rope(INTERLEAVED, factor=4.0, yarn=YarnConfig(64, mscale_all_dim=0.7)))
        | dict(temperature=Temperature(0.3, 64)),
        YARN | {"rope.scaling.yarn_log_multiplier": 0.7, "attention.temperature_scale": 0.3},
    ),
    "qwen2": Family("qwen2", dict(rope=_rope(HALVES), attn_bias=True)),
    "qwen3": Family("qwen3", dict(rope=_rope(HALVES), qk_norm=QKNorm.HEAD)),
    "qwen2moe": Family(
        "qwen2moe",
        dict(rope=_rope(HALVES), attn_bias=True) | _experts(norm_weights=False, shared_length=40, shared_gate=(32,)),
        OF_EXPERTS | {"expert_shared_feed_forward_length": 40},
    ),
    "qwen3moe": Family("qwen3moe", dict(rope=_rope(HALVES), qk_norm=QKNorm.HEAD) | _experts(), OF_EXPERTS),
    "gemma": Family("gemma", GEMMA),
    "gemma2": Family(
        "gemma2",
        GEMMA | BOTH_NORMS | dict(windows=(5, None), attention_softcap=50.0, output_softcap=30.0),
        {"attention.sliding_window": 5, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3": Family(
        "gemma3",
        GEMMA
        | BOTH_NORMS
        | dict(block_count=7, windows=_windows(7, 6), qk_norm=QKNorm.HEAD)
        | dict(rope=_rope(HALVES, base=1e6, factor=8.0), window_rope=_rope(HALVES)),
        {"attention.sliding_window": 5, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
    ),
    "phi3": Family("phi3", dict(rope=_rope(HALVES), projection=Fused(), feed_forward=FusedGated())),
    "phi3, long factors": Family(
        "phi3",
        dict(rope=_rope(HALVES, attention_factor=1.2), projection=Fused(), feed_forward=FusedGated(), rope_factors=64),
        {"rope.scaling.original_context_length": 64, "rope.scaling.attn_factor": 1.2},
    ),
    "gpt2": Family(
        "gpt2",
        LAYER_NORM
        | BIASES
        | dict(rope=None, position_embd=True, head_count_kv=4, projection=Fused(), feed_forward=Plain("gelu_tanh")),
    ),
    "gptneox": Family(
        "gptneox",
        LAYER_NORM
        | BIASES
        | dict(rope=_rope(HALVES, 4), head_count_kv=4, projection=Fused(), feed_forward=Plain("gelu"), parallel=True),
        {"use_parallel_residual": True},
    ),
    "gptneox, one after the other": Family(
        "gptneox",
        LAYER_NORM
        | BIASES
        | dict(rope=_rope(HALVES, 4), head_count_kv=4, projection=Fused(), feed_forward=Plain("gelu")),
        {"use_parallel_residual": False},
    ),
    "falcon": Family(
        "falcon",
        LAYER_NORM
        | dict(rope=_rope(HALVES), head_count_kv=1, projection=Fused(), feed_forward=Plain("gelu"))
        | dict(parallel=True, ffn_norm=False),
    ),
    "falcon, two norms": Family(
        "falcon",
        LAYER_NORM
        | dict(rope=_rope(HALVES), projection=Fused(), feed_forward=Plain("gelu"))
        | dict(parallel=True, ffn_norm=False, attn_norm_2=True),
    ),
    "starcoder2": Family("starcoder2", LAYER_NORM | BIASES | dict(rope=_rope(HALVES), feed_forward=Plain("gelu_tanh"))),
    "stablelm": Family("stablelm", LAYER_NORM | dict(rope=_rope(HALVES, 2), attn_bias=True)),
    "stablelm, parallel": Family(
        "stablelm", LAYER_NORM | dict(rope=_rope(HALVES, 2), parallel=True, ffn_norm=False, qk_norm=QKNorm.HEADS)
    ),
    "olmo2": Family(
        "olmo2", BOTH_NORMS | dict(rope=_rope(HALVES), attn_norm=False, ffn_norm=False, qk_norm=QKNorm.ROW)
        | dict(window_rope=_rope(HALVES)),
    ),
    "olmo2, windows": Family(
        "olmo2",
        BOTH_NORMS
        | dict(rope=_rope(HALVES, factor=4.0), attn_norm=False, ffn_norm=False, qk_norm=QKNorm.ROW)
        | dict(block_count=5, windows=_windows(5, 4), window_rope=_rope(HALVES)),
        {"attention.sliding_window": 5, "rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "granite": Family(
        "granite",
        dict(rope=_rope(INTERLEAVED), embedding_scale=6.0, residual_scale=0.25, output_scale=0.125, tied_output=True)
        | dict(attention_scale=0.1),
        {"embedding_scale": 6.0, "residual_scale": 0.25, "logit_scale": 8.0, "attention.scale": 0.1},
    ),
    "granitemoe": Family(
        "granitemoe",
        dict(rope=_rope(INTERLEAVED), embedding_scale=6.0, residual_scale=0.25, output_scale=0.125, tied_output=True)
        | dict(attention_scale=0.1, feed_forward_length=24)
        | _experts(shared_length=40),
        {"embedding_scale": 6.0, "residual_scale": 0.25, "logit_scale": 8.0, "attention.scale": 0.1}
        | EXPERT_KEYS
        | {"expert_shared_feed_forward_length": 40},
    ),
    "deepseek2": Family(
        "deepseek2",
        DEEPSEEK
        | dict(projection=Absorbed(4, 8, 4, 16, 8, 1e-5, 12), head_count_kv=1, key_length=20, value_length=16)
        | dict(rope=_rope(INTERLEAVED, 4, factor=4.0, yarn=YarnConfig(64, mscale=MSCALE, mscale_all_dim=MSCALE)))
        | dict(attention_scale=(1 + 0.07 * math.log(4.0)) ** 2 * 12**-0.5)
        | dict(
            feed_forward=Experts(
                8, 2, 24, gating="sigmoid", scale=2.5, shared_length=48, groups=4, groups_used=2, probs_bias=True
            )
        ),
        YARN
        | {"rope.scaling.yarn_log_multiplier": 0.07, "attention.q_lora_rank": 12, "attention.kv_lora_rank": 16}
        | {"attention.key_length": 20, "attention.value_length": 16, "leading_dense_block_count": 1}
        | {"attention.key_length_mla": 12, "attention.value_length_mla": 8, "expert_weights_scale": 2.5}
        | {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 24, "expert_shared_count": 2}
        | {"expert_group_count": 4, "expert_group_used_count": 2, "expert_gating_func": 2, "expert_weights_norm": True},
    ),
    "deepseek2, full keys": Family(
        "deepseek2",
        DEEPSEEK
        | dict(projection=Latent(4, 8, 4, 16, 8, 1e-5), head_count_kv=4, key_length=12, value_length=8)
        | dict(rope=_rope(INTERLEAVED, 4), attention_scale=12**-0.5)
        | _experts(norm_weights=False, shared_length=24, fused=True),
        OF_EXPERTS
        | {"attention.q_lora_rank": 0, "attention.kv_lora_rank": 16, "leading_dense_block_count": 1}
        | {"attention.key_length": 12, "attention.value_length": 8, "expert_shared_count": 1},
    ),
    "gpt-oss": Family(
        "gpt-oss",
        dict(rope=_rope(HALVES, factor=4.0, yarn=YarnConfig(64)), windows=(5, None), attn_sinks=True)
        | dict(ffn_norm_name="post_attention_norm", attn_bias=True, attn_output_bias=True, feed_forward_length=24)
        | _experts(gating="softmax_weight", norm_weights=False, gate="swiglu_oai", router_bias=True, bias=True),
        OF_EXPERTS | YARN | {"attention.sliding_window": 5},
    ),
    "command-r": Family("command-r", COMMAND, {"logit_scale": 0.25}),
    "cohere2": Family(
        "cohere2",
        COMMAND | dict(block_count=5, windows=_windows(5, 4), global_rope=False),
        {"logit_scale": 0.25, "attention.sliding_window": 5},
    ),
}  # fmt: skip
