"""Granite."""

from __future__ import annotations

from gguf_jax.models.architectures import mixture
from gguf_jax.models.architectures.reader import Shapes, optional_scale
from gguf_jax.models.config import DecoderConfig
from gguf_jax.models.keys import Keys
from gguf_jax.nn.rope import RopePairing


def granite(keys: Keys, shapes: Shapes) -> DecoderConfig:
    """Scales on embeddings, scores, what a block adds, and logits. A file may have experts, with or without a part that
    every position goes through."""
    return mixture.decoder(
        keys,
        shapes,
        pairing=RopePairing.INTERLEAVED,
        shared_length=keys.integer("expert_shared_feed_forward_length", 0, low=0),
        embedding_scale=optional_scale(keys, "embedding_scale") or 1.0,
        residual_scale=optional_scale(keys, "residual_scale") or 1.0,
        output_scale=1.0 / (optional_scale(keys, "logit_scale") or 1.0),
    )
