"""The filters against their definitions: one suite for both implementations, and for `sample`'s own distribution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_jax.generation import filters
from gguf_jax.generation.sampling import SamplingParams, filtered_log_probs, make_sampler, plan_for
from gguf_jax.generation.sampling_params import SamplerPlan
from tests.generation import sampling_reference as reference

OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}
CHAINS = {
    "top_k": [{"top_k": k} for k in (1, 2, 7, 50)],
    "typical": [{"typical_p": p} for p in (0.0, 0.2, 0.5, 0.9, 0.999)],
    "top_p": [{"top_p": p} for p in (0.0, 0.1, 0.5, 0.95, 0.999)],
    "min_p": [{"min_p": p} for p in (1e-6, 0.05, 0.3, 1.0)],
    "all": [
        {"top_k": 40, "top_p": 0.95, "min_p": 0.05},
        {"top_k": 40, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.7},
        {"top_k": 0, "top_p": 0.8, "min_p": 0.1, "typical_p": 0.95},
    ],
}
"""One step at a time, then together."""

WIDE = 3000
"""A vocabulary too large for a list; one for all tests, so that they share compilations."""


def rows(V, seed=0):
    """float32 `[8, V]`: flat, peaked, with ties, with forbidden tokens, with large values."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(8, V)) * np.array([0.1, 1, 3, 10, 2, 2, 1, 1])[:, None]
    x[4] = np.round(x[4])
    x[5] = np.round(x[5] * 2) / 2
    x[6, rng.random(V) < 0.4] = -np.inf
    x[6, 0] = 0.0
    x[7] += 1000
    return x.astype(np.float32)


@functools.partial(jax.jit, static_argnames=("typical",))
def listed(logits, k, typical_p, top_p, min_p, typical):
    V = logits.shape[1]
    values, ids = filters.top_k(logits, V)
    keep = filters.keep_listed(values, ids, k, None, typical_p if typical else None, top_p, min_p)
    return jax.vmap(lambda at, row: jnp.zeros(V, bool).at[at].set(row))(ids, keep)


@functools.partial(jax.jit, static_argnames=("typical",))
def whole(logits, k, typical_p, top_p, min_p, typical):
    return filters.keep_whole(logits, k, typical_p if typical else None, top_p, min_p)


IMPLEMENTATIONS = {"listed": listed, "whole": whole}


def kept_by(implementation, logits, chain):
    """Kept tokens of each row as bool `[B, V]`."""
    B, V = logits.shape
    chain = OFF | chain
    k = chain["top_k"] or V
    columns = [np.full(B, chain[name], np.float32) for name in ("typical_p", "top_p", "min_p")]
    typical = chain["typical_p"] < 1 or V < 300  # the program without it is compiled for one size only
    return np.asarray(
        IMPLEMENTATIONS[implementation](logits, np.full(B, min(k, V), np.int32), *columns, typical=typical)
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("V", [2, 50, 300])
def test_contract_keeps_what_the_definition_keeps(V, name, implementation):
    logits, sure = rows(V), 0
    for chain in CHAINS[name]:
        found = kept_by(implementation, logits, chain)
        params = SamplingParams(**(OFF | chain))
        for row, keep in zip(logits, found, strict=True):
            expected = reference.filtered(row.astype(np.float64), params)
            assert keep.any()
            if expected.sure:
                sure += 1
                np.testing.assert_array_equal(np.flatnonzero(keep), np.sort(expected.tokens), str(chain))
    assert sure > len(CHAINS[name]) * len(logits) // 2


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_contract_the_crossing_token_stays_and_the_lowest_ids_win_ties(implementation):
    # Equal logits have exactly equal float32 weights, and 8 * 0.25 is exact: no rounding decides here.
    logits = np.full((1, 8), 3.5, np.float32)
    for chain, n in [
        ({"top_p": 0.25}, 2),
        ({"top_p": 0.26}, 3),
        ({"top_k": 5}, 5),
        ({"typical_p": 0.25}, 3),  # more than p, where top-p asks for at least p
        ({"typical_p": 0.24}, 2),
        ({"min_p": 1.0}, 8),
        ({"top_k": 4, "top_p": 0.5}, 2),  # half of the four that are left
    ]:
        assert np.flatnonzero(kept_by(implementation, logits, chain)[0]).tolist() == list(range(n)), chain


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_contract_signed_zeros_tie(implementation):
    logits = np.array([[-1.0, -0.0, 0.0, -0.0, 0.0, -2.0, -2.0, -2.0]], np.float32)
    assert np.flatnonzero(kept_by(implementation, logits, {"top_k": 2})[0]).tolist() == [1, 2]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-20, 20).map(lambda i: i / 4) | st.just(-np.inf), min_size=1, max_size=24),
    st.integers(0, 30),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_property_both_keep_what_the_definition_keeps(values, k, typical_p, top_p, min_p):
    logits = np.full((1, 24), -np.inf, np.float32)
    logits[0, : len(values)] = values
    if not np.isfinite(logits).any():
        logits[0, 0] = 0.0
    chain = {"top_k": k, "typical_p": typical_p, "top_p": top_p, "min_p": min_p}
    expected = reference.filtered(logits[0].astype(np.float64), SamplingParams(**chain))
    for implementation in IMPLEMENTATIONS:
        keep = kept_by(implementation, logits, chain)[0]
        assert keep.any()
        assert np.isfinite(logits[0][keep]).all()
        if expected.sure:
            assert np.flatnonzero(keep).tolist() == sorted(expected.tokens)


@pytest.mark.parametrize(
    ("V", "k"),
    [(1, 1), (63, 5), (64, 64), (65, 1), (1000, 1), (1000, 3), (5000, 1), (20001, 64), (70000, 256), (3000, 1024)],
)
def test_exact_top_k_is_a_stable_sort(V, k):
    rng = np.random.default_rng(V)
    x = rng.normal(size=(6, V)).astype(np.float32)
    x[1] = np.round(x[1])  # ties everywhere
    x[2] = np.float32(-np.inf)
    x[3, rng.random(V) < 0.95] = -np.inf
    x[4] = np.where(rng.random(V) < 0.5, -0.0, 0.0)
    x[5] = np.sort(x[5])
    values, ids = jax.jit(filters.top_k, static_argnums=1)(x, k)
    expected = np.argsort(-x, axis=-1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(x, expected, -1))


def distribution(logits, params, plan=None):
    """`filtered_log_probs` of the same params for each row, float64 `[B, V]`."""
    params = [params] * len(logits)
    V = logits.shape[1]
    compiled = jax.jit(filtered_log_probs, static_argnums=2)
    return np.asarray(compiled(logits, make_sampler(params, V), plan or plan_for(params, V)), np.float64)


@pytest.mark.parametrize(
    ("V", "params"),
    [
        (70, {}),
        (70, {"top_k": 0, "typical_p": 0.6}),
        (WIDE, {}),
        (WIDE, {"temperature": 0.3, "top_k": 900}),
        (WIDE, {"temperature": 1.7, "top_k": 1500, "top_p": 0.99}),
        (WIDE, {"top_k": 1500, "top_p": 0.05}),  # few enough for the list, but not a share of the whole
        (WIDE, {"top_k": 0}),
        (WIDE, {"top_k": 0, "min_p": 0.0}),
        (WIDE, {"temperature": 2.5, "top_k": 0, "min_p": 0.0, "top_p": 1.0}),
        (WIDE, {"top_k": 0, "typical_p": 0.6}),
        (WIDE, {"top_k": 50, "typical_p": 0.6, "top_p": 0.7}),
    ],
    ids=str,
)
def test_contract_sample_draws_from_the_definition(V, params):
    params = SamplingParams(**params)
    logits, sure = rows(V, seed=1), 0
    found = distribution(logits, params)
    for row, log_p in zip(logits.astype(np.float64), found, strict=True):
        kept = reference.filtered(row, params)
        if kept.sure:
            sure += 1
            expected, error = reference.log_distribution(row, kept.tokens, params.temperature)
            finite = np.isfinite(expected)
            np.testing.assert_array_equal(np.isfinite(log_p), finite)
            assert (np.abs(log_p[finite] - expected[finite]) <= error[finite]).all()
    assert sure >= len(logits) // 2


@pytest.mark.parametrize("params", [{}, {"typical_p": 0.6}, {"top_k": 3, "top_p": 0.5}, {"top_k": 1000}], ids=str)
def test_property_a_longer_list_or_a_larger_plan_changes_nothing(params):
    params = SamplingParams(**params)
    logits = rows(WIDE, seed=2)
    expected = np.isfinite(distribution(logits, params))
    larger = distribution(logits, params, SamplerPlan(1024, whole=True, typical=True))
    np.testing.assert_array_equal(np.isfinite(larger), expected)


EXTREMES = np.array(
    [
        np.full(300, -np.inf),
        np.full(300, 3e38),
        np.full(300, -3e38),
        np.where(np.arange(300) == 7, 3e38, -3e38),
        np.where(np.arange(300) == 7, -3e38, -np.inf),
        np.where(np.arange(300) % 2, 1e-45, -1e-45),
        np.linspace(-1e30, 1e30, 300),
        np.where(np.arange(300) < 2, np.inf, 0),
    ],
    np.float32,
)


@pytest.mark.parametrize("V", [1, WIDE])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 1e-9, "top_k": 0, "min_p": 0.0},
        {"temperature": 1e9, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {"top_p": 0.0, "top_k": 0},
        {"top_p": 0.0, "min_p": 1.0, "typical_p": 0.0},
        {"top_k": 0, "typical_p": 0.5, "min_p": 0.0},
        {"temperature": 0.0},
    ],
    ids=str,
)
def test_property_extreme_logits_leave_a_distribution(V, params):
    logits = np.tile(EXTREMES, WIDE // EXTREMES.shape[1])[:, :V]
    log_p = distribution(logits, SamplingParams(**params))
    assert not np.isnan(log_p).any()
    assert np.isfinite(log_p).any(axis=1).all()
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, rtol=reference.EPS * (V + 8))
    forbidden = np.isneginf(logits) & ~np.isneginf(logits).all(axis=1, keepdims=True)
    assert np.isneginf(log_p[forbidden]).all()
