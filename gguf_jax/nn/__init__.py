"""Modules and functions that models are made of. They know shapes; they know neither files nor tokens' text."""

from gguf_jax.nn.kv_cache import KVCache
from gguf_jax.nn.linear import Embedding, LayerNorm, Linear, RMSNorm
from gguf_jax.nn.param import PackedParam, variable
from gguf_jax.nn.rope import RopeConfig, RopePairing, YarnConfig

__all__ = [
    "Embedding",
    "KVCache",
    "LayerNorm",
    "Linear",
    "PackedParam",
    "RMSNorm",
    "RopeConfig",
    "RopePairing",
    "YarnConfig",
    "variable",
]
