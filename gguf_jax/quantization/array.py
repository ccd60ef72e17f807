"""`quantize` and `quantization_error`: one array, in a notebook or inside a program of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gguf_jax import ops
from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.quantized_array import QuantizedArray


def quantize(
    array: jax.typing.ArrayLike,
    type: GGMLType | str,
    importance: jax.typing.ArrayLike | None = None,
    *,
    implementation: str | None = None,
) -> QuantizedArray:
    """A float array as a packed weight of `type`, byte for byte what ggml's quantizers make of it.

        q = gj.quantize(w, "Q4_K")
        q.to_blocks()       # the bytes of a file
        q.dequantize()      # what is left of w

    Works under `jit` and `vmap`. Blocks lie along the last axis.

    Args:
        array: floats `[..., n]`, `n` a multiple of the type's block (32 or 256 for most). NaN and infinities are not
            looked for, and spoil their block.
        type: a ggml type or its name, in any case.
        importance: float `[n]` or of the array's shape, how much the square of each weight's error counts (an imatrix's
            mean squared activations). IQ2_XXS, IQ2_XS and IQ1_S need one; Q8_0, MXFP4, NVFP4, ternary and binary types
            have no use for it.
        implementation: `native` or `xla`; by default the best that there is.

    Raises:
        GGUFJaxError: there is no such type.
        ValueError: the type cannot be encoded or needs an importance, or shapes do not fit.
        Unsupported: `implementation` was named and cannot do this case.
    """
    return ops.encode(array, type_of(type), importance, implementation=implementation)


def type_of(type: GGMLType | str) -> GGMLType:
    """A ggml type by its name; GGUFJaxError lists those that can be encoded."""
    if isinstance(type, GGMLType):
        return type
    found = GGMLType.__members__.get(str(type).upper())
    if found is None or FORMATS.get(found) is None or FORMATS[found].encode is None:
        names = ", ".join(form.name for form in FORMATS.values() if form.encode is not None)
        raise GGUFJaxError(f"type: expected one of {names}, found {type!r}")
    return found


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuantizationError:
    """How far a quantized array is from what it stands for; every field a float32 scalar.

    Attributes:
        rmse: root of the mean squared error.
        relative_rmse: the same, divided by the root of the mean square of the array; 0 for a zero array.
        weighted_rmse: root of the importance-weighted mean squared error, sum(i * e^2) / sum(i); `rmse` without
            importance.
        max_abs_error: the largest magnitude of an error.
        sqnr_db: signal to quantization noise, 20 log10(1 / relative_rmse), in decibels; infinite without an error.
        cosine: between the array and its approximation; 1 where both are zero.
    """

    rmse: Any
    relative_rmse: Any
    weighted_rmse: Any
    max_abs_error: Any
    sqnr_db: Any
    cosine: Any


def quantization_error(
    array: jax.typing.ArrayLike,
    quantized: QuantizedArray | jax.typing.ArrayLike,
    importance: jax.typing.ArrayLike | None = None,
) -> QuantizationError:
    """The error of `quantized` (packed, or floats) against `array`, both `[...]` of one shape, over all elements.

    Sums are float32 pairwise sums, so the figures carry about six digits; under `jax.enable_x64` they are float64.
    Works under `jit` and `vmap`. An error of the weights is a surrogate: what a quantization costs a model is seen in
    its perplexity and its KL divergence.

    Raises:
        ValueError: shapes do not fit.
    """
    reference = jnp.asarray(array)
    found = quantized.dequantize() if isinstance(quantized, QuantizedArray) else jnp.asarray(quantized)
    if reference.shape != found.shape:
        raise ValueError(
            f"quantization_error: expected two arrays of one shape, found {reference.shape} and {found.shape}"
        )
    return _error(reference, found, importance)


@jax.jit
def _error(reference: jax.Array, found: jax.Array, importance: jax.typing.ArrayLike | None) -> QuantizationError:
    wide = jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32
    reference, found = reference.astype(wide), found.astype(wide)
    error = found - reference
    square, signal, power = jnp.mean(error * error), jnp.mean(reference * reference), jnp.mean(found * found)
    weighted = square
    if importance is not None:
        weights = jnp.broadcast_to(jnp.asarray(importance, wide), reference.shape)
        weighted = jnp.sum(weights * error * error) / jnp.sum(weights)
    ratio = jnp.where(signal > 0, square / jnp.where(signal > 0, signal, 1), 0)
    norm = jnp.sqrt(signal) * jnp.sqrt(power)
    cosine = jnp.where(norm > 0, jnp.mean(reference * found) / jnp.where(norm > 0, norm, 1), signal == power)
    return QuantizationError(
        rmse=jnp.sqrt(square),
        relative_rmse=jnp.sqrt(ratio),
        weighted_rmse=jnp.sqrt(weighted),
        max_abs_error=jnp.max(jnp.abs(error)),
        sqnr_db=-10 * jnp.log10(ratio),
        cosine=cosine,
    )
