"""`Setting`: a model with what every way to drive it needs: static parts of programs, the shape of caches, bounds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import compilation_cache, steps
from gguf_jax.models import Decoder
from gguf_jax.nn import Cache
from gguf_jax.nn.kv_cache import CacheType, cache_types
from gguf_jax.ops import Precision

MIN_CHUNK = 16
"""Shortest prefill that is compiled; others are twice and three times its powers of two, up to the batch size."""

DEFAULT_CONTEXT = 4096
"""Context when none is asked for (and the model was trained for at least as much)."""


class PromptTooLong(GGUFJaxError, ValueError):
    """The prompt does not fit the context."""


def bucket(n: int, low: int, high: int) -> int:
    """The smallest `low * 2**i` that is at least `n`, but no more than `high`."""
    size = low
    while size < n:
        size *= 2
    return min(size, high)


def _memory() -> int:
    """Bytes that JAX's default device has; on the CPU the machine's."""
    stats = jax.devices()[0].memory_stats()
    return stats["bytes_limit"] if stats else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Setting:
    """How a model is run.

    Args:
        model: the decoder; its leaves are taken as they are now.
        ctx_size: positions a sequence may have, prompt and answer; default: what the model was trained for, at most
            `DEFAULT_CONTEXT`.
        batch_size: longest chunk of a prompt that is run at once (a power of two of at least 16; others round up).
        cache_type: of keys and values, or a pair of them: f32, f16, bf16, q8_0 or q4_0, or a dtype; default: what the
            model was loaded with, f16 unless that was chosen.
        dtype: of activations.
        precision: of the products with weights and of attention, `fast` or `exact` (see `ops.Precision`).
    """

    def __init__(
        self,
        model: Decoder,
        *,
        ctx_size: int | None = None,
        batch_size: int = 512,
        cache_type: CacheType | tuple[CacheType, CacheType] | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
        precision: Precision = "fast",
    ) -> None:
        if ctx_size is not None and not 1 <= ctx_size < 2**31:
            raise GGUFJaxError(f"ctx_size: expected from 1 to {2**31 - 1}, found {ctx_size}")
        if batch_size < 1:
            raise GGUFJaxError(f"batch_size: expected at least 1, found {batch_size}")
        compilation_cache.enable()
        self.model = model
        self.config = model.config
        self.ctx_size = ctx_size or min(model.config.context_length, DEFAULT_CONTEXT)
        self.batch_size = bucket(batch_size, MIN_CHUNK, 2**30)
        self.cache_type = cache_types(model.cache_type if cache_type is None else cache_type)
        self.spans = jax.eval_shape(partial(model.make_cache, 1, self.ctx_size, self.cache_type)).spans()
        self._dtype: jax.typing.DTypeLike = dtype
        self._precision: Precision = precision
        self.spec, self.leaves = steps.split(model, dtype, precision)

    def refresh(self) -> None:
        """Takes the model's leaves as they are now: after training, or `adapters.set_scales`. Programs are compiled
        anew only if the structure has changed."""
        self.spec, self.leaves = steps.split(self.model, self._dtype, self._precision)

    def chunk_length(self, left: int) -> int:
        """Of the chunk that is compiled for the next of `left` tokens of a prompt: at most a third of it is padding,
        but for the shortest."""
        size = bucket(min(self.batch_size, left), MIN_CHUNK, self.batch_size)
        return size // 4 * 3 if size > 2 * MIN_CHUNK and left <= size // 4 * 3 else size

    def check_prompt(self, prompt: Sequence[int]) -> None:
        """Refuses a prompt that cannot be run.

        Raises:
            PromptTooLong: it leaves no room for one more token; both lengths are named.
            GGUFJaxError: it is empty, or has an id outside the vocabulary.
        """
        if not len(prompt):
            raise GGUFJaxError("prompt: expected at least one token, found none")
        if len(prompt) >= self.ctx_size:
            raise PromptTooLong(
                f"prompt: expected at most {self.ctx_size - 1} tokens (the context holds {self.ctx_size}, answer "
                f"included), found {len(prompt)}"
            )
        if min(prompt) < 0 or max(prompt) >= self.config.vocab_size:
            raise GGUFJaxError(
                f"prompt: expected token ids from 0 to {self.config.vocab_size - 1}, "
                f"found {min(prompt) if min(prompt) < 0 else max(prompt)}"
            )

    def span(self, positions: int) -> int:
        """The `span` of the program for sequences of at most so many positions."""
        return next((span for span in self.spans if span >= positions), self.spans[-1])

    def new_cache(self, batch: int) -> Cache:
        """An empty cache for so many sequences.

        Raises:
            GGUFJaxError: the device has no room for it.
        """
        make = partial(self.model.make_cache, batch, self.ctx_size, self.cache_type)
        nbytes = jax.eval_shape(make).nbytes
        message = f"ctx_size: a cache of {batch} x {self.ctx_size} tokens takes {nbytes / 2**30:.1f} GiB"
        # asked before allocating: a host that promises more memory than it has kills the process later
        if nbytes > (memory := _memory()):
            raise GGUFJaxError(f"{message}, expected at most the {memory / 2**30:.1f} GiB that the device has")
        try:
            return make()
        except jax.errors.JaxRuntimeError as error:
            raise GGUFJaxError(f"{message}, which could not be had: {str(error).splitlines()[0]}") from error
