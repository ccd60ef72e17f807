"""Contract of `ops.linear`: every implementation x every type, held to float64 arithmetic on the decoded weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.errors import Unsupported
from gguf_jax.formats import GGMLType
from gguf_jax.ops.linear.api import IMPLEMENTATIONS, linear
from gguf_jax.quantized_array import QuantizedArray
from tests.support import EPS, QUANTIZED, columns_of, random_weight

# every type with a few rows; every leading shape with two types, since the decoder does not see it
CASES = [(type, (3,)) for type in QUANTIZED] + [
    (type, lead) for type in (GGMLType.Q8_0, GGMLType.Q4_K) for lead in [(), (1,), (2, 5)]
]


def bound(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Rounding of a float32 sum of K products in any order: K eps sum |x| |w| is the worst case."""
    return EPS * x.shape[-1] * (np.abs(x.astype(np.float64)) @ np.abs(w.astype(np.float64)).T)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("type", "lead"), CASES, ids=lambda value: getattr(value, "name", str(value)))
def test_contract_packed(type, lead, implementation):
    w = random_weight(type, 6, columns=columns_of(type))
    x = np.random.default_rng(1).standard_normal((*lead, w.shape[1])).astype(np.float32)
    y = jax.jit(lambda x, w: linear(x, w, implementation=implementation))(x, w)
    decoded = np.asarray(w.dequantize())
    assert y.shape == (*lead, 6)
    assert y.dtype == jnp.float32
    assert (np.abs(np.asarray(y, np.float64) - x.astype(np.float64) @ decoded.T) <= bound(x, decoded)).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_contract_float(dtype, implementation):
    rng = np.random.default_rng(2)
    w = jnp.asarray(rng.standard_normal((7, 40)), dtype)
    x = rng.standard_normal((3, 40)).astype(np.float32)
    y = linear(jnp.asarray(x), w, implementation=implementation)
    wide = np.asarray(w, np.float32)
    assert (np.abs(np.asarray(y, np.float64) - x.astype(np.float64) @ wide.T) <= bound(x, wide)).all()


def test_result_has_the_dtype_of_x():
    w = random_weight(QUANTIZED[0], 6, columns=64)
    x = jnp.asarray(np.random.default_rng(3).standard_normal((2, 64)), jnp.bfloat16)
    y = linear(x, w)
    exact = np.asarray(x, np.float64) @ np.asarray(w.dequantize(), np.float64).T
    size = np.abs(np.asarray(x, np.float64)) @ np.abs(np.asarray(w.dequantize(), np.float64)).T
    bfloat16 = float(jnp.finfo(jnp.bfloat16).eps)
    assert y.dtype == jnp.bfloat16
    # the weight and the result are each rounded once to bfloat16
    assert (np.abs(np.asarray(y, np.float64) - exact) <= bfloat16 * (size + np.abs(exact))).all()


@pytest.mark.parametrize("type", QUANTIZED, ids=lambda t: t.name)
def test_property_gradient_is_the_transposed_weight(type):
    w = random_weight(type, 6, columns=columns_of(type, 1))
    x = jnp.asarray(np.random.default_rng(4).standard_normal(w.shape[1]), jnp.float32)
    cotangent = np.random.default_rng(5).standard_normal(6).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda x: linear(x, w) @ cotangent))(x)
    decoded = np.asarray(w.dequantize())
    assert (np.abs(gradient - cotangent.astype(np.float64) @ decoded) <= bound(cotangent[None], decoded.T)[0]).all()


def test_property_vmap_and_scan_over_stacked_weights():
    w = random_weight(QUANTIZED[0], 3, 6, columns=64)  # a stack of three matrices
    x = jnp.asarray(np.random.default_rng(6).standard_normal((3, 2, 64)), jnp.float32)
    each = [linear(x[i], jax.tree.map(lambda plane, i=i: plane[i], w)) for i in range(3)]
    mapped = jax.jit(jax.vmap(linear))(x, w)
    _, scanned = jax.lax.scan(lambda carry, xw: (carry, linear(*xw)), 0, (x, w))
    limit = np.stack([bound(np.asarray(x[i]), np.asarray(w.dequantize()[i])) for i in range(3)])
    assert (np.abs(mapped - jnp.stack(each)) <= 2 * limit).all()
    assert (np.abs(scanned - jnp.stack(each)) <= 2 * limit).all()


def test_shape_mismatch_names_both_shapes():
    w = random_weight(QUANTIZED[0], 6, columns=64)
    with pytest.raises(ValueError, match=r"\(2, 32\).*\(6, 64\)"):
        linear(jnp.ones((2, 32)), w)


def test_integers_are_refused():
    with pytest.raises(ValueError, match="expected x of a float type, found int32"):
        linear(jnp.arange(64), random_weight(QUANTIZED[0], 6, columns=64))


def test_unknown_implementation_lists_the_known_ones():
    w = random_weight(QUANTIZED[0], 6, columns=64)
    with pytest.raises(Unsupported, match=r"no implementation 'cuda'; there are: .*xla"):
        linear(jnp.ones((2, 64)), w, implementation="cuda")


def test_nothing_is_dequantized_implicitly():
    w = random_weight(QUANTIZED[0], 6, columns=64)
    assert not hasattr(QuantizedArray, "__jax_array__")
    assert not hasattr(QuantizedArray, "__array__")
    with pytest.raises(TypeError):
        jnp.ones((2, 64)) @ w
