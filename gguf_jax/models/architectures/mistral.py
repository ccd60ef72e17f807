"""Ministral 3."""

from __future__ import annotations

from gguf_jax.models.architectures import mixture
from gguf_jax.models.architectures.reader import Shapes, optional_scale
from gguf_jax.models.config import DecoderConfig, Temperature
from gguf_jax.models.keys import Keys
from gguf_jax.nn.rope import RopePairing


def mistral3(keys: Keys, shapes: Shapes) -> DecoderConfig:
    """Llama with queries that grow with every original context length that lies before them."""
    scale = optional_scale(keys, "attention.temperature_scale")
    temperature = None
    if scale is not None:
        original = keys.integer("rope.scaling.original_context_length", keys.integer("context_length"))
        temperature = Temperature(scale, original)
    return mixture.decoder(keys, shapes, pairing=RopePairing.INTERLEAVED, temperature=temperature)
