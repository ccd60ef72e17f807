"""Granite."""

from __future__ import annotations

from gguf_jax.models.architectures.reader import Shapes, decoder, optional_scale
from gguf_jax.models.config import DecoderConfig
from gguf_jax.models.keys import Keys
from gguf_jax.nn.rope import RopePairing


def granite(keys: Keys, shapes: Shapes) -> DecoderConfig:
    return decoder(
        keys,
        shapes,
        pairing=RopePairing.INTERLEAVED,
        embedding_scale=optional_scale(keys, "embedding_scale") or 1.0,
        residual_scale=optional_scale(keys, "residual_scale") or 1.0,
        output_scale=1.0 / (optional_scale(keys, "logit_scale") or 1.0),
    )
