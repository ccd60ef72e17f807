"""Encoders: BERT and what followed it, and the encoder of T5."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gguf_jax.errors import GGUFError, Unsupported
from gguf_jax.models.architectures.reader import Shapes, agree, blocks_of, heads_of, rope, rows_of_embedding
from gguf_jax.models.encoder import EncoderConfig
from gguf_jax.models.keys import Keys
from gguf_jax.nn.feed_forward import FeedForward, FusedGated, Gated, Plain
from gguf_jax.nn.projection import Fused, Separate
from gguf_jax.nn.rope import RopePairing

RELATIVE = re.compile(r"enc\.blk\.(\d{1,9})\.attn_rel_b\.weight")

POOLING = ("none", "mean", "cls", "last", "rank")
"""What `pooling_type` numbers."""


def pooling_of(metadata: Mapping[str, Any]) -> str | None:
    """What a file says becomes of the states of a text's tokens, one of `POOLING`; decoders' files may say so as well.

    Raises:
        GGUFError: the number is none of those.
    """
    number = Keys(metadata, str(metadata.get("general.architecture"))).integer(
        "pooling_type", -1, low=0, high=len(POOLING) - 1
    )
    return None if number < 0 else POOLING[number]


def _rows(shapes: Shapes, name: str) -> int:
    """Rows of a matrix; 0: there is no such one."""
    shape = shapes.get(name, ())
    return shape[0] if len(shape) == 2 else 0


def encoder(
    keys: Keys, shapes: Shapes, *, feed_forward: FeedForward, blk: str = "blk", **options: Any
) -> EncoderConfig:
    """What encoders share.

    Args:
        blk: what the blocks' tensors begin with.
        options: fields of `EncoderConfig` that the architecture's name decides.
    """
    vocab_size = rows_of_embedding(shapes)
    if keys.metadata.get(f"{keys.architecture}.attention.causal"):
        raise Unsupported(f"{keys.architecture}.attention.causal: expected false for an encoder, found true")
    block_count = blocks_of(keys, shapes, blk)
    embedding_length = keys.integer("embedding_length")
    head_count, head_count_kv, key_length, value_length = heads_of(keys, embedding_length)
    feed_forward_length = keys.integer("feed_forward_length")
    agree(keys, "embedding_length", embedding_length, shapes, "token_embd.weight", 1)
    rows = feed_forward_length * (2 if isinstance(feed_forward, FusedGated) else 1)
    agree(keys, "feed_forward_length", rows, shapes, f"{blk}.0.ffn_up.weight", 0)
    agree(keys, "attention.head_count x key_length", head_count * key_length, shapes, f"{blk}.0.attn_q.weight", 0)
    rows = head_count * key_length + head_count_kv * (key_length + value_length)
    agree(keys, "attention.head_count and head_count_kv x lengths", rows, shapes, f"{blk}.0.attn_qkv.weight", 0)
    values: dict[str, Any] = dict(
        architecture=keys.architecture,
        vocab_size=vocab_size,
        context_length=keys.integer("context_length"),
        block_count=block_count,
        embedding_length=embedding_length,
        feed_forward_length=feed_forward_length,
        head_count=head_count,
        head_count_kv=head_count_kv,
        key_length=key_length,
        value_length=value_length,
        attention_scale=key_length**-0.5,
        pooling=pooling_of(keys.metadata),
        projection=Fused() if f"{blk}.0.attn_qkv.weight" in shapes else Separate(),
        feed_forward=feed_forward,
        attn_bias=f"{blk}.0.attn_q.bias" in shapes or f"{blk}.0.attn_qkv.bias" in shapes,
        attn_output_bias=f"{blk}.0.attn_output.bias" in shapes,
        ffn_up_bias=f"{blk}.0.ffn_up.bias" in shapes,
        ffn_down_bias=f"{blk}.0.ffn_down.bias" in shapes,
        norm_bias=f"{blk}.0.attn_output_norm.bias" in shapes,
        cls=_rows(shapes, "cls.weight"),
        cls_bias="cls.bias" in shapes,
        labels=_rows(shapes, "cls.output.weight"),
        labels_bias="cls.output.bias" in shapes,
    )
    return EncoderConfig(**(values | options))


def _bert(keys: Keys, shapes: Shapes, **options: Any) -> EncoderConfig:
    if keys.integer("moe_every_n_layers", 0, low=0):
        raise Unsupported(
            f"{keys.architecture}.moe_every_n_layers: expected 0, since encoders with experts are not supported"
        )
    eps = keys.number("attention.layer_norm_epsilon", high=1e3)
    return encoder(keys, shapes, norm_eps=eps, token_types=_rows(shapes, "token_types.weight"), **options)


def bert(keys: Keys, shapes: Shapes) -> EncoderConfig:
    """Learned positions."""
    agree(keys, "context_length", keys.integer("context_length"), shapes, "position_embd.weight", 0)
    return _bert(keys, shapes, feed_forward=Plain("gelu"), position_embd=True)


def nomic_bert(keys: Keys, shapes: Shapes) -> EncoderConfig:
    """RoPE, and gates with silu."""
    head = max(1, keys.integer("embedding_length") // keys.integer("attention.head_count"))
    turn = rope(keys, keys.integer("attention.key_length", head), keys.integer("context_length"), RopePairing.HALVES)
    return _bert(keys, shapes, feed_forward=Gated("silu"), rope=turn)


def jina_bert_v2(keys: Keys, shapes: Shapes) -> EncoderConfig:
    """ALiBi; gates with gelu, in a weight of their own or (code) before the other rows in one."""
    form: FeedForward = Gated("gelu") if "blk.0.ffn_gate.weight" in shapes else Plain("gelu")
    if isinstance(form, Plain) and _rows(shapes, "blk.0.ffn_up.weight") == 2 * keys.integer("feed_forward_length"):
        form = FusedGated("gelu")
    return _bert(
        keys,
        shapes,
        feed_forward=form,
        alibi=keys.number("attention.max_alibi_bias", 8.0, high=1e3),
        qk_norm="blk.0.attn_q_norm.weight" in shapes,
        attn_norm_2="blk.0.attn_norm_2.weight" in shapes,
    )


def t5_encoder(keys: Keys, shapes: Shapes) -> EncoderConfig:
    """Scores are not scaled, distances add to them; gates with gelu, or (the first T5) relu without."""
    count = keys.integer("attention.relative_buckets_count", low=4)
    if count % 4:
        raise GGUFError(
            f"{keys.architecture}.attention.relative_buckets_count: expected a multiple of 4, found {count}"
        )
    agree(keys, "attention.relative_buckets_count", count, shapes, "enc.blk.0.attn_rel_b.weight", 0)
    own = {int(match[1]) for name in shapes if (match := RELATIVE.fullmatch(name))}
    return encoder(
        keys,
        shapes,
        blk="enc.blk",
        feed_forward=Gated("gelu_tanh") if "enc.blk.0.ffn_gate.weight" in shapes else Plain("relu"),
        norm_eps=keys.number("attention.layer_norm_rms_epsilon", high=1e3),
        attention_scale=1.0,
        relative_buckets=count,
        relative_blocks=tuple(sorted({0} | own)),
    )
