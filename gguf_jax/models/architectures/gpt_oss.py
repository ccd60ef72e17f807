"""gpt-oss."""

from __future__ import annotations

from dataclasses import replace

from gguf_jax.models.architectures import mixture, reader
from gguf_jax.models.architectures.reader import Shapes, windows
from gguf_jax.models.config import DecoderConfig
from gguf_jax.models.keys import Keys
from gguf_jax.nn.rope import RopePairing


def gpt_oss(keys: Keys, shapes: Shapes) -> DecoderConfig:
    """Experts with biases and a gate of their own kind, weighed by a softmax over the chosen ones; sinks; a window in
    every other block, the first included. What a file calls the norm after attention is the one before the experts."""
    feed_forward = mixture.experts(keys, shapes, gating="softmax_weight", norm_weights=False, gate="swiglu_oai")
    base = reader.decoder(
        keys,
        shapes,
        pairing=RopePairing.HALVES,
        feed_forward=feed_forward,
        ffn_norm_name="post_attention_norm",
        attn_sinks=True,
        windows=windows(keys, keys.integer("block_count"), every=2),
    )
    assert base.rope is not None
    local = keys.number("rope.freq_base_swa", base.rope.base, low=1.0 + 1e-6)
    return base if local == base.rope.base else replace(base, window_rope=replace(base.rope, base=local))
