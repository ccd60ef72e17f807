"""Command R."""

from __future__ import annotations

from typing import Any

from gguf_jax.models.architectures.reader import Shapes, decoder, heads_normed, optional_scale, windows
from gguf_jax.models.config import DecoderConfig
from gguf_jax.models.keys import Keys
from gguf_jax.nn.rope import RopePairing


def command_r(keys: Keys, shapes: Shapes, **options: Any) -> DecoderConfig:
    """Both parts at once from one norm without bias; logits are scaled."""
    return decoder(
        keys,
        shapes,
        layer_norm=True,
        pairing=RopePairing.INTERLEAVED,
        parallel=True,
        ffn_norm=False,
        qk_norm=heads_normed(shapes),
        output_scale=optional_scale(keys, "logit_scale") or 1.0,
        **options,
    )


def cohere2(keys: Keys, shapes: Shapes) -> DecoderConfig:
    """Command R with a window in three of four blocks; the others do not turn queries and keys."""
    sliding = windows(keys, keys.integer("block_count"), every=4)
    return command_r(keys, shapes, windows=sliding, global_rope=False)
