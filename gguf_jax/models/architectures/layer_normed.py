"""Decoders with layer norms: GPT-2, GPT-NeoX, Falcon, StarCoder 2, StableLM."""

from __future__ import annotations

from typing import Any

from gguf_jax.models.architectures import reader
from gguf_jax.models.architectures.reader import Shapes, heads_normed
from gguf_jax.models.config import DecoderConfig
from gguf_jax.models.keys import Keys
from gguf_jax.nn.feed_forward import Plain
from gguf_jax.nn.rope import RopePairing


def decoder(keys: Keys, shapes: Shapes, **options: Any) -> DecoderConfig:
    return reader.decoder(keys, shapes, layer_norm=True, **options)


def gptneox(keys: Keys, shapes: Shapes) -> DecoderConfig:
    return decoder(
        keys,
        shapes,
        pairing=RopePairing.HALVES,
        feed_forward=Plain("gelu"),
        parallel=keys.flag("use_parallel_residual"),
    )


def falcon(keys: Keys, shapes: Shapes) -> DecoderConfig:
    """Both parts at once, from one norm or (40 B) from two."""
    return decoder(
        keys,
        shapes,
        pairing=RopePairing.HALVES,
        feed_forward=Plain("gelu"),
        parallel=True,
        ffn_norm=False,
        attn_norm_2="blk.0.attn_norm_2.weight" in shapes,
    )


def stablelm(keys: Keys, shapes: Shapes) -> DecoderConfig:
    """A file without `ffn_norm` is of a model whose parts work at once, from one norm (StableLM 2 12B)."""
    ffn_norm = "blk.0.ffn_norm.weight" in shapes
    return decoder(
        keys,
        shapes,
        pairing=RopePairing.HALVES,
        ffn_norm=ffn_norm,
        parallel=not ffn_norm,
        qk_norm=heads_normed(shapes),
    )
