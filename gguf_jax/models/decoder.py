"""`Decoder`: a decoder-only transformer whose parameter paths are GGUF's tensor names."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gguf_jax import ops
from gguf_jax.formats import GGMLType
from gguf_jax.models.config import DecoderConfig
from gguf_jax.nn import kv_cache
from gguf_jax.nn.kv_cache import DEFAULT_CACHE_TYPE, CacheType, KVCache, cache_types
from gguf_jax.nn.linear import Embedding, Linear, RMSNorm, gated, together
from gguf_jax.nn.rope import RopePairing, rotation
from gguf_jax.quantized_array import Weight

Rotation = tuple[jax.Array, jax.Array]
Rows = tuple[Weight, Weight]
"""Keys and values of one block, `[B, G, S, D]` each."""


class RopeFreqs(nnx.Module):
    """The tensor `rope_freqs.weight [rope.dimension // 2]`: a divisor for every frequency (Llama 3)."""

    def __init__(self, pairs: int) -> None:
        self.weight: nnx.Variable = nnx.Param(jnp.ones(pairs))


class Block(nnx.Module):
    """One transformer block, `blk.N`."""

    def __init__(self, config: DecoderConfig, index: int, *, rngs: nnx.Rngs | None) -> None:
        c = config
        self.config, self.window = config, config.windows[index]
        self.attn_norm = RMSNorm(c.embedding_length, c.norm_eps)
        self.attn_q = Linear(c.embedding_length, c.head_count * c.key_length, bias=c.attn_bias, rngs=rngs)
        self.attn_k = Linear(c.embedding_length, c.head_count_kv * c.key_length, bias=c.attn_bias, rngs=rngs)
        self.attn_v = Linear(c.embedding_length, c.head_count_kv * c.value_length, bias=c.attn_bias, rngs=rngs)
        self.attn_q_norm = RMSNorm(c.key_length, c.norm_eps) if c.qk_norm else None
        self.attn_k_norm = RMSNorm(c.key_length, c.norm_eps) if c.qk_norm else None
        self.attn_output = Linear(c.head_count * c.value_length, c.embedding_length, bias=c.attn_output_bias, rngs=rngs)
        self.ffn_norm = RMSNorm(c.embedding_length, c.norm_eps)
        self.ffn_gate = Linear(c.embedding_length, c.feed_forward_length, bias=c.ffn_bias, rngs=rngs)
        self.ffn_up = Linear(c.embedding_length, c.feed_forward_length, bias=c.ffn_bias, rngs=rngs)
        self.ffn_down = Linear(c.feed_forward_length, c.embedding_length, bias=c.ffn_bias, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        turn: Rotation,
        past: Rows | None,
        span: int | None,
        precision: ops.Precision,
    ) -> tuple[jax.Array, Rows]:
        """`x [B, T, E]` -> `[B, T, E]` and this block's keys and values (the cache's, when there was one)."""
        with jax.named_scope("attention"):
            attended, kv = self._attention(self.attn_norm(x), positions, turn, past, span, precision)
            x = x + attended
        with jax.named_scope("feed_forward"):
            h = self.ffn_norm(x)
            return x + self.ffn_down(gated(h, self.ffn_gate, self.ffn_up, precision), precision), kv

    def _attention(
        self,
        x: jax.Array,
        positions: jax.Array,
        turn: Rotation,
        past: Rows | None,
        span: int | None,
        precision: ops.Precision,
    ) -> tuple[jax.Array, Rows]:
        c = self.config
        batch, length, _ = x.shape
        q, k, v = together(x, (self.attn_q, self.attn_k, self.attn_v), precision)
        q = q.reshape(batch, length, c.head_count, c.key_length)
        k = k.reshape(batch, length, c.head_count_kv, c.key_length)
        v = v.reshape(batch, length, c.head_count_kv, c.value_length)
        if self.attn_q_norm is not None and self.attn_k_norm is not None:
            q, k = self.attn_q_norm(q), self.attn_k_norm(k)
        q, k = ops.rotate((q, k), *turn, interleaved=c.rope.pairing is RopePairing.INTERLEAVED)
        if past is None:
            kv = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)  # [B, T, G, D] -> [B, G, T, D]
            span = None
        else:
            kv = kv_cache.write(past[0], k, positions), kv_cache.write(past[1], v, positions)
        out = ops.attention(
            q, *kv, positions, scale=c.attention_scale, window=self.window, span=span, precision=precision
        )
        return self.attn_output(out.reshape(batch, length, c.head_count * c.value_length), precision), kv


@dataclass(eq=False)
class Companions:
    """What rides on a model without being part of what it computes: equal only to itself."""

    metadata: Mapping[str, Any] | None = None
    tokenizer: Any = None
    cache_type: CacheType | tuple[CacheType, CacheType] = DEFAULT_CACHE_TYPE


class Decoder(nnx.Module):
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
        self.rope_freqs = RopeFreqs(c.rope.dimension // 2) if c.rope_freqs else None
        self.blk = nnx.List([Block(c, i, rngs=rngs) for i in range(c.block_count)])
        self.output_norm = RMSNorm(c.embedding_length, c.norm_eps)
        untied = not c.tied_output
        self.output = Linear(c.embedding_length, c.vocab_size, bias=c.output_bias, rngs=rngs) if untied else None

    @property
    def metadata(self) -> Mapping[str, Any] | None:
        """The metadata of the file that the model was loaded from."""
        return self.companions.metadata if self.companions else None

    @metadata.setter
    def metadata(self, value: Mapping[str, Any] | None) -> None:
        self._accompany(metadata=value)

    @property
    def tokenizer(self) -> Any:
        """The file's tokenizer, when the model was loaded by `gguf_jax.load`."""
        return self.companions.tokenizer if self.companions else None

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        self._accompany(tokenizer=value)

    @property
    def cache_type(self) -> CacheType | tuple[CacheType, CacheType]:
        """What an `Engine` that is not told otherwise keeps keys and values as (see `nn.kv_cache.CACHE_TYPES`)."""
        return self.companions.cache_type if self.companions else DEFAULT_CACHE_TYPE

    @cache_type.setter
    def cache_type(self, value: CacheType | tuple[CacheType, CacheType]) -> None:
        self._accompany(cache_type=cache_types(value))

    def _accompany(self, **changes: Any) -> None:
        self.companions = replace(self.companions or Companions(), **changes)

    def structure(self) -> Decoder:
        """The same variables without the companions: models of one structure then share compiled programs, and the
        cache of programs keeps no model's tokenizer alive."""
        bare = copy.copy(self)
        vars(bare)["companions"] = None  # past flax's check, which forbids assignments to a model that jit closes over
        return bare

    def __call__(self, tokens: Any) -> jax.Array:
        """Logits of whole sequences, float32 `[B, T, vocab]`, for token ids `tokens [B, T]`.

        Compiled once for each shape of `tokens`; usable inside jit, grad and vmap. For text one token after the other
        use `gguf_jax.generate`, which keeps a cache.

        Raises:
            ValueError: `tokens` are no integers `[B, T]`, or (when they are on the host) an id is not in the
                vocabulary.
        """
        if not isinstance(tokens, jax.Array):
            tokens = np.asarray(tokens)
            if tokens.size and np.issubdtype(tokens.dtype, np.integer):
                self._check_ids(tokens)
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"tokens: expected integers [B, T], found {tokens.dtype} {list(tokens.shape)}")
        graphdef, state = nnx.split(self.structure())
        return _whole(graphdef, state, jnp.asarray(tokens, jnp.int32))

    def _check_ids(self, tokens: np.ndarray) -> None:
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.config.vocab_size:
            wrong = low if low < 0 else high
            raise ValueError(f"tokens: expected ids from 0 to {self.config.vocab_size - 1}, found {wrong}")

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
        x, turn = self.start(tokens, positions, dtype)
        ks, vs = [], []
        for i, block in enumerate(self.blk):
            with jax.named_scope(f"blk.{i}"):
                past = None if cache is None else (cache.k[i], cache.v[i])
                x, (k, v) = block(x, positions, turn, past, span, precision)
            ks.append(k)
            vs.append(v)
        return self.output_norm(x), KVCache(tuple(ks), tuple(vs))

    def start(
        self, tokens: jax.Array, positions: jax.Array, dtype: jax.typing.DTypeLike = jnp.float32
    ) -> tuple[jax.Array, Rotation]:
        """What the blocks begin with: `x [B, T, E]`, and what turns queries and keys at `positions [B, T]`."""
        with jax.named_scope("token_embd"):
            x = self.token_embd(tokens, dtype)
        factors = None if self.rope_freqs is None else self.rope_freqs.weight.get_value()
        return x, rotation(self.config.rope, positions, factors)

    def logits(self, hidden: jax.Array, precision: ops.Precision = "exact") -> jax.Array:
        """`hidden [..., E]` -> float32 `[..., vocab]`."""
        with jax.named_scope("output"):
            output = self.token_embd.attend if self.output is None else self.output
            y = output(hidden, precision)
            return y.astype(jnp.float32)

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


@partial(jax.jit, static_argnums=0)
def _whole(graphdef: nnx.GraphDef, state: nnx.State, tokens: jax.Array) -> jax.Array:
    model: Decoder = nnx.merge(graphdef, state)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    hidden, _ = model.hidden(tokens, positions)
    return model.logits(hidden)
