"""A small model of every encoder architecture: its configuration, written out, and the metadata of a file of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flax import nnx

from gguf_jax.models import ARCHITECTURES, EncoderConfig
from gguf_jax.nn import RopeConfig, RopePairing
from gguf_jax.nn.feed_forward import FusedGated, Gated, Plain
from gguf_jax.nn.projection import Fused
from tests.support import randomize

BIASES = dict(attn_bias=True, attn_output_bias=True, ffn_up_bias=True, ffn_down_bias=True)


@dataclass(frozen=True)
class EncoderFamily:
    """One model: `config` says how it differs from the others, `keys` what its file says beside lengths."""

    architecture: str
    config: dict[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)

    def make(self, **changes: Any) -> EncoderConfig:
        """Its configuration; `changes` are of a model of another vocabulary, say."""
        values: dict[str, Any] = dict(
            architecture=self.architecture,
            vocab_size=97,
            context_length=40,
            block_count=3,
            embedding_length=36,
            feed_forward_length=50,
            head_count=6,
            head_count_kv=6,
            key_length=6,
            value_length=6,
            norm_eps=2.0**-17,  # which a float32 in a file holds
            attention_scale=6**-0.5,
        )
        return EncoderConfig(**(values | self.config | changes))

    def metadata(self, c: EncoderConfig) -> Mapping[str, Any]:
        """The keys of a file of a model with this configuration."""
        eps = "attention.layer_norm_rms_epsilon" if c.relative_buckets else "attention.layer_norm_epsilon"
        lengths = {
            "block_count": c.block_count,
            "context_length": c.context_length,
            "embedding_length": c.embedding_length,
            "feed_forward_length": c.feed_forward_length,
            "attention.head_count": c.head_count,
            eps: c.norm_eps,
            "attention.causal": False,
        }
        return {"general.architecture": self.architecture} | {
            f"{self.architecture}.{name}": value for name, value in (lengths | self.keys).items()
        }


def small_encoder(config: EncoderConfig, seed: int = 0) -> Any:
    """The model of a configuration, with weights large enough that every part of it shows."""
    model = ARCHITECTURES[config.architecture].model(config, rngs=nnx.Rngs(seed))
    randomize(model, seed)
    return model


T5: dict[str, Any] = dict(
    attention_scale=1.0, key_length=10, value_length=10, norm_bias=False, relative_buckets=16, relative_blocks=(0,)
)
T5_KEYS = {"attention.key_length": 10, "attention.value_length": 10, "attention.relative_buckets_count": 16}

ENCODERS: dict[str, EncoderFamily] = {
    "bert": EncoderFamily(
        "bert", BIASES | dict(position_embd=True, token_types=2, pooling="mean"), {"pooling_type": 1}
    ),
    "bert, two layers of scores": EncoderFamily(
        "bert",
        BIASES
        | dict(position_embd=True, projection=Fused(), pooling="rank")
        | dict(cls=36, cls_bias=True, labels=3, labels_bias=True),
        {"pooling_type": 4, "classifier.output_labels": ["bad", "fair", "good"]},
    ),
    "nomic-bert": EncoderFamily(
        "nomic-bert",
        dict(rope=RopeConfig(6, 1000.0, RopePairing.HALVES), projection=Fused(), feed_forward=Gated("silu"))
        | dict(token_types=2, pooling="cls"),
        {"rope.freq_base": 1000.0, "pooling_type": 2},
    ),
    "jina-bert-v2": EncoderFamily(
        "jina-bert-v2",
        dict(attn_bias=True, attn_output_bias=True, ffn_down_bias=True)
        | dict(alibi=8.0, token_types=2, feed_forward=Gated("gelu"), cls=1, cls_bias=True),
    ),
    "jina-bert-v2, code": EncoderFamily(
        "jina-bert-v2",
        dict(attn_bias=True, attn_output_bias=True, ffn_down_bias=True)
        | dict(alibi=8.0, token_types=2, feed_forward=FusedGated("gelu"), qk_norm=True, attn_norm_2=True),
    ),
    "t5encoder": EncoderFamily("t5encoder", T5 | dict(feed_forward=Gated("gelu_tanh")), T5_KEYS),
    "t5encoder, the first": EncoderFamily(
        "t5encoder", T5 | dict(feed_forward=Plain("relu"), relative_blocks=(0, 2)), T5_KEYS
    ),
}
