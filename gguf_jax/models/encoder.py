"""`Encoder` and `T5Encoder`: transformers whose positions all see each other, for embeddings and scores of texts.

They have a configuration of their own: nearly nothing of a `DecoderConfig` (windows, caches, logits) means anything
here, and norms stand elsewhere. What they share with a decoder are layers: projections, feed-forward parts, RoPE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from flax import nnx

from gguf_jax import ops
from gguf_jax.errors import Unsupported
from gguf_jax.models.companions import Accompanied, Companions, checked_ids
from gguf_jax.nn.feed_forward import FeedForward, Plain
from gguf_jax.nn.linear import Embedding, LayerNorm, Linear, RMSNorm
from gguf_jax.nn.position_bias import alibi, buckets
from gguf_jax.nn.projection import Projection, Separate
from gguf_jax.nn.rope import RopeConfig, RopePairing, rotation

SEPARATE, PLAIN = Separate(), Plain("gelu")


@dataclass(frozen=True)
class EncoderConfig:
    """Shape and options of an encoder. Lengths are in elements, `context_length` in tokens.

    Attributes:
        pooling: what its file says becomes of the states of a text's tokens: one of `gguf_jax.embeddings.POOLINGS`, or
            None, where it says nothing.
        position_embd: positions have learned embeddings, which are added to the tokens'; no text is longer than there
            are positions.
        rope: how positions turn queries and keys, if they do.
        alibi: 2 to minus so much is the smallest slope of `nn.position_bias.alibi`; None: there is no such bias.
        relative_buckets: how many distances T5 tells apart; 0: none.
        token_types: rows of `token_types.weight`, of which a text's tokens get the first; 0: there is no such tensor.
        qk_norm: queries and keys are normalized as whole rows.
        attn_norm_2: the block's input is added and normalized once more after attention.
        norm_bias, attn_bias, attn_output_bias, ffn_up_bias, ffn_down_bias: which norms and projections carry a bias.
        cls, cls_bias: rows of a layer before the scores of `pooling` "rank"; 0: there is none.
        labels: how many scores a text gets; 0: the file has no `cls.output`.
        labels_bias: of `cls.output`.
        relative_blocks: which blocks of T5 have buckets of their own; the others use the first block's.
    """

    architecture: str
    vocab_size: int
    context_length: int
    block_count: int
    embedding_length: int
    feed_forward_length: int
    head_count: int
    head_count_kv: int
    key_length: int
    value_length: int
    norm_eps: float
    attention_scale: float
    pooling: str | None = None
    position_embd: bool = False
    rope: RopeConfig | None = None
    alibi: float | None = None
    relative_buckets: int = 0
    relative_blocks: tuple[int, ...] = ()
    token_types: int = 0
    projection: Projection = SEPARATE
    feed_forward: FeedForward = PLAIN
    qk_norm: bool = False
    attn_norm_2: bool = False
    norm_bias: bool = True
    attn_bias: bool = False
    attn_output_bias: bool = False
    ffn_up_bias: bool = False
    ffn_down_bias: bool = False
    cls: int = 0
    cls_bias: bool = False
    labels: int = 0
    labels_bias: bool = False

    @property
    def tied_output(self) -> bool:
        """The token embedding is not multiplied by: an encoder has no logits."""
        return False

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Elements of a position's queries, keys and values."""
        return (
            self.head_count * self.key_length,
            self.head_count_kv * self.key_length,
            self.head_count_kv * self.value_length,
        )


def _layers(config: EncoderConfig, rngs: nnx.Rngs | None) -> dict[str, Linear]:
    """What a block multiplies by, apart from attention's output."""
    c = config
    layers = c.projection.layers(c.embedding_length, c.lengths, c.attn_bias, rngs)
    layers |= c.feed_forward.layers(c.embedding_length, c.feed_forward_length, c.ffn_up_bias, rngs)
    if c.ffn_down_bias != c.ffn_up_bias:
        layers["ffn_down"] = Linear(c.feed_forward_length, c.embedding_length, bias=c.ffn_down_bias, rngs=rngs)
    return layers


def _attended(
    c: EncoderConfig,
    qkv: Sequence[jax.Array],
    positions: jax.Array,
    turn: tuple[jax.Array, jax.Array] | None,
    bias: jax.Array | None,
    precision: ops.Precision,
) -> jax.Array:
    """Queries, keys and values `[B, T, length]` -> what attention gives, `[B, T, H * Dv]`."""
    batch, length, _ = qkv[0].shape
    q = qkv[0].reshape(batch, length, c.head_count, c.key_length)
    k = qkv[1].reshape(batch, length, c.head_count_kv, c.key_length)
    v = qkv[2].reshape(batch, length, c.head_count_kv, c.value_length)
    if turn is not None and c.rope is not None:
        q, k = ops.rotate((q, k), *turn, interleaved=c.rope.pairing is RopePairing.INTERLEAVED)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)  # [B, T, G, D] -> [B, G, T, D]
    out = ops.attention(q, k, v, positions, scale=c.attention_scale, bias=bias, causal=False, precision=precision)
    return out.reshape(batch, length, c.head_count * c.value_length)


class Block(nnx.Module):
    """A block that normalizes what it has added up, `blk.N`:

    h = attn_output_norm(x + attention(x));    y = layer_output_norm(h + feed_forward(h))
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs | None) -> None:
        c = self.config = config
        for name, layer in _layers(c, rngs).items():
            setattr(self, name, layer)
        self.attn_output = Linear(c.head_count * c.value_length, c.embedding_length, bias=c.attn_output_bias, rngs=rngs)
        q, k, _ = c.lengths
        self.attn_q_norm = _norm(c, q) if c.qk_norm else None
        self.attn_k_norm = _norm(c, k) if c.qk_norm else None
        self.attn_output_norm = _norm(c)
        self.attn_norm_2 = _norm(c) if c.attn_norm_2 else None
        self.layer_output_norm = _norm(c)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        turn: tuple[jax.Array, jax.Array] | None,
        bias: jax.Array | None,
        precision: ops.Precision,
    ) -> jax.Array:
        """`x [B, T, E]` -> `[B, T, E]`."""
        c = self.config
        with jax.named_scope("attention"):
            q, k, v = c.projection(self, x, c.lengths, precision)
            if self.attn_q_norm is not None and self.attn_k_norm is not None:
                q, k = self.attn_q_norm(q), self.attn_k_norm(k)
            attended = self.attn_output(_attended(c, (q, k, v), positions, turn, bias, precision), precision)
            h = self.attn_output_norm(x + attended)
            if self.attn_norm_2 is not None:
                h = self.attn_norm_2(x + h)
        with jax.named_scope("feed_forward"):
            return self.layer_output_norm(h + c.feed_forward(self, h, precision))


def _norm(config: EncoderConfig, length: int | None = None) -> LayerNorm:
    return LayerNorm((length or config.embedding_length,), config.norm_eps, bias=config.norm_bias)


class Head(nnx.Module):
    """What scores a text, `cls`: `output(tanh(weight x + bias))`, or one of the two layers alone.

    The inner layer is the module itself, since the file calls them `cls` and `cls.output`.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs | None) -> None:
        c = config
        inner = Linear(c.embedding_length, c.cls, bias=c.cls_bias, rngs=rngs) if c.cls else None
        self.weight = None if inner is None else inner.weight
        self.bias = None if inner is None else inner.bias
        width = c.cls or c.embedding_length
        self.output = Linear(width, c.labels, bias=c.labels_bias, rngs=rngs) if c.labels else None

    def __call__(self, x: jax.Array, precision: ops.Precision = "exact") -> jax.Array:
        """`x [B, E]` -> scores `[B, labels]`."""
        if self.weight is not None:
            x = ops.linear(x, self.weight.get_value(), precision=precision)
            x = x if self.bias is None else x + self.bias.get_value().astype(x.dtype)
            x = x if self.output is None else jnp.tanh(x)
        return x if self.output is None else self.output(x, precision)


class _Encoder(Accompanied):
    """What encoders of both kinds are asked."""

    config: EncoderConfig
    cls: Head | None
    usual_pooling = "mean"

    @property
    def head(self) -> Head | None:
        return self.cls

    def logits(self, *arguments: object, **options: object) -> NoReturn:
        """Raises Unsupported: what generates or scores text token by token needs a decoder."""
        raise Unsupported(
            f"expected a decoder, which has logits, found an encoder ({self.config.architecture}), which has embeddings"
        )

    make_cache = logits

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        *,
        types: jax.Array | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
        precision: ops.Precision = "exact",
    ) -> tuple[jax.Array, None]:
        raise NotImplementedError

    def __call__(self, tokens: Any) -> jax.Array:
        """The states of whole sequences' tokens, float32 `[B, T, E]`, for ids `tokens [B, T]` without padding.

        Compiled once for each shape of `tokens`; usable inside jit, grad and vmap. `gguf_jax.embed` takes texts.

        Raises:
            ValueError: `tokens` are no integers `[B, T]`, or (when they are on the host) an id is not in the
                vocabulary; or there are more than the model has positions.
        """
        tokens = checked_ids(tokens, self.config.vocab_size)
        if self.config.position_embd and tokens.shape[1] > self.config.context_length:
            raise ValueError(f"tokens: expected at most {self.config.context_length}, found {tokens.shape[1]}")
        graphdef, state = nnx.split(self.structure())
        return _whole(graphdef, state, tokens)


class Encoder(_Encoder):
    """An encoder in the manner of BERT; `encoder.blk[3].attn_q.weight` is the tensor `blk.3.attn_q.weight`.

    Args:
        config: its shape and options.
        rngs: where random weights come from; None: zeros, for the caller to fill.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs | None) -> None:
        c = self.config = config
        self.companions: Companions | None = Companions()
        self.token_embd = Embedding(c.vocab_size, c.embedding_length, rngs=rngs)
        self.token_types = Embedding(c.token_types, c.embedding_length, rngs=rngs) if c.token_types else None
        self.position_embd = Embedding(c.context_length, c.embedding_length, rngs=rngs) if c.position_embd else None
        self.token_embd_norm = _norm(c)
        self.blk = nnx.List([Block(c, rngs=rngs) for _ in range(c.block_count)])
        self.cls = Head(c, rngs=rngs) if c.cls or c.labels else None

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        *,
        types: jax.Array | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
        precision: ops.Precision = "exact",
    ) -> tuple[jax.Array, None]:
        """To be traced: int32 `tokens [B, T]` -> states `[B, T, E]`, and no cache.

        Args:
            positions: `[B, T]`, 0, 1, ... in each row, then -1 for padding, whose states mean nothing.
            types: int32 `[B, T]`, which row of `token_types` a token gets: 1 in the second of two texts; None: the
                first. A model without that tensor takes no notice of them.
            dtype: what activations are computed in. Norms, RoPE, softmax and sums stay float32.
            precision: of the products with weights and of attention, see `ops.Precision`.
        """
        c, length = self.config, tokens.shape[1]
        with jax.named_scope("token_embd"):
            x = self.token_embd(tokens, dtype)
            if self.token_types is not None:
                last = self.config.token_types - 1
                x = x + self.token_types(jnp.zeros(1, jnp.int32) if types is None else jnp.minimum(types, last), dtype)
            if self.position_embd is not None:
                x = x + self.position_embd(jnp.maximum(positions, 0), dtype)
            x = self.token_embd_norm(x)
        turn = None if c.rope is None else rotation(c.rope, positions, None)
        bias = None if c.alibi is None else alibi(c.head_count, length, c.alibi)
        for i, block in enumerate(self.blk):
            with jax.named_scope(f"blk.{i}"):
                x = block(x, positions, turn, bias, precision)
        return x, None


class RelativeBias(nnx.Module):
    """A tensor `[buckets, heads]`, what distances add to scores."""

    def __init__(self, count: int, heads: int) -> None:
        self.weight: nnx.Variable = nnx.Param(jnp.zeros((count, heads)))

    def __call__(self, length: int) -> jax.Array:
        """float32 `[heads, length, length]`."""
        weight = self.weight.get_value()
        return weight.astype(jnp.float32)[buckets(length, weight.shape[0])].transpose(2, 0, 1)


class T5Block(nnx.Module):
    """A block of T5's encoder, `enc.blk.N`: `h = x + attention(attn_norm(x)); y = h + feed_forward(ffn_norm(h))`."""

    def __init__(self, config: EncoderConfig, index: int, *, rngs: nnx.Rngs | None) -> None:
        c = self.config = config
        for name, layer in _layers(c, rngs).items():
            setattr(self, name, layer)
        self.attn_o = Linear(c.head_count * c.value_length, c.embedding_length, bias=False, rngs=rngs)
        self.attn_norm = RMSNorm(c.embedding_length, c.norm_eps)
        self.ffn_norm = RMSNorm(c.embedding_length, c.norm_eps)
        own = index in c.relative_blocks
        self.attn_rel_b = RelativeBias(c.relative_buckets, c.head_count) if own else None

    def __call__(self, x: jax.Array, positions: jax.Array, bias: jax.Array, precision: ops.Precision) -> jax.Array:
        """`x [B, T, E]` -> `[B, T, E]`; `bias [H, T, T]` is the first block's."""
        c = self.config
        with jax.named_scope("attention"):
            qkv = c.projection(self, self.attn_norm(x), c.lengths, precision)
            bias = bias if self.attn_rel_b is None else self.attn_rel_b(x.shape[1])
            h = x + self.attn_o(_attended(c, qkv, positions, None, bias, precision), precision)
        with jax.named_scope("feed_forward"):
            return h + c.feed_forward(self, self.ffn_norm(h), precision)


class Stack(nnx.Module):
    """The tensors that T5's files call `enc`."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs | None) -> None:
        self.blk = nnx.List([T5Block(config, i, rngs=rngs) for i in range(config.block_count)])
        self.output_norm = RMSNorm(config.embedding_length, config.norm_eps)


class T5Encoder(_Encoder):
    """The encoder of T5 alone; `encoder.enc.blk[3].attn_q.weight` is the tensor `enc.blk.3.attn_q.weight`.

    Takes what `Encoder` takes.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs | None) -> None:
        c = self.config = config
        self.companions: Companions | None = Companions()
        self.token_embd = Embedding(c.vocab_size, c.embedding_length, rngs=rngs)
        self.enc = Stack(c, rngs=rngs)
        self.cls = None

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        *,
        types: jax.Array | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
        precision: ops.Precision = "exact",
    ) -> tuple[jax.Array, None]:
        """As `Encoder.hidden`."""
        with jax.named_scope("token_embd"):
            x = self.token_embd(tokens, dtype)
        first = self.enc.blk[0].attn_rel_b
        assert first is not None  # the configuration's `relative_blocks` begin with 0
        bias = first(tokens.shape[1])
        for i, block in enumerate(self.enc.blk):
            with jax.named_scope(f"enc.blk.{i}"):
                x = block(x, positions, bias, precision)
        return self.enc.output_norm(x), None


@partial(jax.jit, static_argnums=0)
def _whole(graphdef: nnx.GraphDef, state: nnx.State, tokens: jax.Array) -> jax.Array:
    model: _Encoder = nnx.merge(graphdef, state)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    return model.hidden(tokens, positions)[0].astype(jnp.float32)
