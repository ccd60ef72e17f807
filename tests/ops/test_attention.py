"""Contract of `ops.attention`: every implementation x every type of cache, held to a float64 loop over heads and
queries of the decoded cache."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.errors import Unsupported
from gguf_jax.formats import GGMLType
from gguf_jax.nn import kv_cache
from gguf_jax.nn.kv_cache import CACHE_TYPES
from gguf_jax.ops.attention.api import IMPLEMENTATIONS, attention, attention_spans
from gguf_jax.ops.native.library import ffi_target, library
from gguf_jax.quantized_array import QuantizedArray
from tests.support import EPS, needed

# batch, queries, heads, groups, slots, depth, depth of values
SHAPES = {
    "a token": (2, 1, 4, 2, 11, 32, 32),
    "a token, many keys": (3, 1, 12, 2, 700, 64, 32),
    "a token, one group": (2, 1, 7, 1, 40, 32, 96),
    "a few": (2, 3, 5, 5, 300, 32, 32),
    "a prompt": (2, 5, 6, 2, 11, 32, 64),
    "a prompt, many blocks": (2, 45, 7, 1, 200, 64, 32),
}
PRECISIONS = ("exact", "fast")
ODD = {"a token": (2, 1, 6, 2, 11, 8, 6), "many keys": (1, 1, 3, 3, 300, 33, 17), "a prompt": (1, 9, 4, 2, 70, 19, 35)}
TYPES = [(name, name) for name in CACHE_TYPES] + [("f16", "q8_0"), ("q4_0", "f32")]
# every type where tokens and where prompts are read, every shape for a float type and for a packed one
CASES = (
    [(SHAPES[shape], types, None) for shape in ("a token", "a prompt, many blocks") for types in TYPES]
    + [(SHAPES[shape], (name, name), None) for shape in list(SHAPES)[1:-1] for name in ("f16", "q8_0")]
    + [(SHAPES[shape], ("f16", "f16"), window) for shape in SHAPES for window in (1, 4, 70)]
    + [(shape, (name, name), None) for shape in ODD.values() for name in ("f32", "f16", "bf16")]
)


# what has many queries at depths that are multiples of 32, and what has not
FAST_SHAPES = [
    (2, 45, 7, 1, 200, 64, 32),
    (2, 16, 4, 2, 300, 32, 96),
    (1, 100, 6, 2, 1001, 128, 128),
    (3, 33, 3, 3, 777, 32, 64),
    (1, 520, 12, 1, 530, 32, 32),
]
FAST_CASES = (
    [(FAST_SHAPES[2], types, None) for types in TYPES]
    + [(shape, (name, name), None) for shape in FAST_SHAPES[:2] for name in ("f32", "q4_0")]
    + [(shape, ("f16", "f16"), window) for shape in FAST_SHAPES for window in (None, 1, 37, 300)]
    + [(shape, (name, name), None) for shape in (*SHAPES.values(), *ODD.values()) for name in ("f32", "f16")]
)


def reference(q, k, v, positions, scale, window, softcap=None, sinks=None):
    """Softmax attention, written out."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    out = np.zeros((*q.shape[:3], v.shape[3]))
    for b, t, h in np.ndindex(q.shape[:3]):
        p, g = positions[b, t], h // (q.shape[2] // k.shape[1])
        low = 0 if window is None else max(0, p - window + 1)
        scores = k[b, g, low : p + 1] @ q[b, t, h] * scale
        scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
        most = scores.max() if sinks is None else max(scores.max(), sinks[h])
        weights = np.exp(scores - most)
        share = weights.sum() + (0 if sinks is None else np.exp(sinks[h] - most))
        out[b, t, h] = weights @ v[b, g, low : p + 1] / share
    return out


def bound(q, k, v, scale):
    """An error e in a score moves its weight by a factor exp(e), so the output by at most 2 e max|v|; then the sums."""
    depth, slots = q.shape[3], k.shape[2]
    score_error = EPS * (depth + 4) * np.abs(q).max() * np.abs(k).max() * depth * scale
    return np.abs(v).max() * (2 * score_error + EPS * (slots + 16))


def fast_bound(q, k, v, scale):
    """`fast`: bfloat16 weights and values, and scores of split queries and keys (see `Precision`)."""
    magnitudes = np.abs(q).sum(-1).max() * np.abs(k).max() * scale
    return bound(q, k, v, scale) + np.abs(v).max() * (2 * 2.0**-15 * magnitudes + 3 * 2.0**-9)


def cached(name, rng, batch, groups, slots, depth):
    """A cache full of random rows, and what it decodes to."""
    rows = jnp.asarray(rng.standard_normal((batch, slots, groups, depth)), jnp.float32)
    everywhere = jnp.broadcast_to(jnp.arange(slots, dtype=jnp.int32), (batch, slots))
    # op by op, XLA would compile each
    full = jax.jit(kv_cache.write)(kv_cache.buffer(CACHE_TYPES[name], batch, groups, slots, depth), rows, everywhere)
    held = jax.tree.map(np.asarray, full)
    return full, np.asarray(held.dequantize() if isinstance(held, QuantizedArray) else held, np.float32)


@lru_cache(maxsize=4)  # implementations take turns at it
def problem(shape, types=("f32", "f32"), seed=0):
    """q, the caches, positions that begin at 0 and end at the last slot, and the decoded caches."""
    batch, length, heads, groups, slots, depth, depth_v = shape
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((batch, length, heads, depth)).astype(np.float32)
    (k, wide_k), (v, wide_v) = (
        cached(name, rng, batch, groups, slots, d) for name, d in zip(types, (depth, depth_v), strict=True)
    )
    starts = np.linspace(0, slots - length, batch).astype(np.int32) if batch > 1 else np.int32([slots - length])
    return q, k, v, np.arange(length, dtype=np.int32) + starts[:, None], wide_k, wide_v


@lru_cache(maxsize=4)
def expected(shape, types, window):
    q, _, _, positions, wide_k, wide_v = problem(shape, types)
    return reference(q, wide_k, wide_v, positions, shape[5] ** -0.5, window)


def jitted(implementation, scale, **options):
    return partial(
        needed, implementation, jax.jit(partial(attention, scale=scale, implementation=implementation, **options))
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("shape", "types", "window"), CASES)
def test_contract(shape, types, window, implementation):
    q, k, v, positions, wide_k, wide_v = problem(shape, types)
    scale = shape[5] ** -0.5
    out = np.asarray(jitted(implementation, scale, window=window)(q, k, v, positions))
    assert out.dtype == np.float32
    error = np.abs(out - expected(shape, types, window))
    assert (error <= bound(q, wide_k, wide_v, scale)).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("shape", "types", "window"), FAST_CASES)
def test_contract_fast(shape, types, window, implementation):
    q, k, v, positions, wide_k, wide_v = problem(shape, types)
    scale = shape[5] ** -0.5
    out = np.asarray(jitted(implementation, scale, window=window, precision="fast")(q, k, v, positions))
    assert out.dtype == np.float32
    error = np.abs(out - expected(shape, types, window))
    assert (error <= fast_bound(q, wide_k, wide_v, scale)).all()


@pytest.mark.parametrize("types", [("f16", "f16"), ("f32", "q8_0")])
def test_fast_scores_are_nearly_exact(types):
    """Scores of hundreds: bfloat16 ones would be off by 1."""
    q, k, v, positions, wide_k, wide_v = problem((1, 40, 4, 2, 500, 64, 32), types)
    out = np.asarray(jitted("native", 8.0, precision="fast")(q, k, v, positions))
    error = np.abs(out - reference(q, wide_k, wide_v, positions, 8.0, None))
    assert (error <= fast_bound(q, wide_k, wide_v, 8.0)).all()
    # the bound adds up what mostly cancels: here a weight is nearly one or nothing, and its value's rounding remains
    assert error.max() <= 4 * 2.0**-9 * np.abs(wide_v).max()


def test_fast_without_a_maximum_in_sight():
    """Maxima that grow slowly, fast, and shrink, over many blocks of keys."""
    q, _, v, positions, wide_k, wide_v = problem((1, 33, 2, 1, 2000, 32, 32))
    for slope in (0.01, 0.5, -0.5):
        steps = np.float32(slope) * np.arange(2000, dtype=np.float32)
        leaning, ones = wide_k.copy(), q.copy()
        leaning[..., 0], ones[..., 0] = steps, 1
        out = np.asarray(jitted("native", 1.0, precision="fast")(ones, jnp.asarray(leaning), v, positions))
        error = np.abs(out - reference(ones, leaning, wide_v, positions, 1.0, None))
        # the steps alone are multiplied by 1, which both halves of a key and a query hold
        assert (error <= np.abs(wide_v).max() * (3 * 2.0**-9 + 2e-3)).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("shape", [*SHAPES.values(), *ODD.values()])
def test_contract_half_precision(shape, dtype, implementation):
    q, k, v, positions, wide_k, wide_v = problem(shape, ("f16", "f16") if dtype == jnp.float16 else ("bf16", "bf16"))
    q = jnp.asarray(q, dtype)
    scale = shape[5] ** -0.5
    out = jitted(implementation, scale)(q, k, v, positions)
    assert out.dtype == dtype
    wide = np.asarray(q, np.float32)
    error = np.abs(np.asarray(out, np.float64) - reference(wide, wide_k, wide_v, positions, scale, None))
    halves = float(jnp.finfo(dtype).eps) * np.abs(wide_v).max()  # half a step for each weight, and for the result
    assert (error <= bound(wide, wide_k, wide_v, scale) + halves).all()
    fast = jitted(implementation, scale, precision="fast")(q, k, v, positions)
    error = np.abs(np.asarray(fast, np.float64) - reference(wide, wide_k, wide_v, positions, scale, None))
    assert (error <= fast_bound(wide, wide_k, wide_v, scale) + halves).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("length", [1, 6])
def test_scores_far_apart(length, implementation):
    """Differences of thousands: no weight may overflow, and one key wins."""
    q, k, v, positions, wide_k, wide_v = problem((2, length, 4, 2, 300, 32, 32))
    out = np.asarray(jitted(implementation, 300.0)(q, k, v, positions))
    error = np.abs(out - reference(q, wide_k, wide_v, positions, 300.0, None))
    assert (error <= bound(q, wide_k, wide_v, 300.0)).all()
    assert np.isfinite(out).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("length", [1, 6, 20])
@pytest.mark.parametrize("name", ["f32", "q8_0"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_position_gives_a_finite_result(precision, name, length, window, implementation):
    q, k, v, _, wide_k, wide_v = problem((2, length, 4, 2, 70, 32, 32), (name, name))
    limit = fast_bound if precision == "fast" else bound
    for position in (-1, -(2**31), 70, 75, 2**31 - 1):
        positions = np.full((2, length), position, np.int32)
        positions[1, -1] = 5  # what stands beside it is computed as ever
        out = np.asarray(jitted(implementation, 0.2, window=window, precision=precision)(q, k, v, positions))
        assert np.isfinite(out).all()
        alone = reference(q[1:, -1:], wide_k[1:], wide_v[1:], positions[1:, -1:], 0.2, window)
        assert (np.abs(out[1, -1] - alone[0, 0]) <= limit(q, wide_k, wide_v, 0.2)).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("length", [1, 3, 20])
def test_native_reads_nothing_behind_the_last_position(length, precision):
    """XLA multiplies what is masked by zero, of which a NaN takes no notice."""
    q, k, v, positions, *_ = problem((2, length, 4, 2, 600, 32, 32))
    run = jitted("native", 0.2, precision=precision)
    positions -= positions[-1, -1] - 299  # the last query of the last sequence sees 300 keys
    poisoned = [jnp.where(jnp.arange(600)[:, None] < 300, x, jnp.nan) for x in (k, v)]
    out = run(q, *poisoned, np.maximum(positions, 0))
    assert np.isfinite(out).all()
    seen = run(q, *(jnp.where(jnp.isnan(x), 0, x) for x in poisoned), np.maximum(positions, 0))
    assert (out == seen).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("length", [1, 20])
@pytest.mark.parametrize("what", [np.nan, np.inf])
def test_a_native_nan_is_not_hidden(what, length, precision):
    q, k, v, positions, *_ = problem((1, length, 2, 1, 40, 32, 32))
    run = jitted("native", 0.2, precision=precision)
    cases = [(k, v.at[0, 0, 3].set(what))]
    if np.isnan(what):  # an infinite key may have the score -inf, which hides it rightly
        cases.append((k.at[0, 0, 3, 0].set(what), v))
    for poisoned in cases:
        assert not np.isfinite(run(q, *poisoned, positions)[:, 3:]).any()


@pytest.mark.parametrize("name", ["f16", "q4_0"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("length", [1, 3, 50])
def test_native_bits_do_not_depend_on_company_or_threads(length, name, precision):
    q, k, v, positions, *_ = problem((3, length, 6, 2, 900, 64, 32), (name, name))
    run = jitted("native", 0.125, window=300, precision=precision)
    together = np.asarray(run(q, k, v, positions))
    threads = library().gguf_jax_threads()
    try:
        for count in (1, 3):
            library().gguf_jax_set_threads(count)
            assert (np.asarray(run(q, k, v, positions)) == together).all()
    finally:
        library().gguf_jax_set_threads(threads)
    for b in range(3):
        alone = jax.tree.map(lambda x, b=b: x[b : b + 1], (q, k, v, positions))
        assert (np.asarray(run(*alone)) == together[b]).all()
    if length > 10:  # blocks cut elsewhere
        assert (np.asarray(run(q[:, 7:], k, v, positions[:, 7:])) == together[:, 7:]).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["f32", "q8_0"])
@pytest.mark.parametrize("length", [1, 6])
def test_a_span_changes_nothing(length, name, implementation):
    q, k, v, positions, *_, wide_v = problem((2, length, 4, 2, 300, 32, 32), (name, name))
    positions = np.minimum(positions, 60 + np.arange(length, dtype=np.int32))
    whole, part = (jitted(implementation, 0.2, span=span)(q, k, v, positions) for span in (None, 70))
    assert np.abs(np.asarray(whole - part)).max() <= EPS * (300 + 16) * np.abs(wide_v).max()


def test_spans():
    def cache(slots):
        return (jax.ShapeDtypeStruct((1, 2, slots, 32), jnp.float16),) * 2

    assert attention_spans(*cache(1000), implementation="xla") == (256, 512, 1000)
    assert attention_spans(*cache(1024), implementation="xla") == (256, 512, 1024)
    assert attention_spans(*cache(100), implementation="xla") == (100,)
    spans = partial(attention_spans, implementation="native")
    assert needed("native", spans, *cache(1000)) == (1000,)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("length", [1, 6])
def test_native_derivatives_are_the_definition_s(length, window):
    q, k, v, positions, *_ = problem((2, length, 4, 2, 9, 8, 6))

    def loss(q, k, v, implementation):
        out = attention(q, k, v, positions, scale=0.3, window=window, implementation=implementation)
        return (out**2).sum()

    found, expected = (
        needed(name, jax.jit(jax.grad(partial(loss, implementation=name), argnums=(0, 1, 2))), q, k, v)
        for name in ("native", "xla")
    )
    for a, b in zip(found, expected, strict=True):
        assert np.abs(np.asarray(b)).max() > 0.01
        assert np.abs(np.asarray(a - b)).max() <= 64 * EPS * max(1, np.abs(np.asarray(b)).max())
    forward = jax.jacfwd(lambda q: attention(q, k, v, positions, scale=0.3, implementation="native"))(jnp.asarray(q))
    assert forward.shape == (2, length, 4, 6, 2, length, 4, 8)


def test_native_gradient_through_a_packed_cache():
    q, k, v, positions, *_ = problem((1, 6, 4, 2, 40, 32, 32), ("q8_0", "q4_0"))

    def loss(q, implementation):
        return (attention(q, k, v, positions, scale=0.3, implementation=implementation) ** 2).sum()

    found, expected = (needed(name, jax.grad(loss), jnp.asarray(q), name) for name in ("native", "xla"))
    assert np.abs(np.asarray(found - expected)).max() <= 64 * EPS * max(1, np.abs(np.asarray(expected)).max())


def test_native_under_vmap():
    q, k, v, positions, *_ = problem((3, 6, 4, 2, 40, 32, 32), ("q8_0", "f16"))
    run = partial(attention, scale=0.3, implementation="native")
    together = needed("native", run, q, k, v, positions)
    mapped = jax.vmap(run)(*jax.tree.map(lambda x: jnp.asarray(x)[:, None], (q, k, v, positions)))
    assert (mapped[:, 0] == together).all()


def test_shapes_that_do_not_fit():
    q, k = jnp.ones((1, 2, 3, 4)), jnp.ones((1, 2, 5, 4))  # three heads over two groups
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 4\).*\(1, 2, 5, 4\)"):
        attention(q, k, k, jnp.zeros((1, 2), jnp.int32), scale=1.0)
    with pytest.raises(ValueError, match=r"positions \(1, 3\) do not fit"):
        attention(q[:, :, :2], k, k, jnp.zeros((1, 3), jnp.int32), scale=1.0)
    good = partial(attention, q[:, :, :2], k, k, jnp.zeros((1, 2), jnp.int32), scale=1.0)
    with pytest.raises(ValueError, match="window of at least 1, found 0"):
        good(window=0)
    with pytest.raises(ValueError, match=r"sinks of 2 heads, found \(3,\)"):
        good(sinks=jnp.ones(3))
    with pytest.raises(ValueError, match="softcap above 0, found 0"):
        good(softcap=0.0)
    with pytest.raises(ValueError, match="exact or fast, found 'quick'"):
        good(precision="quick")
    with pytest.raises(ValueError, match="span from 1 to the cache's 5, found 6"):
        good(span=6)


def test_native_refuses_what_it_cannot_do():
    q, k, v, positions, *_ = problem((1, 2, 2, 1, 5, 32, 32))
    run = partial(attention, scale=1.0, implementation="native")
    needed("native", run, q, k, v, positions)
    with pytest.raises(Unsupported, match="caches, found int8"):
        run(q, jnp.asarray(k, jnp.int8), v, positions)
    with pytest.raises(Unsupported, match="caches, found Q4_1"):
        run(q, _q4_1(), v, positions)
    with jax.enable_x64(True), pytest.raises(Unsupported, match="found float64"):
        run(jnp.asarray(q, jnp.float64), k, v, positions)


def _q4_1():
    half = jnp.zeros((1, 1, 5, 1), jnp.float16)
    return QuantizedArray({"d": half, "m": half, "qs": jnp.zeros((1, 1, 5, 16), jnp.uint8)}, GGMLType.Q4_1)


def test_the_handler_checks_every_size():
    """Whatever calls it: nothing is read before all shapes fit."""
    target = needed("native", ffi_target, "gguf_jax_attention")
    q, positions = jnp.ones((2, 3, 4, 32)), jnp.zeros((2, 3), jnp.int32)
    k = jnp.ones((2, 2, 5, 32))
    d, qs = jnp.ones((2, 2, 5, 1), jnp.float16), jnp.ones((2, 2, 5, 32), jnp.int8)

    def call(q, positions, *planes, sinks=0, k_type=0, v_type=0, out=(2, 3, 4, 32), softcap=0, window=0, fast=False):
        numbers = dict(k_type=np.int64(k_type), v_type=np.int64(v_type), window=np.int64(window))
        numbers |= dict(scale=np.float32(1), softcap=np.float32(softcap))
        run = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(out, q.dtype))
        return run(q, positions, jnp.ones(sinks), *planes, fast=fast, **numbers).block_until_ready()

    assert np.isfinite(call(q, positions, k, k)).all()
    assert np.isfinite(call(q, positions, d, qs, k, k_type=8)).all()
    assert np.isfinite(call(q, positions, k, k, sinks=4, softcap=2)).all()
    wrong = [
        (q[0], positions, k, k),
        (q, positions[:, :2], k, k),
        (q, positions.astype(jnp.float32), k, k),
        (q, positions, k),
        (q, positions, k, k, k),
        (q, positions, k[..., :31], k),
        (q, positions, k, k[:, :, :4]),
        (q, positions, k[:, :1], k),
        (q, positions, k[:1], k[:1]),
        (q, positions, k.astype(jnp.float16), k),
        (q[:, :, :3], positions, k, k),
    ]
    for operands in wrong:
        with pytest.raises(jax.errors.JaxRuntimeError, match=r"attention: expected q \[B,T,H,D\].*found "):
            call(*operands)
    for operands, options in [
        ((d, qs, k), dict(k_type=2)),
        ((d[:, :, :4], qs, k), dict(k_type=8)),
        ((qs, d, k), dict(k_type=8)),
        ((k, k), dict(k_type=8)),
        ((k, k), dict(k_type=7)),
        ((k, k), dict(k_type=-1)),
        ((k, k), dict(out=(2, 3, 4, 33))),
        ((k, k), dict(window=-1)),
        ((k, k), dict(sinks=3)),
        ((k, k), dict(sinks=(4, 1))),
        ((k, k), dict(softcap=-1)),
        ((k, k), dict(softcap=np.nan)),
    ]:
        with pytest.raises(jax.errors.JaxRuntimeError, match=r"F32\[2,3,4,32\] S32\[2,3\]|attention: expected"):
            call(q, positions, *operands, **options)


def test_empty_operands():
    q, k, v, positions, *_ = problem((1, 2, 2, 1, 5, 32, 32))
    for implementation in IMPLEMENTATIONS:
        run = partial(attention, scale=1.0, implementation=implementation)
        assert needed(implementation, run, q[:0], k[:0], v[:0], positions[:0]).shape == (0, 2, 2, 32)
