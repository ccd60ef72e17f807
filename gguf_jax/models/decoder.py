"""`Decoder`: a decoder-only transformer whose parameter paths are GGUF's tensor names."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gguf_jax import ops
from gguf_jax.formats import GGMLType
from gguf_jax.models.companions import Accompanied, Companions, checked_ids, whole_logits
from gguf_jax.models.config import DecoderConfig, QKNorm, Temperature
from gguf_jax.nn import kv_cache
from gguf_jax.nn.kv_cache import CacheType, KVCache, cache_types
from gguf_jax.nn.linear import Embedding, LayerNorm, Linear, RMSNorm
from gguf_jax.nn.rope import RopeConfig, RopePairing, rotation
from gguf_jax.quantized_array import Weight

Rotation = tuple[jax.Array, jax.Array]
Rows = tuple[Weight, Weight]
"""Keys and values of one block, `[B, G, S, D]` each."""


class RopeFreqs(nnx.Module):
    """A tensor `[rope.dimension // 2]`, a divisor for every frequency: `rope_freqs.weight` (Llama 3), or one of
    `rope_factors_long.weight` and `rope_factors_short.weight` (Phi 3)."""

    def __init__(self, pairs: int) -> None:
        self.weight: nnx.Variable = nnx.Param(jnp.ones(pairs))


class Sinks(nnx.Module):
    """`attn_sinks.weight [heads]`: a score of each head that takes its part of the softmax and has no value."""

    def __init__(self, heads: int) -> None:
        self.weight: nnx.Variable = nnx.Param(jnp.zeros(heads))


class Block(nnx.Module):
    """One transformer block, `blk.N`."""

    def __init__(self, config: DecoderConfig, index: int, *, rngs: nnx.Rngs | None) -> None:
        c = config
        self.config, self.window = config, config.windows[index]
        lengths = self._lengths()
        layers = c.projection.layers(c.embedding_length, lengths, c.attn_bias, rngs)
        self.feed_forward = c.feed_forward_of(index)
        layers |= self.feed_forward.layers(c.embedding_length, c.feed_forward_length, c.ffn_bias, rngs)
        for name, layer in layers.items():
            setattr(self, name, layer)
        merged = c.projection.merged_length(c.head_count, c.value_length)
        self.attn_output = Linear(merged, c.embedding_length, bias=c.attn_output_bias, rngs=rngs)
        self.attn_q_norm = head_norm(c, c.head_count)
        self.attn_k_norm = head_norm(c, c.head_count_kv)
        self.attn_norm = norm(c) if c.attn_norm else None
        self.attn_norm_2 = norm(c) if c.attn_norm_2 else None
        self.post_attention_norm = norm(c) if c.attn_post_norm else None
        self.post_ffw_norm = norm(c) if c.ffn_post_norm else None
        setattr(self, c.ffn_norm_name, nnx.data(norm(c)) if c.ffn_norm else None)
        self.attn_sinks = Sinks(c.head_count) if c.attn_sinks else None

    def _lengths(self) -> tuple[int, int, int]:
        """Elements of a position's queries, keys and values."""
        c = self.config
        return c.head_count * c.key_length, c.head_count_kv * c.key_length, c.head_count_kv * c.value_length

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        turn: Rotation | None,
        past: Rows | None,
        span: int | None,
        precision: ops.Precision,
    ) -> tuple[jax.Array, Rows]:
        """`x [B, T, E]` -> `[B, T, E]` and this block's keys and values (the cache's, when there was one)."""
        c = self.config
        with jax.named_scope("attention"):
            normed = _by(self.attn_norm, x)
            sees = normed if self.attn_norm_2 is None else self.attn_norm_2(x)
            attended, kv = self._attention(sees, positions, turn, past, span, precision)
            attended = _by(self.post_attention_norm if c.attn_post_norm else None, attended)
            h = x + _scaled(attended, c.residual_scale)
        with jax.named_scope("feed_forward"):
            ffn_norm = getattr(self, c.ffn_norm_name)
            shared = c.parallel and ffn_norm is None
            sees = normed if shared else _by(ffn_norm, x if c.parallel else h)
            fed = _by(self.post_ffw_norm, self.feed_forward(self, sees, precision, positions))
            return h + _scaled(fed, c.residual_scale), kv

    def _attention(
        self,
        x: jax.Array,
        positions: jax.Array,
        turn: Rotation | None,
        past: Rows | None,
        span: int | None,
        precision: ops.Precision,
    ) -> tuple[jax.Array, Rows]:
        c = self.config
        batch, length, _ = x.shape
        q, k, v = c.projection(self, x, self._lengths(), precision)
        if c.qk_norm is QKNorm.ROW:
            q, k = _by(self.attn_q_norm, q), _by(self.attn_k_norm, k)
        q = q.reshape(batch, length, c.head_count, c.key_length)
        k = k.reshape(batch, length, c.head_count_kv, c.key_length)
        v = v.reshape(batch, length, c.head_count_kv, c.value_length)
        if c.qk_norm is not QKNorm.ROW:
            q, k = _by(self.attn_q_norm, q), _by(self.attn_k_norm, k)
        if turn is not None and c.rope is not None:
            q, k = ops.rotate((q, k), *turn, interleaved=c.rope.pairing is RopePairing.INTERLEAVED)
        if past is None:
            kv = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)  # [B, T, G, D] -> [B, G, T, D]
            span = None
        else:
            kv = kv_cache.write(past[0], k, positions), kv_cache.write(past[1], v, positions)
        if c.temperature is not None:
            q = q * temperature(c.temperature, positions)[..., None, None].astype(q.dtype)
        out = ops.attention(
            q,
            *kv,
            positions,
            scale=c.attention_scale,
            softcap=c.attention_softcap,
            sinks=None if self.attn_sinks is None else self.attn_sinks.weight.get_value(),
            window=self.window,
            span=span,
            precision=precision,
        )
        return self.attn_output(c.projection.merged(self, out, precision), precision), kv


def norm(config: DecoderConfig, shape: tuple[int, ...] | None = None) -> RMSNorm | LayerNorm:
    """A norm of the model's kind, over a row or over the last axis of `shape`."""
    c = config
    if c.layer_norm:
        return LayerNorm(shape or (c.embedding_length,), c.norm_eps, bias=c.norm_bias and shape is None)
    return RMSNorm(shape[-1] if shape else c.embedding_length, c.norm_eps)


def head_norm(config: DecoderConfig, heads: int) -> RMSNorm | LayerNorm | None:
    """What `heads` heads of queries or keys are normalized with, if they are."""
    length = config.key_length
    match config.qk_norm:
        case None:
            return None
        case QKNorm.HEAD:
            return norm(config, (length,))
        case QKNorm.HEADS:
            return norm(config, (heads, length))
        case QKNorm.ROW:
            return norm(config, (heads * length,))


def temperature(config: Temperature, positions: jax.Array) -> jax.Array:
    """What queries at int32 `positions [B, T]` are multiplied by: float32 `[B, T]`."""
    steps = jnp.maximum(positions, 0) // config.length  # padding is at -1
    return 1 + config.scale * jnp.log1p(steps.astype(jnp.float32))


def _by(norm: RMSNorm | LayerNorm | None, x: jax.Array) -> jax.Array:
    return x if norm is None else norm(x)


def _scaled(x: jax.Array, scale: float) -> jax.Array:
    return x if scale == 1 else x * scale


class Decoder(Accompanied):
    """The model of a GGUF file, or a fresh one with random weights.

    `decoder.blk[3].attn_q.weight` is the variable of the tensor `blk.3.attn_q.weight`: an `nnx.Param` with a float
    array, or a `PackedParam` with a `QuantizedArray`. The parameters are an ordinary flax tree: `nnx.state(decoder)`,
    `nnx.split`, `jax.tree.map`, `nnx.grad` (over the float leaves) and orbax work on it.

    Args:
        config: its shape and options.
        rngs: where random weights come from; None: zeros, for the caller to fill.
    """

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs | None) -> None:
        c = self.config = config
        self.companions: Companions | None = Companions()
        self.token_embd = Embedding(c.vocab_size, c.embedding_length, rngs=rngs)
        self.position_embd = Embedding(c.context_length, c.embedding_length, rngs=rngs) if c.position_embd else None
        pairs = c.rope.dimension // 2 if c.rope else 0
        self.rope_freqs = RopeFreqs(pairs) if c.rope_freqs else None
        self.rope_factors_long, self.rope_factors_short = (
            RopeFreqs(pairs) if c.rope_factors is not None else None for _ in range(2)
        )
        self.blk = nnx.List([Block(c, i, rngs=rngs) for i in range(c.block_count)])
        self.output_norm = norm(c)
        untied = not c.tied_output
        self.output = Linear(c.embedding_length, c.vocab_size, bias=c.output_bias, rngs=rngs) if untied else None

    def __call__(self, tokens: Any) -> jax.Array:
        """Logits of whole sequences, float32 `[B, T, vocab]`, for token ids `tokens [B, T]`.

        Compiled once for each shape of `tokens`; usable inside jit, grad and vmap. For text one token after the other
        use `gguf_jax.generate`, which keeps a cache.

        Raises:
            ValueError: `tokens` are no integers `[B, T]`, or (when they are on the host) an id is not in the
                vocabulary.
        """
        return whole_logits(self, checked_ids(tokens, self.config.vocab_size))

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        cache: KVCache | None = None,
        *,
        span: int | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
        precision: ops.Precision = "exact",
    ) -> tuple[jax.Array, KVCache]:
        """The blocks, to be traced: int32 `tokens [B, T]` at `positions [B, T]` -> normed `[B, T, E]` and the cache.

        Args:
            positions: index of each token in its sequence; -1 marks padding, which leaves the cache as it is.
            cache: keys and values of earlier positions; without one the tokens must be all there is, at 0..T-1.
            span: static; must exceed every position, so that attention may leave out what lies behind it (see
                `ops.attention_spans`). None: the whole cache.
            dtype: what activations are computed in. Norms, RoPE, softmax and sums stay float32.
            precision: of the products with weights and of attention, see `ops.Precision`.
        """
        x, turns = self.start(tokens, positions, dtype, None if cache is None else cache.k[0].shape[2])
        ks, vs = [], []
        for i, block in enumerate(self.blk):
            with jax.named_scope(f"blk.{i}"):
                past = None if cache is None else (cache.k[i], cache.v[i])
                x, (k, v) = block(x, positions, turns[i], past, span, precision)
            ks.append(k)
            vs.append(v)
        return self.output_norm(x), KVCache(tuple(ks), tuple(vs))

    def start(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        dtype: jax.typing.DTypeLike = jnp.float32,
        length: int | None = None,
    ) -> tuple[jax.Array, list[Rotation | None]]:
        """What the blocks begin with: `x [B, T, E]`, and for each what turns queries and keys at `positions [B, T]`.

        `length` is how long the sequences may become; default: T. What several blocks share is computed once.
        """
        c, freqs = self.config, self.rope_freqs
        with jax.named_scope("token_embd"):
            x = _scaled(self.token_embd(tokens, dtype), c.embedding_scale)
            if self.position_embd is not None:
                x = x + self.position_embd(jnp.maximum(positions, 0), dtype)
        if c.rope_factors is not None:
            longer = (length or tokens.shape[1]) > c.rope_factors
            freqs = self.rope_factors_long if longer else self.rope_factors_short
        factors = None if freqs is None else freqs.weight.get_value()
        ropes = [c.rope_of(i) for i in range(c.block_count)]
        turns: dict[RopeConfig, Rotation] = {r: rotation(r, positions, factors) for r in ropes if r is not None}
        return x, [None if rope is None else turns[rope] for rope in ropes]

    def logits(self, hidden: jax.Array, precision: ops.Precision = "exact") -> jax.Array:
        """`hidden [..., E]` -> float32 `[..., vocab]`."""
        with jax.named_scope("output"):
            output = self.token_embd.attend if self.output is None else self.output
            y = _scaled(output(hidden, precision).astype(jnp.float32), self.config.output_scale)
            cap = self.config.output_softcap
            return y if cap is None else cap * jnp.tanh(y / cap)

    def make_cache(
        self, batch: int, length: int, cache_type: CacheType | tuple[CacheType, CacheType] = "f32"
    ) -> KVCache:
        """An empty cache for `batch` sequences of at most `length` positions.

        Args:
            cache_type: of keys and values, or a pair of them: see `nn.kv_cache.CACHE_TYPES`.

        Raises:
            GGUFJaxError: there is no such type, or the heads' size is no multiple of its block.
        """
        c = self.config

        def empty(type: GGMLType, depth: int) -> tuple[Weight, ...]:
            return tuple(kv_cache.buffer(type, batch, c.head_count_kv, length, depth) for _ in range(c.block_count))

        k, v = cache_types(cache_type)
        return KVCache(empty(k, c.key_length), empty(v, c.value_length))
