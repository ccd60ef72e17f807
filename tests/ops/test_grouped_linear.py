"""Contract of `ops.grouped_linear`: every implementation x types x both precisions, held to float64 arithmetic on the
decoded matrices of the experts chosen."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.formats import GGMLType
from gguf_jax.ops import linear, prepare
from gguf_jax.ops.grouped_linear import xla
from gguf_jax.ops.grouped_linear.api import IMPLEMENTATIONS, gated_grouped_linear, grouped_linear, grouped_linears
from gguf_jax.quantized_array import QuantizedArray
from tests.ops.test_linear import BOUNDS
from tests.support import EPS, QUANTIZED, columns_of, needed, random_weight

N_EXPERT, USED = 5, 2
ROWS = 32
"""Of a matrix: whole panels, so that `prepare` takes it."""

WAYS = [("native", precision, prepared) for precision in BOUNDS for prepared in (False, True)]
WAYS += [("xla", "exact", False), ("xla", "exact", True)]
# every type as models hold it; the other ways with two types, since the decoder does not see them
CASES = [(type, (3,), True, ("native", "fast", True)) for type in QUANTIZED]
CASES += [
    (type, lead, shared, way)
    for type, lead, shared in [
        *((GGMLType.Q4_K, lead, True) for lead in [(), (3,), (2, 4), (40,)]),
        *((GGMLType.Q8_0, lead, False) for lead in [(), (1,), (40,)]),
    ]
    for way in WAYS
]


def random_experts(*lead: int, seed: int = 0, n_expert: int = N_EXPERT, used: int = USED) -> np.ndarray:
    """For each position different ones; the last expert gets nothing, so that a group is empty."""
    rng = np.random.default_rng(seed)
    each = [rng.permutation(n_expert - 1)[:used] for _ in range(int(np.prod(lead)))]
    return np.array(each, np.int32).reshape(*lead, used)


def expected(x: np.ndarray, w: np.ndarray, experts: np.ndarray, bound) -> tuple[np.ndarray, np.ndarray]:
    """Float64 products `[..., used, N]`, and how far one may be from them."""
    rows = np.broadcast_to(x[..., None, :], (*experts.shape, x.shape[-1])) if x.ndim == experts.ndim else x
    y, limit = (np.zeros((*experts.shape, w.shape[1])) for _ in range(2))
    for index in np.ndindex(experts.shape):
        matrix = w[experts[index]]
        y[index] = rows[index].astype(np.float64) @ matrix.T.astype(np.float64)
        limit[index] = bound(rows[index], matrix)
    return y, limit


def values_of(w) -> np.ndarray:
    return np.asarray(w.dequantize() if isinstance(w, QuantizedArray) else w, np.float32)


@pytest.mark.parametrize(("type", "lead", "shared", "way"), CASES, ids=lambda value: getattr(value, "name", str(value)))
def test_contract_packed(type, lead, shared, way):
    implementation, precision, prepared = way
    w = random_weight(type, N_EXPERT, ROWS, columns=columns_of(type, 3) if columns_of(type, 1) > 32 else 96)
    decoded = values_of(w)
    w = needed("native", prepare, w) if prepared else w
    experts = random_experts(*lead)
    x = np.random.default_rng(1).standard_normal((*lead, *(() if shared else (USED,)), w.shape[-1])).astype(np.float32)
    run = jax.jit(partial(grouped_linear, implementation=implementation, precision=precision))
    y = needed(implementation, run, x, w, experts)
    assert y.shape == (*lead, USED, ROWS)
    assert y.dtype == jnp.float32
    exact, limit = expected(x, decoded, experts, BOUNDS[precision])
    assert (np.abs(np.asarray(y, np.float64) - exact) <= limit).all()


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("length", [1, 3, 40])
def test_contract_float(length, dtype, implementation, precision):
    rng = np.random.default_rng(2)
    w = jnp.asarray(rng.standard_normal((N_EXPERT, 21, 43)), dtype)
    x, experts = rng.standard_normal((length, 43)).astype(np.float32), random_experts(length)
    run = jax.jit(partial(grouped_linear, implementation=implementation, precision=precision))
    y = needed(implementation, run, jnp.asarray(x), w, jnp.asarray(experts))
    exact, limit = expected(x, values_of(w), experts, BOUNDS[precision])
    assert (np.abs(np.asarray(y, np.float64) - exact) <= limit).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("lead", [(1,), (7,), (70,)])
def test_contract_several_weights_and_gates(lead, implementation):
    gate, up = (random_weight(GGMLType.Q4_K, N_EXPERT, ROWS, columns=256, seed=seed) for seed in (0, 1))
    ws = (gate, random_weight(GGMLType.Q6_K, N_EXPERT, 21, columns=256))
    x = np.random.default_rng(1).standard_normal((*lead, 256)).astype(np.float32)
    experts = random_experts(*lead)
    ys = needed(implementation, jax.jit(partial(grouped_linears, implementation=implementation)), x, ws, experts)
    for w, y in zip(ws, ys, strict=True):
        exact, limit = expected(x, values_of(w), experts, BOUNDS["exact"])
        assert (np.abs(np.asarray(y, np.float64) - exact) <= limit).all()
    y = jax.jit(partial(gated_grouped_linear, implementation=implementation))(x, gate, up, experts)
    (g, g_error), (u, u_error) = (expected(x, values_of(w), experts, BOUNDS["exact"]) for w in (gate, up))
    silu = g / (1 + np.exp(-g))
    # as in test_linear: |silu'| < 1.1 everywhere; exp and the division add a few rounding errors
    limit = 1.1 * g_error * (np.abs(u) + u_error) + np.abs(silu) * u_error + 16 * EPS * np.abs(silu * u)
    assert (np.abs(np.asarray(y, np.float64) - silu * u) <= limit).all()


@pytest.mark.parametrize("pairs", [(1,), (9,), (3, 33)])
def test_contract_blocks_with_one_expert_each(pairs, monkeypatch):
    """The definition's other way of computing, for which a matrix at a time is decoded."""
    monkeypatch.setattr(xla, "DECODED_BYTES", 0)
    w = random_weight(GGMLType.Q4_K, N_EXPERT, 21, columns=256)
    x = np.random.default_rng(1).standard_normal((*pairs, 256)).astype(np.float32)
    experts = random_experts(*pairs)
    y = jax.jit(partial(grouped_linear, implementation="xla"))(x, w, experts)
    exact, limit = expected(x, values_of(w), experts, BOUNDS["exact"])
    assert (np.abs(np.asarray(y, np.float64) - exact) <= limit).all()


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("length", [1, 5, 40])
@pytest.mark.parametrize("type", [GGMLType.Q4_K, GGMLType.Q8_0, GGMLType.MXFP4, GGMLType.F16])
def test_exact_a_sequence_does_not_depend_on_its_neighbours(type, length, precision):
    x = np.random.default_rng(3).standard_normal((6, length, 256)).astype(np.float32)
    if type == GGMLType.F16:
        w = jnp.asarray(np.random.default_rng(4).standard_normal((N_EXPERT, ROWS, 256)), jnp.float16)
    else:
        w = needed("native", prepare, random_weight(type, N_EXPERT, ROWS, columns=256))
    experts = random_experts(6, length)
    run = partial(grouped_linear, implementation="native", precision=precision)
    together = np.asarray(needed("native", run, x, w, experts))
    for sequence, chosen, found in zip(x, experts, together, strict=True):
        assert (np.asarray(run(sequence[None], w, chosen[None]))[0] == found).all()


@pytest.mark.parametrize("precision", BOUNDS)
def test_exact_an_expert_multiplies_as_a_linear_weight(precision):
    w = needed("native", prepare, random_weight(GGMLType.Q4_K, N_EXPERT, ROWS, columns=256))
    x = np.random.default_rng(5).standard_normal((1, 256)).astype(np.float32)
    y = grouped_linear(x, w, np.array([[3, 1]], np.int32), implementation="native", precision=precision)
    for i, expert in enumerate((3, 1)):
        alone = w.take(jnp.asarray(expert))
        exact = linear(x, alone, implementation="native", precision=precision)
        assert (np.asarray(exact)[0] == np.asarray(y[0, i])).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("length", [2, 40])
def test_what_is_not_finite_stays_with_its_position(length, implementation):
    w = random_weight(GGMLType.Q4_K, N_EXPERT, ROWS, columns=256)
    x = np.random.default_rng(1).standard_normal((length, 256)).astype(np.float32)
    x[-1, 77] = np.nan
    run = jax.jit(partial(grouped_linear, implementation=implementation))
    y = np.asarray(needed(implementation, run, x, w, random_experts(length)))
    assert np.isnan(y[-1]).any(-1).all()
    assert np.isfinite(y[:-1]).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("blocks", [False, True])
def test_contract_a_negative_expert_is_nobody(implementation, blocks, monkeypatch):
    if blocks:
        monkeypatch.setattr(xla, "DECODED_BYTES", 0)
    w = random_weight(GGMLType.Q8_0, N_EXPERT, ROWS, columns=64)
    x = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)
    run = jax.jit(partial(grouped_linear, implementation=implementation))
    wild = np.asarray(needed(implementation, run, x, w, np.array([[-7, 9], [3, -1]], np.int32)))
    tame = np.asarray(run(x, w, np.array([[0, N_EXPERT - 1], [3, 0]], np.int32)))
    assert (wild[0, 1] == tame[0, 1]).all()
    assert (wild[1, 0] == tame[1, 0]).all()
    assert (wild[[0, 1], [0, 1]] == 0).all()
    assert (np.asarray(run(x, w, np.full((2, 2), -1, np.int32))) == 0).all()


@pytest.mark.parametrize("blocks", [False, True])
def test_property_gradient_is_the_transposed_matrices(blocks, monkeypatch):
    if blocks:
        monkeypatch.setattr(xla, "DECODED_BYTES", 0)
    w = random_weight(GGMLType.Q4_K, N_EXPERT, 6, columns=256)
    x = np.random.default_rng(4).standard_normal((7, 256)).astype(np.float32)
    experts = random_experts(7)
    cotangent = np.random.default_rng(5).standard_normal((7, USED, 6)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda x: (grouped_linear(x, w, experts) * cotangent).sum()))(x)
    decoded = values_of(w).astype(np.float64)
    exact = np.einsum("tun,tunk->tk", cotangent.astype(np.float64), decoded[experts])
    size = np.einsum("tun,tunk->tk", np.abs(cotangent.astype(np.float64)), np.abs(decoded[experts]))
    assert (np.abs(gradient - exact) <= EPS * 6 * USED * size).all()


@pytest.mark.parametrize("type", [GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.MXFP4, GGMLType.TQ1_0], ids=lambda t: t.name)
def test_exact_a_prepared_stack_is_the_same_weight(type):
    w = random_weight(type, 3, ROWS, columns=columns_of(type) if columns_of(type) % 32 == 0 else 64)
    made = needed("native", prepare, w)
    assert made.shape == w.shape
    assert (made.to_blocks() == w.to_blocks()).all()
    assert (np.asarray(made.dequantize()).view(np.uint32) == np.asarray(w.dequantize()).view(np.uint32)).all()


def test_only_whole_panels_are_prepared():
    w = random_weight(GGMLType.Q8_0, 3, 21, columns=64)
    assert prepare(w) is w


@pytest.mark.parametrize(
    ("x", "w", "experts"),
    [((2, 32), (5, 6, 64), (2, 2)), ((2, 64), (6, 64), (2, 2)), ((2, 64), (5, 6, 64), (3, 2)), ((64,), (5, 6, 64), ())],
)
def test_shapes_that_do_not_fit_are_all_named(x, w, experts):
    with pytest.raises(ValueError, match=r"x .*w .*experts .*do not fit"):
        grouped_linear(jnp.ones(x), jnp.ones(w), jnp.zeros(experts, jnp.int32))


def test_experts_are_integers():
    with pytest.raises(ValueError, match="integer experts, found float32 and float32"):
        grouped_linear(jnp.ones((2, 8)), jnp.ones((3, 4, 8)), jnp.ones((2, 2)))
