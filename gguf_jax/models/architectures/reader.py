"""What the architectures' readers share: a decoder's lengths, its RoPE and windows, and checks against its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_jax.errors import GGUFError, Unsupported
from gguf_jax.models.config import DecoderConfig, QKNorm
from gguf_jax.models.keys import Keys
from gguf_jax.nn.experts import Experts
from gguf_jax.nn.feed_forward import FusedGated
from gguf_jax.nn.projection import Fused, Separate
from gguf_jax.nn.rope import RopeConfig, RopePairing, YarnConfig

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name -> shape in NumPy order: which optional parts a file has is read off its tensors."""


def rope(keys: Keys, key_length: int, context_length: int, pairing: RopePairing) -> RopeConfig:
    scaling = keys.choice("rope.scaling.type", ("none", "linear", "yarn", "longrope"), "linear")
    # rope.scale_linear is what files of 2023 call the factor; 0 stands for "not set"
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0, high=1e6), high=1e6) or 1.0
    if factor < 1e-3:
        raise GGUFError(f"{keys.architecture}.rope.scaling.factor: expected 0 or at least 0.001, found {factor}")
    yarn = None
    if scaling == "yarn":
        yarn = YarnConfig(
            original_context=keys.integer("rope.scaling.original_context_length", context_length),
            ext_factor=keys.number("rope.scaling.yarn_ext_factor", 1.0, high=1e6),
            beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0, low=1e-3, high=1e6),
            beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0, low=1e-3, high=1e6),
            mscale_all_dim=keys.number("rope.scaling.yarn_log_multiplier", 0.0, high=1e3),
        )
    dimension = keys.integer("rope.dimension_count", key_length)
    if dimension % 2 or dimension > key_length:
        raise GGUFError(
            f"{keys.architecture}.rope.dimension_count: expected an even number of at most {key_length} (the length of "
            f"a key), found {dimension}"
        )
    return RopeConfig(
        dimension=dimension,
        base=keys.number("rope.freq_base", 10000.0, low=1.0 + 1e-6),
        pairing=pairing,
        factor=1.0 if scaling == "none" else factor,
        yarn=yarn,
        attention_factor=keys.number("rope.scaling.attn_factor", 1.0, high=1e6),
    )


def windows(keys: Keys, block_count: int, *, default: int = 0, every: int | None = None) -> tuple[int | None, ...]:
    """For every block its window. Without a pattern in the file all blocks have one, or all but each `every`-th."""
    window = keys.integer("attention.sliding_window", default, low=0) or None
    usual = tuple(every is None or (i + 1) % every != 0 for i in range(block_count))
    pattern = keys.flags("attention.sliding_window_pattern", block_count) or usual
    return tuple(window if slides else None for slides in pattern)


def agree(keys: Keys, name: str, found: int, shapes: Shapes, tensor: str, axis: int) -> None:
    """GGUFError unless a length in the metadata is that of the tensor it sizes (a missing tensor is named later)."""
    shape = shapes.get(tensor)
    fits = shape is not None and axis < len(shape) in (2, 3)
    if shape is not None and not (fits and shape[axis] == found):
        expected = shape[axis] if fits else "a matrix" if axis < 2 else "a stack of matrices"
        raise GGUFError(f"{keys.architecture}.{name}: expected {expected} as in {tensor} {list(shape)}, found {found}")


def rows_of_embedding(shapes: Shapes) -> int:
    """The size of the vocabulary. Raises GGUFError where `token_embd.weight` is no matrix."""
    embedding = shapes.get("token_embd.weight")
    if embedding is None or len(embedding) != 2 or not embedding[0]:
        found = "no such tensor" if embedding is None else f"the shape {list(embedding)}"
        raise GGUFError(f"token_embd.weight: expected a matrix [vocabulary, embedding], found {found}")
    return embedding[0]


def blocks_of(keys: Keys, shapes: Shapes, prefix: str = "blk") -> int:
    """`block_count`. Raises GGUFError where there are fewer blocks with tensors, whose names begin with `prefix`: one
    without would cost memory and time before its first tensor is named as missing."""
    blocks = len({name.removeprefix(f"{prefix}.").split(".")[0] for name in shapes if name.startswith(f"{prefix}.")})
    count = keys.integer("block_count")
    if count > blocks:
        raise GGUFError(
            f"{keys.architecture}.block_count: expected at most {blocks} (blocks with tensors), found {count}"
        )
    return count


def heads_of(keys: Keys, embedding_length: int) -> tuple[int, int, int, int]:
    """Heads of queries, of keys and values, and elements of a key and of a value.

    Raises:
        GGUFError: queries cannot be shared out among the keys.
    """
    count = keys.integer("attention.head_count")
    count_kv = keys.integer("attention.head_count_kv", count)
    if count % count_kv:
        raise GGUFError(
            f"{keys.architecture}.attention.head_count_kv: expected a divisor of {count} heads, found {count_kv}"
        )
    usual = max(1, embedding_length // count)
    return (
        count,
        count_kv,
        keys.integer("attention.key_length", usual),
        keys.integer("attention.value_length", usual),
    )


def decoder(keys: Keys, shapes: Shapes, *, pairing: RopePairing | None, **options: Any) -> DecoderConfig:
    """A decoder of blocks of grouped-query attention and a feed-forward part.

    Args:
        pairing: of RoPE; None: positions have learned embeddings.
        options: fields of `DecoderConfig` that the architecture's name decides; the rest is in the keys and tensors.
    """
    feed_forward = options.get("feed_forward", DecoderConfig.feed_forward)
    if not isinstance(feed_forward, Experts) and keys.integer("expert_count", 0, low=0):
        raise Unsupported(
            f"{keys.architecture}.expert_count: experts are not known of this architecture, expected 0, found "
            f"{keys.integer('expert_count')}"
        )
    vocab_size = rows_of_embedding(shapes)
    block_count = blocks_of(keys, shapes)
    embedding_length = keys.integer("embedding_length")
    head_count, head_count_kv, key_length, value_length = heads_of(keys, embedding_length)
    context_length = keys.integer("context_length")
    # of a model that has nothing but experts, a file may leave it out
    feed_forward_length = keys.integer(
        "feed_forward_length", feed_forward.length if isinstance(feed_forward, Experts) else None
    )
    # the lengths that size everything must be the tensors' own before anything is built from them
    agree(keys, "embedding_length", embedding_length, shapes, "token_embd.weight", 1)
    rows = feed_forward_length * (2 if isinstance(feed_forward, FusedGated) else 1)
    agree(keys, "feed_forward_length", rows, shapes, "blk.0.ffn_up.weight", 0)
    if "projection" not in options:
        agree(keys, "attention.head_count x key_length", head_count * key_length, shapes, "blk.0.attn_q.weight", 0)
        rows = head_count * key_length + head_count_kv * (key_length + value_length)
        agree(keys, "attention.head_count and head_count_kv x lengths", rows, shapes, "blk.0.attn_qkv.weight", 0)
        agree(
            keys,
            "attention.head_count x value_length",
            head_count * value_length,
            shapes,
            "blk.0.attn_output.weight",
            1,
        )
    if pairing is None:
        agree(keys, "context_length", context_length, shapes, "position_embd.weight", 0)
    original = keys.integer("rope.scaling.original_context_length", context_length)
    eps = "attention.layer_norm_epsilon" if options.get("layer_norm") else "attention.layer_norm_rms_epsilon"
    values: dict[str, Any] = dict(
        architecture=keys.architecture,
        vocab_size=vocab_size,
        context_length=context_length,
        block_count=block_count,
        embedding_length=embedding_length,
        feed_forward_length=feed_forward_length,
        head_count=head_count,
        head_count_kv=head_count_kv,
        key_length=key_length,
        value_length=value_length,
        norm_eps=keys.number(eps, high=1e3),
        rope=None if pairing is None else rope(keys, key_length, context_length, pairing),
        attention_scale=keys.number("attention.scale", 0.0, high=1e6) or key_length**-0.5,
        windows=windows(keys, block_count),
        position_embd=pairing is None,
        projection=Fused() if "blk.0.attn_qkv.weight" in shapes else Separate(),
        rope_factors=original if "rope_factors_long.weight" in shapes else None,
        rope_freqs="rope_freqs.weight" in shapes,
        norm_bias="output_norm.bias" in shapes,
        attn_bias="blk.0.attn_q.bias" in shapes or "blk.0.attn_qkv.bias" in shapes,
        attn_output_bias="blk.0.attn_output.bias" in shapes,
        ffn_bias="blk.0.ffn_up.bias" in shapes,
        output_bias="output.bias" in shapes,
        tied_output="output.weight" not in shapes,
    )
    return DecoderConfig(**(values | options))


def optional_scale(keys: Keys, name: str) -> float | None:
    """A number, or None where it is missing or 0, which stands for "not set"."""
    return keys.number(name, 0.0, high=1e6) or None


def heads_normed(shapes: Shapes) -> QKNorm | None:
    return QKNorm.HEADS if "blk.0.attn_q_norm.weight" in shapes else None
