"""What a model of any class carries: `Accompanied` is their base."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gguf_jax.nn.kv_cache import DEFAULT_CACHE_TYPE, CacheType, cache_types


@dataclass(eq=False)
class Companions:
    """What rides on a model without being part of what it computes: equal only to itself."""

    metadata: Mapping[str, Any] | None = None
    tokenizer: Any = None
    cache_type: CacheType | tuple[CacheType, CacheType] = DEFAULT_CACHE_TYPE
    adapters: tuple[Any, ...] = ()


class Accompanied(nnx.Module):
    """A model with `companions`, and programs that are compiled without them."""

    companions: Companions | None
    usual_pooling: ClassVar[str] = "last"
    """What makes an embedding of the states of a text's tokens, where its file does not say."""

    @property
    def head(self) -> Any:
        """What makes scores of a text's state, where the model has that: `[B, E]` -> `[B, labels]`."""
        return None

    @property
    def metadata(self) -> Mapping[str, Any] | None:
        """The metadata of the file that the model was loaded from."""
        return self.companions.metadata if self.companions else None

    @metadata.setter
    def metadata(self, value: Mapping[str, Any] | None) -> None:
        self.accompany(metadata=value)

    @property
    def tokenizer(self) -> Any:
        """The file's tokenizer, when the model was loaded by `gguf_jax.load`."""
        return self.companions.tokenizer if self.companions else None

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        self.accompany(tokenizer=value)

    @property
    def cache_type(self) -> CacheType | tuple[CacheType, CacheType]:
        """What an `Engine` that is not told otherwise keeps keys and values as (see `nn.kv_cache.CACHE_TYPES`)."""
        return self.companions.cache_type if self.companions else DEFAULT_CACHE_TYPE

    @cache_type.setter
    def cache_type(self, value: CacheType | tuple[CacheType, CacheType]) -> None:
        self.accompany(cache_type=cache_types(value))

    def accompany(self, **changes: Any) -> None:
        """Changes fields of `companions`."""
        self.companions = replace(self.companions or Companions(), **changes)

    def structure(self) -> Self:
        """The same variables without the companions: models of one structure then share compiled programs, and the
        cache of programs keeps no model's tokenizer alive."""
        bare = copy.copy(self)
        vars(bare)["companions"] = None  # past flax's check, which forbids assignments to a model that jit closes over
        return bare


def checked_ids(tokens: Any, vocab_size: int) -> jax.Array:
    """Token ids as int32 `[B, T]`.

    Raises:
        ValueError: `tokens` are no integers `[B, T]`, or (when they are on the host) an id is not in the vocabulary.
    """
    if not isinstance(tokens, jax.Array):
        tokens = np.asarray(tokens)
        if tokens.size and np.issubdtype(tokens.dtype, np.integer):
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= vocab_size:
                raise ValueError(f"tokens: expected ids from 0 to {vocab_size - 1}, found {low if low < 0 else high}")
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens: expected integers [B, T], found {tokens.dtype} {list(tokens.shape)}")
    return jnp.asarray(tokens, jnp.int32)


def whole_logits(model: Any, tokens: jax.Array) -> jax.Array:
    """Logits `[B, T, vocab]` of whole sequences `tokens [B, T]`, by a program for each structure and shape."""
    graphdef, state = nnx.split(model.structure())
    return _whole(graphdef, state, tokens)


@partial(jax.jit, static_argnums=0)
def _whole(graphdef: nnx.GraphDef, state: nnx.State, tokens: jax.Array) -> jax.Array:
    model: Any = nnx.merge(graphdef, state)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    hidden, _ = model.hidden(tokens, positions)
    return model.logits(hidden)
