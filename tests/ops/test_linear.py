"""Contract of `ops.linear`: every implementation x every type x both precisions, held to float64 arithmetic on the
decoded weight."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.errors import Unsupported
from gguf_jax.formats import GGMLType
from gguf_jax.ops import prepare
from gguf_jax.ops.linear.api import IMPLEMENTATIONS, gated_linear, linear, linears
from gguf_jax.quantized_array import QuantizedArray
from tests.support import EPS, QUANTIZED, columns_of, needed, random_weight

# every type with a few rows and with enough for the blocked kernels; other leading shapes with two types, since the
# decoder does not see them
CASES = [(type, lead) for type in QUANTIZED for lead in [(3,), (11,)]] + [
    (type, lead) for type in (GGMLType.Q8_0, GGMLType.Q4_K) for lead in [(), (1,), (2, 5), (35,)]
]
ROWS = 21
"""Of the weight: one panel and a part of a second."""


def bound(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Rounding of a float32 sum of K products in any order: K eps sum |x| |w| is the worst case."""
    return EPS * x.shape[-1] * (np.abs(x.astype(np.float64)) @ np.abs(w.astype(np.float64)).T)


def fast_bound(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """What `fast` may differ by: activations rounded to int8 in blocks of 32, or both operands to bfloat16."""
    size = np.abs(w.astype(np.float64)).T
    bits = np.finfo(np.float32).eps
    pad = -x.shape[-1] % 32
    blocks = np.pad(np.abs(x).astype(np.float64), [(0, 0)] * (x.ndim - 1) + [(0, pad)])
    tops = blocks.reshape(*x.shape[:-1], -1, 32).max(-1)
    half_steps = np.repeat(tops, 32, axis=-1)[..., : x.shape[-1]] / 127 / 2 * (1 + 4 * 127 * bits)
    bfloat16 = 2.0**-8 + 2.0**-18  # half a step of each operand, and their product
    return np.maximum(half_steps @ size, bfloat16 * (np.abs(x).astype(np.float64) @ size)) + bound(x, w)


BOUNDS = {"exact": bound, "fast": fast_bound}

WAYS = [(name, precision, prepared) for name in IMPLEMENTATIONS for precision in BOUNDS for prepared in (False, True)]
WAYS = [way for way in WAYS if way[0] != "xla" or way == ("xla", "exact", False)]  # it knows no other way


@pytest.mark.parametrize(("implementation", "precision", "prepared"), WAYS)
@pytest.mark.parametrize(("type", "lead"), CASES, ids=lambda value: getattr(value, "name", str(value)))
def test_contract_packed(type, lead, implementation, precision, prepared):
    w = random_weight(type, ROWS, columns=columns_of(type, 3) if columns_of(type, 1) > 32 else 96)
    decoded = np.asarray(w.dequantize())
    w = needed(implementation, prepare, w) if prepared else w
    x = np.random.default_rng(1).standard_normal((*lead, w.shape[1])).astype(np.float32)
    run = jax.jit(lambda x, w: linear(x, w, implementation=implementation, precision=precision))
    y = needed(implementation, run, x, w)
    assert y.shape == (*lead, ROWS)
    assert y.dtype == jnp.float32
    error = np.abs(np.asarray(y, np.float64) - x.astype(np.float64) @ decoded.T)
    assert (error <= BOUNDS[precision](x, decoded)).all()


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 7, 11, 35])
def test_contract_float(rows, dtype, implementation, precision):
    rng = np.random.default_rng(2)
    w = jnp.asarray(rng.standard_normal((ROWS, 43)), dtype)
    x = rng.standard_normal((rows, 43)).astype(np.float32)
    y = needed(implementation, partial(linear, implementation=implementation, precision=precision), jnp.asarray(x), w)
    wide = np.asarray(w, np.float32)
    error = np.abs(np.asarray(y, np.float64) - x.astype(np.float64) @ wide.T)
    assert (error <= BOUNDS[precision](x, wide)).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("lead", [(), (5,), (11,)])
def test_contract_several_weights_at_once(lead, implementation):
    ws = [
        random_weight(type, n, columns=256)
        for type, n in [(GGMLType.Q4_K, 40), (GGMLType.Q6_K, 5), (GGMLType.Q8_0, 17)]
    ]
    ws.append(jnp.asarray(np.random.default_rng(0).standard_normal((3, 256)), jnp.float16))
    x = np.random.default_rng(1).standard_normal((*lead, 256)).astype(np.float32)
    ys = needed(implementation, partial(linears, implementation=implementation), x, ws)
    for w, y in zip(ws, ys, strict=True):
        decoded = np.asarray(w.dequantize() if isinstance(w, QuantizedArray) else w, np.float32)
        assert (np.abs(np.asarray(y, np.float64) - x.astype(np.float64) @ decoded.T) <= bound(x, decoded)).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("lead", [(), (5,), (11,)])
def test_contract_gated(lead, implementation):
    gate, up = (random_weight(GGMLType.Q4_K, ROWS, columns=256, seed=seed) for seed in (0, 1))
    x = np.random.default_rng(1).standard_normal((*lead, 256)).astype(np.float32)
    y = needed(implementation, partial(gated_linear, implementation=implementation), x, gate, up)
    g, u = (x.astype(np.float64) @ np.asarray(w.dequantize(), np.float64).T for w in (gate, up))
    g_error, u_error = (bound(x, np.asarray(w.dequantize())) for w in (gate, up))
    silu = g / (1 + np.exp(-g))
    # |silu'| < 1.1 everywhere; exp and the division add a few rounding errors
    limit = 1.1 * g_error * (np.abs(u) + u_error) + np.abs(silu) * u_error + 16 * EPS * np.abs(silu * u)
    assert (np.abs(np.asarray(y, np.float64) - silu * u) <= limit).all()


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("length", [1, 5, 20])
@pytest.mark.parametrize("type", [GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.Q8_0, GGMLType.IQ2_XS, GGMLType.F16])
def test_exact_a_sequence_does_not_depend_on_its_neighbours(type, length, precision):
    x = np.random.default_rng(3).standard_normal((12, length, 256)).astype(np.float32)
    if type == GGMLType.F16:
        w = jnp.asarray(np.random.default_rng(4).standard_normal((ROWS, 256)), jnp.float16)
    else:
        w = random_weight(type, ROWS, columns=256)
    run = partial(linear, w=w, implementation="native", precision=precision)
    together = np.asarray(needed("native", run, x))
    for sequence, found in zip(x, together, strict=True):
        assert (np.asarray(run(sequence[None]))[0] == found).all()


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("rows", [1, 3, 11])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(poison, rows, implementation, precision):
    w = random_weight(GGMLType.Q4_K, ROWS, columns=256)
    x = np.random.default_rng(1).standard_normal((rows, 256)).astype(np.float32)
    x[-1, 77] = poison
    y = np.asarray(needed(implementation, partial(linear, implementation=implementation, precision=precision), x, w))
    assert not np.isfinite(y[-1][np.asarray(w.dequantize())[:, 77] != 0]).any()
    assert np.isfinite(y[:-1]).all()


@pytest.mark.parametrize("type", QUANTIZED, ids=lambda t: t.name)
def test_exact_a_prepared_weight_is_the_same_weight(type):
    w = random_weight(type, ROWS, columns=columns_of(type) if columns_of(type) % 32 == 0 else 64)
    made = needed("native", prepare, w)
    assert made.shape == w.shape
    assert (made.to_blocks() == w.to_blocks()).all()
    assert (np.asarray(made.dequantize()).view(np.uint32) == np.asarray(w.dequantize()).view(np.uint32)).all()


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
