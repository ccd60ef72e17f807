"""Modules and functions that models are made of. They know shapes; they know neither files nor tokens' text."""

from gguf_jax.nn.kv_cache import KVCache
from gguf_jax.nn.linear import Embedding, LayerNorm, Linear, RMSNorm
from gguf_jax.nn.param import PackedParam, variable
from gguf_jax.nn.rope import RopeConfig, RopePairing, YarnConfig
from gguf_jax.nn.ssm import StateCache

Cache = KVCache | StateCache
"""What a model keeps of the tokens before: one of these, which is what generation is handed and hands on."""

__all__ = [
    "Cache",
    "Embedding",
    "KVCache",
    "LayerNorm",
    "Linear",
    "PackedParam",
    "RMSNorm",
    "RopeConfig",
    "RopePairing",
    "StateCache",
    "YarnConfig",
    "variable",
]
