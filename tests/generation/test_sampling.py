"""Drawing tokens: frequencies, seeds, neighbours, penalties, greedy slots, compilations."""

import re
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_jax.generation.sampling import (
    SamplingParams,
    accept,
    filtered_log_probs,
    log_probs,
    make_sampler,
    plan_for,
    sample,
    with_prompt,
)
from tests.generation import sampling_reference as reference

compiled = jax.jit(sample, static_argnums=2)
compiled_accept = jax.jit(accept)


def tokens_of(logits, params, steps=1, plan=None):
    """Tokens `[steps, B]` of logits `[steps, B, V]` (or the same `[B, V]` each step)."""
    V = logits.shape[-1]
    plan, sampler = plan or plan_for(params, V), make_sampler(params, V)
    out = []
    for i in range(steps):
        tokens, sampler = compiled(logits[i] if logits.ndim == 3 else logits, sampler, plan)
        out.append(np.asarray(tokens))
    return np.array(out)


# --- frequencies -----------------------------------------------------------------------------------------------------


def chi_square(counts, p):
    """(statistic, the value it exceeds once in a million if `counts` follow `p`), cells below 5 expected merged."""
    expected = p * counts.sum()
    order = np.argsort(expected)
    cells = np.cumsum(expected[order]) // 5 if expected.min() < 5 else np.arange(len(p))
    _, cells = np.unique(np.minimum(cells, cells[-1] - 1) if cells[-1] > 0 else cells, return_inverse=True)
    seen, wanted = np.bincount(cells, counts[order]), np.bincount(cells, expected[order])
    df = len(wanted) - 1
    z = NormalDist().inv_cdf(1 - 1e-6)
    quantile = df * (1 - 2 / (9 * df) + z * np.sqrt(2 / (9 * df))) ** 3  # Wilson and Hilferty 1931
    return ((seen - wanted) ** 2 / wanted).sum(), quantile


DRAWS = [
    {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0},
    {"top_k": 10, "top_p": 1.0, "min_p": 0.0, "temperature": 1.5},
    {"top_k": 0, "top_p": 0.9, "min_p": 0.0, "temperature": 0.7},
    {},
]


@pytest.mark.parametrize(
    ("V", "params"), [*[(30, params) for params in DRAWS], *[(1100, params) for params in DRAWS[::2]]], ids=str
)
def test_property_frequencies_over_seeds_and_over_steps(V, params):
    """V = 30 is drawn from a list, and V = 1100 from the whole vocabulary."""
    B, steps = 400, 10
    rows = np.random.default_rng(3).normal(size=(100, V)).astype(np.float32) * 1.5
    logits = next(row for row in rows if reference.filtered(row.astype(np.float64), SamplingParams(**params)).sure)
    batch = [SamplingParams(**params, seed=seed) for seed in range(B)]
    tokens = tokens_of(np.tile(logits, (B, 1)), batch, steps)
    kept = reference.filtered(logits.astype(np.float64), batch[0])
    log_p, _ = reference.log_distribution(logits.astype(np.float64), kept.tokens, batch[0].temperature)
    assert set(tokens.ravel()) <= set(kept.tokens)
    counts = np.bincount(tokens.ravel(), minlength=V)[kept.tokens]
    statistic, quantile = chi_square(counts, np.exp(log_p[kept.tokens]))
    assert statistic < quantile
    # The test can fail: another temperature is found out.
    other, _ = reference.log_distribution(logits.astype(np.float64), kept.tokens, batch[0].temperature / 2)
    statistic, quantile = chi_square(counts, np.exp(other[kept.tokens]))
    assert statistic > quantile


# --- seeds and neighbours --------------------------------------------------------------------------------------------

SLOTS = [
    SamplingParams(seed=1),
    SamplingParams(seed=1, top_k=0),
    SamplingParams(seed=2, top_k=0, top_p=1.0, min_p=0.0, temperature=1.5),
    SamplingParams(seed=3, top_k=200, typical_p=0.8),
    SamplingParams.greedy(),
    SamplingParams(seed=2**64 - 1, repeat_penalty=1.3, frequency_penalty=0.5, penalty_last_n=7),
    SamplingParams(seed=5, logit_bias={3: 5.0, 4: -np.inf}),
    SamplingParams(seed=6, top_k=1500, typical_p=0.5),
]


@pytest.mark.parametrize("scale", [1.0, 6.0])  # flat: the whole vocabulary is drawn from; peaked: the lists do
def test_property_a_slot_alone_is_the_slot_in_any_batch(scale):
    V, steps = 2000, 6
    rng = np.random.default_rng(4)
    logits = (rng.normal(size=(steps, len(SLOTS), V)) * scale).astype(np.float32)
    together = tokens_of(logits, SLOTS, steps)
    reordered = rng.permutation(len(SLOTS))
    np.testing.assert_array_equal(
        tokens_of(logits[:, reordered], [SLOTS[i] for i in reordered], steps), together[:, reordered]
    )
    for b, params in enumerate(SLOTS):
        plan = None if b < 3 else plan_for(SLOTS, V)  # its own or a larger one; each own one is a compilation
        alone = tokens_of(logits[:, [b]], [params], steps, plan)
        np.testing.assert_array_equal(alone, together[:, [b]], str(params))


def test_exact_seeds():
    logits = np.zeros((1, 40), np.float32)
    flat = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}

    def text(seed):
        return tuple(tokens_of(logits, [SamplingParams(seed=seed, **flat)], 12).ravel().tolist())

    seeds = [0, 1, 2, 2**32, 2**32 + 1, 2**64 - 1]
    texts = [text(seed) for seed in seeds]
    assert [text(seed) for seed in seeds] == texts
    assert len(set(texts)) == len(seeds)
    assert text(None) != text(None)  # equal once in 40**12
    assert all(len(set(t)) > 1 for t in texts)  # steps differ


def test_exact_a_seed_gives_these_tokens():
    """A seed's tokens are part of the contract, so a change of the noise must be meant."""
    bits = []
    for step in range(3):
        key = jax.random.fold_in(jax.random.wrap_key_data(jnp.array([0, 42], jnp.uint32), impl="threefry2x32"), step)
        bits.append([int(jax.random.key_data(jax.random.fold_in(key, token))[0]) for token in range(40)])
    params = SamplingParams(seed=42, temperature=1.0, top_p=1.0, min_p=0.0)
    tokens = tokens_of(np.zeros((1, 40), np.float32), [params], 3).ravel()
    assert tokens.tolist() == [int(np.argmin(row)) for row in bits]  # equal logits: the highest noise


# --- greedy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("V", [1, 65, 40000])
def test_exact_greedy_is_argmax(V):
    rng = np.random.default_rng(V)
    logits = np.round(rng.normal(size=(6, V)) * 2).astype(np.float32)
    logits[4] = -np.inf
    logits[5] = rng.normal(size=V)
    expected = logits.argmax(axis=-1)
    for temperature in (0.0, -1.0):
        np.testing.assert_array_equal(tokens_of(logits, [SamplingParams(temperature=temperature)] * 6)[0], expected)
    mixed = [SamplingParams.greedy(), SamplingParams(seed=1)] * 3
    np.testing.assert_array_equal(tokens_of(logits, mixed)[0][::2], expected[::2])


def test_exact_greedy_comes_after_bias_and_penalties():
    logits = np.array([[1.0, 4.0, 3.9, 2.0]], np.float32)
    params = SamplingParams(temperature=0, presence_penalty=1.0, logit_bias={3: 1.5})
    for batch in ([params], [params, SamplingParams(seed=0)]):
        tokens = tokens_of(np.tile(logits, (len(batch), 1)), batch, 5)
        # 1 -> 4.0; then 3.0, 3.9, 3.5: 2; then 3.0, 2.9, 3.5: 3; then 3.0, 2.9, 2.5: 1, which is penalized already.
        assert tokens[:, 0].tolist() == [1, 2, 3, 1, 1]


# --- bias and penalties ----------------------------------------------------------------------------------------------

PENALTIES = [
    {"repeat_penalty": 1.3},
    {"repeat_penalty": 0.7},
    {"presence_penalty": 0.8},
    {"frequency_penalty": 0.3},
    {"frequency_penalty": -0.2, "presence_penalty": -0.1},
    {"repeat_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.25},
]
WINDOWS = [0, 1, 5, 64, 65, 200, -1]
EVERYTHING = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}


def check_adjusted(logits, sampler, params, histories):
    """`filtered_log_probs` with every filter off is the log softmax of the adjusted logits."""
    V = logits.shape[1]
    found = jax.jit(filtered_log_probs, static_argnums=2)(logits, sampler, plan_for(params, V))
    for row, log_p, p, history in zip(logits.astype(np.float64), np.asarray(found), params, histories, strict=True):
        adjusted = reference.adjust(row, p, history)
        expected, error = reference.log_distribution(adjusted, reference.best_first(adjusted), 1.0)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(log_p), finite)
        # Bias, division or product, count * frequency, + presence, difference: five halves of an eps of this size, in
        # the token's own logit and in the normalizer.
        size = max(np.abs(x[finite]).max() for x in (row, adjusted, expected))
        size += np.abs(adjusted[finite] - row[finite]).max()
        assert (np.abs(log_p[finite] - expected[finite]) <= error[finite] + 5 * reference.EPS * size).all()


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_contract_penalties_over_windows_that_wrap(penalty):
    V, rng = 40, np.random.default_rng(5)
    params = [SamplingParams(**EVERYTHING, **penalty, penalty_last_n=n) for n in WINDOWS]
    sampler = make_sampler(params, V, context_length=300)
    logits = rng.normal(size=(len(params), V)).astype(np.float32)
    logits[:, :3] = [0.0, -0.0, -np.inf]
    prompts = [rng.integers(0, V, n).tolist() for n in (0, 3, 64, 300, 10, 257, 120)]
    sampler = with_prompt(sampler, prompts)
    histories = [list(p) for p in prompts]
    check_adjusted(logits, sampler, params, histories)
    for _ in range(4):
        tokens, valid = rng.integers(0, V, (len(params), 23)), rng.random((len(params), 23)) < 0.7
        sampler = compiled_accept(sampler, tokens, valid)
        for history, row, mask in zip(histories, tokens, valid, strict=True):
            history.extend(row[mask].tolist())
        check_adjusted(logits, sampler, params, histories)


def test_contract_sampled_tokens_enter_the_window():
    V, rng = 30, np.random.default_rng(6)
    params = [SamplingParams(**EVERYTHING, frequency_penalty=0.4, penalty_last_n=n, seed=n) for n in (1, 3, 70)]
    plan, sampler = plan_for(params, V), make_sampler(params, V)
    logits, histories = rng.normal(size=(3, V)).astype(np.float32), [[], [], []]
    for _ in range(80):
        tokens, sampler = compiled(logits, sampler, plan)
        for history, token in zip(histories, np.asarray(tokens).tolist(), strict=True):
            history.append(token)
    check_adjusted(logits, sampler, params, histories)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=150), st.lists(st.integers(0, 9), max_size=150))
def test_property_pieces_prompts_and_one_call_fill_the_same_window(pieces, prompt):
    params = [SamplingParams(repeat_penalty=1.1)]
    fresh = make_sampler(params, 10)
    T = 150  # one shape for every example: one compilation
    tokens, valid = np.zeros((1, T), np.int32), np.zeros((1, T), bool)
    for i, (token, ok) in enumerate(pieces):
        tokens[0, i], valid[0, i] = token, ok
    history = prompt + [token for token, ok in pieces if ok]
    whole = with_prompt(fresh, [history])
    parts = compiled_accept(with_prompt(fresh, [prompt]), tokens, valid)

    def newest(sampler):
        W, seen = sampler.window.shape[1], int(sampler.seen[0])
        return [int(sampler.window[0, (seen - 1 - age) % W]) for age in range(min(seen, W))]

    assert newest(whole) == newest(parts) == history[::-1][: fresh.window.shape[1]]


def test_contract_bias_is_added_and_forbids():
    V = 20
    params = [
        SamplingParams(**EVERYTHING, logit_bias={0: 3.0, 5: -np.inf}, seed=1),
        SamplingParams(**EVERYTHING, seed=2),
        SamplingParams(**EVERYTHING, logit_bias=dict.fromkeys(range(1, V), -np.inf), seed=3),
    ]
    logits = np.random.default_rng(7).normal(size=(3, V)).astype(np.float32)
    check_adjusted(logits, make_sampler(params, V), params, [[], [], []])
    tokens = tokens_of(logits, params, 50)
    assert 5 not in tokens[:, 0]
    assert set(tokens[:, 2].tolist()) == {0}


# --- log probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("V", "k"), [(1, 1), (50, 0), (50, 50), (20000, 5)])
def test_contract_log_probs(V, k):
    logits = np.random.default_rng(8).normal(size=(4, V)).astype(np.float32) * 4
    logits[1] = np.round(logits[1])
    logits[2, 1:] = -np.inf
    tokens = np.array([V // 2, 0, V - 1, V // 3])
    chosen, best, ids = jax.jit(log_probs, static_argnums=2)(logits, tokens, k)
    assert (chosen.shape, best.shape, ids.shape) == ((4,), (4, k), (4, k))
    for b, row in enumerate(logits.astype(np.float64)):
        order = reference.best_first(row)
        expected, error = reference.log_distribution(row, order, 1.0)
        error = error + reference.EPS * 2 * np.abs(row.max())  # the maximum is added back before it is subtracted
        np.testing.assert_array_equal(ids[b], order[:k])
        for found, token in [(chosen[b], tokens[b]), *zip(best[b], order[:k], strict=True)]:
            assert found == expected[token] or abs(found - expected[token]) <= error[token]


# --- compilations ----------------------------------------------------------------------------------------------------


def test_exact_one_compilation_for_a_plan_and_donated_state():
    traces = []

    def traced(logits, sampler, plan):
        traces.append(plan)
        return sample(logits, sampler, plan)

    step = jax.jit(traced, static_argnums=2, donate_argnums=1)
    rng = np.random.default_rng(9)
    for temperature in (0.5, 1.0):  # other numbers, the same plan
        batch = [
            SamplingParams(seed=1, temperature=temperature, repeat_penalty=1 + temperature),
            SamplingParams(top_k=0),
        ]
        sampler, plan = make_sampler(batch, 1500), plan_for(batch, 1500)
        for _ in range(10):
            before = sampler
            _, sampler = step(rng.normal(size=(2, 1500)).astype(np.float32), sampler, plan)
            assert before.window.is_deleted()
        assert sampler.step.tolist() == [10, 10]
    assert len(traces) == 1


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"top_k": 1000}, {"top_k": 0}], ids=str)
def test_exact_the_vocabulary_is_never_sorted(params):
    V = 70000
    batch = [SamplingParams(**params, repeat_penalty=1.1)]
    program = compiled.lower(np.zeros((1, V), np.float32), make_sampler(batch, V), plan_for(batch, V)).compile()
    sorts = re.findall(r"= \(?\w+\[1,(\d+)\][^=]* sort\(", program.as_text())
    assert all(int(n) < V // 4 for n in sorts), sorts
