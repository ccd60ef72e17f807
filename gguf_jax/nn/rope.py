"""Rotary position embedding: both pairings, linear and YaRN scaling, per-frequency factors.

For rotary dimension n and pair i, the angle at position p is `p * frequency[i]`, with

    extrapolated[i] = base^(-2i/n) / factors[i]          (factors: the tensor rope_freqs, 1 without it; Llama 3)
    interpolated[i] = extrapolated[i] / factor
    frequency[i]    = interpolated (1 - m[i]) + extrapolated m[i]

where m is 0 without scaling by parts (linear) and, for YaRN (Peng et al. 2023, arXiv:2309.00071), a ramp from 1 to 0
between the dimensions that turn `beta_fast` and `beta_slow` times in the original context. YaRN also scales cos and
sin by `1 + 0.1 ln(factor)`, or by a quotient of two such numbers.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


class RopePairing(enum.Enum):
    """Which two elements turn together."""

    INTERLEAVED = "interleaved"  # (0, 1), (2, 3), ...: ggml's NORM
    HALVES = "halves"  # (0, n/2), (1, n/2 + 1), ...: ggml's NEOX


@dataclass(frozen=True)
class YarnConfig:
    """Parameters of YaRN's ramp; `original_context` in tokens. `mscale` and `mscale_all_dim`: cos and sin count
    `(1 + 0.1 mscale ln(factor)) / (1 + 0.1 mscale_all_dim ln(factor))` times."""

    original_context: int
    ext_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0


@dataclass(frozen=True)
class RopeConfig:
    """How positions turn queries and keys. `dimension`: rotated elements of a head (the rest passes through);
    `factor`: context extension (1: none); `attention_factor`: extra factor on cos and sin."""

    dimension: int
    base: float
    pairing: RopePairing
    factor: float = 1.0
    yarn: YarnConfig | None = None
    attention_factor: float = 1.0


def _ramp(config: RopeConfig, yarn: YarnConfig) -> np.ndarray:
    """Share of the extrapolated frequency per pair, float64 `[dimension // 2]`."""

    def turns_at(beta: float) -> float:
        """The (fractional) pair that turns `beta` times in the original context."""
        return config.dimension * math.log(yarn.original_context / (beta * 2 * math.pi)) / (2 * math.log(config.base))

    low = max(0, math.floor(turns_at(yarn.beta_fast)))
    high = min(config.dimension - 1, math.ceil(turns_at(yarn.beta_slow)))
    pair = np.arange(config.dimension // 2)
    return (1 - np.clip((pair - low) / max(0.001, high - low), 0, 1)) * yarn.ext_factor


def frequencies(config: RopeConfig) -> np.ndarray:
    """Angle per position and pair, before `rope_freqs`: float32 `[dimension // 2]`, on the host."""
    extrapolated = config.base ** (-np.arange(0, config.dimension, 2, dtype=np.float64) / config.dimension)
    mix = _ramp(config, config.yarn) if config.yarn else 0.0
    return (extrapolated / config.factor * (1 - mix) + extrapolated * mix).astype(np.float32)


def magnitude(config: RopeConfig) -> float:
    """Factor on cos and sin."""
    yarn = config.yarn
    if yarn is None or yarn.ext_factor == 0 or config.factor <= 1:
        return config.attention_factor
    log = 0.1 * math.log(config.factor)
    return config.attention_factor * (1 + yarn.mscale * log) / (1 + yarn.mscale_all_dim * log)


def rotation(config: RopeConfig, positions: jax.Array, factors: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """cos and sin, float32 `[B, T, dimension // 2]`, for int32 `positions [B, T]`; `factors`: the tensor
    `rope_freqs.weight [dimension // 2]` or None."""
    frequency = jnp.asarray(frequencies(config))
    if factors is not None:
        frequency = frequency / factors.astype(jnp.float32)
    angle = positions[..., None].astype(jnp.float32) * frequency
    return jnp.cos(angle) * magnitude(config), jnp.sin(angle) * magnitude(config)
