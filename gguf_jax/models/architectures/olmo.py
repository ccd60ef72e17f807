"""OLMo."""

from __future__ import annotations

from dataclasses import replace

from gguf_jax.models.architectures.reader import Shapes, decoder, windows
from gguf_jax.models.config import DecoderConfig, QKNorm
from gguf_jax.models.keys import Keys
from gguf_jax.nn.rope import RopePairing


def olmo2(keys: Keys, shapes: Shapes) -> DecoderConfig:
    """Norms after each part alone, queries and keys normalized as whole rows. With a window (OLMo 3) three of four
    blocks have it, and a RoPE that is not stretched."""
    base = decoder(
        keys,
        shapes,
        pairing=RopePairing.HALVES,
        attn_norm=False,
        ffn_norm=False,
        attn_post_norm=True,
        ffn_post_norm=True,
        qk_norm=QKNorm.ROW,
        windows=windows(keys, keys.integer("block_count"), every=4),
    )
    assert base.rope is not None
    local = keys.number("rope.freq_base_swa", base.rope.base, low=1.0 + 1e-6)
    return replace(base, window_rope=replace(base.rope, base=local, factor=1.0, yarn=None, attention_factor=1.0))
