"""Gemma."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gguf_jax.models.architectures.reader import Shapes, decoder, optional_scale, windows
from gguf_jax.models.config import DecoderConfig, QKNorm
from gguf_jax.models.keys import Keys
from gguf_jax.nn.feed_forward import Gated
from gguf_jax.nn.rope import RopePairing


def gemma(keys: Keys, shapes: Shapes, **options: Any) -> DecoderConfig:
    """Gelu gates, embeddings times the root of their length. The norms' weights in the file have one added already."""
    scale = keys.integer("embedding_length") ** 0.5
    fields = dict(feed_forward=Gated("gelu_tanh"), embedding_scale=scale) | options
    return decoder(keys, shapes, pairing=RopePairing.HALVES, **fields)


def _of_27b(keys: Keys, blocks: int) -> dict[str, float]:
    """Gemma's largest model scales scores by embedding and heads; no key says so, its number of blocks does."""
    if keys.integer("block_count") != blocks:
        return {}
    per_head = max(1, keys.integer("embedding_length") // keys.integer("attention.head_count"))
    return dict(attention_scale=per_head**-0.5)


def gemma2(keys: Keys, shapes: Shapes) -> DecoderConfig:
    """Norms on both sides of each part, capped scores and logits, a window in every other block, the first included."""
    return gemma(
        keys,
        shapes,
        attn_post_norm=True,
        ffn_post_norm=True,
        windows=windows(keys, keys.integer("block_count"), default=4096, every=2),
        attention_softcap=keys.number("attn_logit_softcapping", 50.0, high=1e6) or None,
        output_softcap=keys.number("final_logit_softcapping", 30.0, high=1e6) or None,
        **_of_27b(keys, 46),
    )


def gemma3(keys: Keys, shapes: Shapes) -> DecoderConfig:
    """Gemma 2 with normalized queries and keys; five of six blocks have a window, and a RoPE of their own."""
    base = gemma(
        keys,
        shapes,
        attn_post_norm=True,
        ffn_post_norm=True,
        qk_norm=QKNorm.HEAD,
        windows=windows(keys, keys.integer("block_count"), every=6),
        output_softcap=optional_scale(keys, "final_logit_softcapping"),
        **_of_27b(keys, 62),
    )
    assert base.rope is not None
    local = keys.number("rope.freq_base_swa", 10000.0, low=1.0 + 1e-6)
    return replace(base, window_rope=replace(base.rope, base=local, factor=1.0, yarn=None))
