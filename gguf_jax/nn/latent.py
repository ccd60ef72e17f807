"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values of all heads are made of one short row.

    c = kv_a_norm(first `rank` of kv_a_mqa(x)), r = the rest of it, a key's part that is turned, the same for all heads
    key of head h = (r, K_h c), value = V_h c                     K_h [nope, rank], V_h [value, rank]
    query of head h = (its part that is turned, its part that is not)

`Latent` does that. `Absorbed` keeps c and r alone, and has the same result: as `q K_h c = (K_h^T q) c`, every head asks
the one key `(r, c)` with a longer query, and gets a mean of c, of which V_h makes its value. A position then takes
`rope + 2 rank` numbers of a cache rather than `heads * (nope + rope + value)`: of DeepSeek-V3 1/38.

The part that is turned stands first here, in files last: products are the same, and RoPE turns what stands first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gguf_jax.nn.experts import ExpertLinear
from gguf_jax.nn.linear import Linear, RMSNorm
from gguf_jax.nn.projection import Plain
from gguf_jax.ops import Precision


@dataclass(frozen=True)
class _Compressed:
    """What both forms have. Lengths: of a head's part without RoPE, of its part with RoPE, of c, of a head's value;
    `q_rank` of the row that queries are made of, None: they are made of x."""

    heads: int
    nope: int
    rope: int
    rank: int
    value: int
    norm_eps: float
    q_rank: int | None = None

    def layers(
        self, width: int, lengths: tuple[int, int, int], bias: bool, rngs: nnx.Rngs | None
    ) -> dict[str, nnx.Module]:
        """Name -> layer, of a block whose rows have `width` elements; `lengths` and `bias` are of other forms."""
        del lengths, bias
        queries = self.heads * (self.nope + self.rope)
        layers: dict[str, nnx.Module] = {}
        if self.q_rank is None:
            layers["attn_q"] = Linear(width, queries, rngs=rngs)
        else:
            layers["attn_q_a"] = Linear(width, self.q_rank, rngs=rngs)
            layers["attn_q_a_norm"] = RMSNorm(self.q_rank, self.norm_eps)
            layers["attn_q_b"] = Linear(self.q_rank, queries, rngs=rngs)
        layers["attn_kv_a_mqa"] = Linear(width, self.rank + self.rope, rngs=rngs)
        layers["attn_kv_a_norm"] = RMSNorm(self.rank, self.norm_eps)
        return layers

    def _rows(self, block: Any, x: jax.Array, precision: Precision) -> tuple[jax.Array, ...]:
        """`x [B, T, E]` -> of queries the part without RoPE `[B, T, H, nope]` and that with `[B, T, H, rope]`; c
        `[B, T, rank]` and r `[B, T, rope]`."""
        if self.q_rank is None:
            q = block.attn_q(x, precision)
        else:
            q = block.attn_q_b(block.attn_q_a_norm(block.attn_q_a(x, precision)), precision)
        q = q.reshape(*x.shape[:-1], self.heads, self.nope + self.rope)
        c, r = jnp.split(block.attn_kv_a_mqa(x, precision), (self.rank,), axis=-1)
        return q[..., : self.nope], q[..., self.nope :], block.attn_kv_a_norm(c), r


@dataclass(frozen=True)
class Latent(_Compressed, Plain):
    """Keys and values of every head, from `attn_kv_b`; what files of the first year have."""

    def layers(
        self, width: int, lengths: tuple[int, int, int], bias: bool, rngs: nnx.Rngs | None
    ) -> dict[str, nnx.Module]:
        outputs = self.heads * (self.nope + self.value)
        return super().layers(width, lengths, bias, rngs) | {"attn_kv_b": Linear(self.rank, outputs, rngs=rngs)}

    def __call__(
        self, block: Any, x: jax.Array, lengths: tuple[int, int, int], precision: Precision
    ) -> tuple[jax.Array, ...]:
        """`x [B, T, E]` -> queries, keys and values, `[B, T, length]` each."""
        q_nope, q_rope, c, r = self._rows(block, x, precision)
        kv = block.attn_kv_b(c, precision).reshape(*x.shape[:-1], self.heads, self.nope + self.value)
        k_rope = jnp.broadcast_to(r[..., None, :], q_rope.shape)
        q = jnp.concatenate([q_rope, q_nope], axis=-1)
        k = jnp.concatenate([k_rope, kv[..., : self.nope]], axis=-1)
        each = zip((q, k, kv[..., self.nope :]), lengths, strict=True)
        return tuple(y.reshape(*x.shape[:-1], length) for y, length in each)


@dataclass(frozen=True)
class Absorbed(_Compressed):
    """One key `(r, c)` and one value c for all heads; `attn_k_b` holds the K_h transposed, `attn_v_b` the V_h."""

    def layers(
        self, width: int, lengths: tuple[int, int, int], bias: bool, rngs: nnx.Rngs | None
    ) -> dict[str, nnx.Module]:
        return super().layers(width, lengths, bias, rngs) | {
            "attn_k_b": ExpertLinear(self.heads, self.nope, self.rank, rngs=rngs),
            "attn_v_b": ExpertLinear(self.heads, self.rank, self.value, rngs=rngs),
        }

    def __call__(
        self, block: Any, x: jax.Array, lengths: tuple[int, int, int], precision: Precision
    ) -> tuple[jax.Array, ...]:
        """`x [B, T, E]` -> queries `[B, T, H * (rope + rank)]`, keys `[B, T, rope + rank]`, values `[B, T, rank]`."""
        del lengths
        q_nope, q_rope, c, r = self._rows(block, x, precision)
        asked = block.attn_k_b(q_nope, self._heads(x), precision)  # [B, T, H, rank]
        q = jnp.concatenate([q_rope, asked], axis=-1).reshape(*x.shape[:-1], -1)
        return q, jnp.concatenate([r, c], axis=-1), c

    def merged_length(self, heads: int, value_length: int) -> int:
        """Of what the output projection multiplies."""
        del value_length
        return heads * self.value

    def merged(self, block: Any, out: jax.Array, precision: Precision) -> jax.Array:
        """What attention gives, `[B, T, H, rank]` -> `[B, T, H * value]`."""
        return block.attn_v_b(out, self._heads(out), precision).reshape(*out.shape[:-2], -1)

    def _heads(self, x: jax.Array) -> jax.Array:
        """For every position every head's number, int32 `[B, T, H]`."""
        return jnp.broadcast_to(jnp.arange(self.heads, dtype=jnp.int32), (*x.shape[:2], self.heads))
