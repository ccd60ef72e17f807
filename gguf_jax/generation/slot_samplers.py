"""Samplers of a batch whose slots come one at a time: shapes grow with what somebody needs."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from gguf_jax.generation.sampling import Sampler, SamplingParams, make_sampler


def fitting(sampler: Sampler, params: SamplingParams, vocab_size: int, ctx_size: int) -> tuple[Sampler, Sampler]:
    """A batch's sampler with room for one more kind of parameters, and a sampler of one slot in its shapes."""
    own = make_sampler([params], vocab_size, context_length=ctx_size)
    here, there = sampler.window.shape[1], own.window.shape[1]
    if there > here:
        sampler = with_window(sampler, there)
    elif here > there:
        own = make_sampler([params], vocab_size, context_length=ctx_size, window=here)
    if own.bias is not None and sampler.bias is None:
        sampler = replace(sampler, bias=jnp.zeros((sampler.step.shape[0], vocab_size)))
    elif own.bias is None and sampler.bias is not None:
        own = replace(own, bias=jnp.zeros((1, vocab_size)))
    return sampler, own


def with_window(sampler: Sampler, size: int) -> Sampler:
    """The same sampler with longer rings: token n of those seen stands at `n % size`."""
    batch, old = sampler.window.shape
    ages = jnp.arange(old)
    nth = sampler.seen[:, None] - 1 - ages  # the tokens in the ring, the last one first
    values = jnp.take_along_axis(sampler.window, nth % max(old, 1), axis=1) if old else sampler.window
    place = jnp.where(nth >= 0, nth % size, size)
    window = jnp.full((batch, size), -1, jnp.int32).at[jnp.arange(batch)[:, None], place].set(values, mode="drop")
    return replace(sampler, window=window)
