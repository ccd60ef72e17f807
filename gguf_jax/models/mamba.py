"""`Mamba`: a decoder of state-space layers, Mamba and Mamba 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gguf_jax import ops
from gguf_jax.models.companions import Accompanied, Companions, checked_ids, whole_logits
from gguf_jax.nn.kv_cache import CacheType, cache_types
from gguf_jax.nn.linear import Embedding, Linear, RMSNorm
from gguf_jax.nn.ssm import StateCache, causal_conv, selective_scan
from gguf_jax.quantized_array import QuantizedArray


@dataclass(frozen=True)
class MambaConfig:
    """Shape and options.

    Attributes:
        conv_kernel: inputs that the convolution sees.
        inner_size: elements of a position inside of a layer, of all heads together.
        state_size: elements of the state for each of those.
        time_step_rank: of Mamba, what time steps are made of; of Mamba 2, the number of heads, each with a step.
        group_count: of Mamba 2, how many groups of heads share what reads and writes the state; None: Mamba.
        norm_vector: of Mamba 2 with one group, whose norm's weight is a vector in the file: quantizers leave out what
            is 1 at the end of ggml's dimensions.
        dt_b_c_rms: of Mamba, time steps and what reads and writes the state are normalized.
        tied_output: the output projection is the token embedding.
    """

    architecture: str
    vocab_size: int
    context_length: int
    block_count: int
    embedding_length: int
    conv_kernel: int
    inner_size: int
    state_size: int
    time_step_rank: int
    norm_eps: float
    group_count: int | None = None
    norm_vector: bool = False
    dt_b_c_rms: bool = False
    tied_output: bool = False

    @property
    def head_count(self) -> int:
        """Heads with a time step each."""
        return self.inner_size if self.group_count is None else self.time_step_rank

    @property
    def conv_length(self) -> int:
        """Channels of the convolution: Mamba 2's makes b and c as well."""
        return self.inner_size + 2 * (self.group_count or 0) * self.state_size


class Conv(nnx.Module):
    """`ssm_conv1d`: `weight [C, K]` and `bias [C]`."""

    def __init__(self, channels: int, taps: int) -> None:
        self.weight: nnx.Variable = nnx.Param(jnp.zeros((channels, taps)))
        self.bias: nnx.Variable = nnx.Param(jnp.zeros(channels))


class TimeStepBias(nnx.Module):
    """Mamba 2's `ssm_dt`, which is a bias alone."""

    def __init__(self, heads: int) -> None:
        self.bias: nnx.Variable = nnx.Param(jnp.zeros(heads))


class GroupNorm(nnx.Module):
    """Mamba 2's `ssm_norm`: an RMS norm of each group, `weight [groups, length]`, or `[length]` of one."""

    def __init__(self, shape: tuple[int, ...], eps: float) -> None:
        self.weight: nnx.Variable = nnx.Param(jnp.ones(shape))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, T, groups * length]`."""
        weight = jnp.atleast_2d(_floats(self.weight))
        rows = x.reshape(*x.shape[:-1], *weight.shape)
        return (ops.rms_norm(rows, jnp.ones(weight.shape[1]), eps=self.eps) * weight).reshape(x.shape)


def _floats(variable: nnx.Variable) -> jax.Array:
    """A small weight that is added or multiplied element by element; files have it in F32."""
    value = variable.get_value()
    return (value.dequantize() if isinstance(value, QuantizedArray) else value).astype(jnp.float32)


class MambaBlock(nnx.Module):
    """`blk.N`: `y = x + layer(attn_norm(x))`."""

    def __init__(self, config: MambaConfig, *, rngs: nnx.Rngs | None) -> None:
        c = self.config = config
        heads, old = c.head_count, c.group_count is None
        self.attn_norm = RMSNorm(c.embedding_length, c.norm_eps)
        rows = 2 * c.inner_size if old else c.inner_size + c.conv_length + heads
        self.ssm_in = Linear(c.embedding_length, rows, rngs=rngs)
        self.ssm_conv1d = Conv(c.conv_length, c.conv_kernel)
        self.ssm_x = Linear(c.inner_size, c.time_step_rank + 2 * c.state_size, rngs=rngs) if old else None
        self.ssm_dt = Linear(c.time_step_rank, heads, bias=True, rngs=rngs) if old else TimeStepBias(heads)
        self.ssm_a: nnx.Variable = nnx.Param(-jnp.ones((heads, c.state_size if old else 1)))
        self.ssm_d: nnx.Variable = nnx.Param(jnp.ones(heads if old else (heads, 1)))
        shape = (c.inner_size,) if c.norm_vector else (c.group_count or 1, c.inner_size // (c.group_count or 1))
        self.ssm_norm = None if old else GroupNorm(shape, c.norm_eps)
        self.ssm_out = Linear(c.inner_size, c.embedding_length, rngs=rngs)

    def __call__(
        self, x: jax.Array, positions: jax.Array, past: tuple[jax.Array, jax.Array], precision: ops.Precision
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """`x [B, T, E]` -> `[B, T, E]`, and what the block keeps."""
        layer = self._layer if self.config.group_count is None else self._layer_2
        y, kept = layer(self.attn_norm(x), positions, past, precision)
        return x + self.ssm_out(y.astype(x.dtype), precision), kept

    def _convolved(self, x: jax.Array, positions: jax.Array, past: jax.Array) -> tuple[jax.Array, jax.Array]:
        weight, bias = _floats(self.ssm_conv1d.weight), _floats(self.ssm_conv1d.bias)
        y, kept = causal_conv(x, weight, bias, positions, past)
        return jax.nn.silu(y), kept

    def _layer(
        self, x: jax.Array, positions: jax.Array, past: tuple[jax.Array, jax.Array], precision: ops.Precision
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Mamba: heads of one element."""
        c = self.config
        inner, gate = jnp.split(self.ssm_in(x, precision), 2, axis=-1)
        conv, kept = self._convolved(inner, positions, past[0])
        assert self.ssm_x is not None
        assert isinstance(self.ssm_dt, Linear)
        made = self.ssm_x(conv.astype(x.dtype), precision)
        parts = jnp.split(made, (c.time_step_rank, c.time_step_rank + c.state_size), axis=-1)
        if c.dt_b_c_rms:
            parts = [ops.rms_norm(part, jnp.ones(part.shape[-1]), eps=c.norm_eps) for part in parts]
        dt, b, to_y = parts[0], parts[1][:, :, None], parts[2][:, :, None]
        step = self.ssm_dt(dt, precision)
        y, state = selective_scan(conv[..., None], step, _floats(self.ssm_a), b, to_y, positions, past[1])
        y = y[..., 0] + conv * _floats(self.ssm_d)
        return y * jax.nn.silu(gate.astype(jnp.float32)), (kept, state)

    def _layer_2(
        self, x: jax.Array, positions: jax.Array, past: tuple[jax.Array, jax.Array], precision: ops.Precision
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Mamba 2: larger heads, and b and c from the convolution."""
        c = self.config
        assert c.group_count is not None
        assert self.ssm_norm is not None
        assert isinstance(self.ssm_dt, TimeStepBias)
        made = self.ssm_in(x, precision)
        gate, rows, dt = jnp.split(made, (c.inner_size, c.inner_size + c.conv_length), axis=-1)
        conv, kept = self._convolved(rows, positions, past[0])
        read = c.inner_size + c.group_count * c.state_size
        inner, b, to_y = jnp.split(conv, (c.inner_size, read), axis=-1)
        b, to_y = (each.reshape(*x.shape[:2], c.group_count, c.state_size) for each in (b, to_y))
        heads = inner.reshape(*x.shape[:2], c.head_count, c.inner_size // c.head_count)
        step = dt.astype(jnp.float32) + _floats(self.ssm_dt.bias)
        y, state = selective_scan(heads, step, _floats(self.ssm_a), b, to_y, positions, past[1])
        y = (y + heads * _floats(self.ssm_d)).reshape(*x.shape[:2], c.inner_size)
        return self.ssm_norm(y * jax.nn.silu(gate.astype(jnp.float32))), (kept, state)


class Mamba(Accompanied):
    """A decoder whose blocks keep a state of one size instead of keys and values; `blk[3].ssm_in.weight` is the
    variable of the tensor `blk.3.ssm_in.weight`. It is asked what a `Decoder` is asked.

    Args:
        config: its shape and options.
        rngs: where random weights come from; None: zeros, for the caller to fill.
    """

    def __init__(self, config: MambaConfig, *, rngs: nnx.Rngs | None) -> None:
        c = self.config = config
        self.companions: Companions | None = Companions()
        self.token_embd = Embedding(c.vocab_size, c.embedding_length, rngs=rngs)
        self.blk = nnx.List([MambaBlock(c, rngs=rngs) for _ in range(c.block_count)])
        self.output_norm = RMSNorm(c.embedding_length, c.norm_eps)
        self.output = None if c.tied_output else Linear(c.embedding_length, c.vocab_size, rngs=rngs)

    def __call__(self, tokens: Any) -> jax.Array:
        """Logits of whole sequences, float32 `[B, T, vocab]`: as `Decoder`'s."""
        return whole_logits(self, checked_ids(tokens, self.config.vocab_size))

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        cache: StateCache | None = None,
        *,
        span: int | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
        precision: ops.Precision = "exact",
    ) -> tuple[jax.Array, StateCache]:
        """The blocks, to be traced: int32 `tokens [B, T]` at `positions [B, T]` -> normed `[B, T, E]` and the states
        after them.

        Args:
            positions: index of each token in its sequence; -1 marks padding behind the tokens.
            cache: states of earlier positions; without one the tokens must be all there is, at 0..T-1.
            span: of no use here.
            dtype: what activations are computed in. Norms, convolution and scan stay float32.
            precision: of the products with weights, see `ops.Precision`.
        """
        if cache is None:
            cache = self.make_cache(tokens.shape[0], tokens.shape[1])
        with jax.named_scope("token_embd"):
            x = self.token_embd(tokens, dtype)
        kept = []
        for i, block in enumerate(self.blk):
            with jax.named_scope(f"blk.{i}"):
                x, each = block(x, positions, (cache.conv[i], cache.ssm[i]), precision)
            kept.append(each)
        length = jnp.maximum(positions.max(1) + 1, jnp.where(positions[:, 0] == 0, 0, cache.length))
        conv, ssm = zip(*kept, strict=True)
        return self.output_norm(x), StateCache(conv, ssm, length)

    def logits(self, hidden: jax.Array, precision: ops.Precision = "exact") -> jax.Array:
        """`hidden [..., E]` -> float32 `[..., vocab]`."""
        with jax.named_scope("output"):
            output = self.token_embd.attend if self.output is None else self.output
            return output(hidden, precision).astype(jnp.float32)

    def make_cache(
        self, batch: int, length: int, cache_type: CacheType | tuple[CacheType, CacheType] = "f32"
    ) -> StateCache:
        """States of `batch` sequences that have not begun, of any length, float32 whatever `cache_type` (of keys and
        values, which there are none of)."""
        cache_types(cache_type)
        c = self.config
        conv = jnp.zeros((batch, c.conv_kernel - 1, c.conv_length))
        ssm = jnp.zeros((batch, c.head_count, c.inner_size // c.head_count, c.state_size))
        blocks = range(c.block_count)
        # arrays of their own, since a cache is donated
        return StateCache(tuple(conv + 0 for _ in blocks), tuple(ssm + 0 for _ in blocks), jnp.zeros(batch, jnp.int32))
