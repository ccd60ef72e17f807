"""Exact: the windows, counts and numbers of llama-imatrix. Property: sums are those of the activations themselves, in
whatever batches; what was begun and gone on with is what was done at once; programs that nobody observes stay."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals import activations
from gguf_jax.evals.imatrix import collect_imatrix, cut
from gguf_jax.generation import steps
from gguf_jax.nn.observe import observable
from gguf_jax.quantization.imatrix_file import read_sums, write_imatrix
from gguf_jax.quantization.imatrix_sums import Sums
from tests.support import EPS, small_model

REFERENCE = Path(__file__).parent / "stories260K-imatrix.gguf"
"""llama-imatrix -m stories260K.gguf -f tinystories.txt -c 64 -b 128 --chunks 5 -ctk f32 -ctv f32 -fa off, of llama.cpp
0c1e570. With flash attention, its default, it rounds to half precision on the way and is 2e-3 off itself."""

CTX = 16
IDS = np.random.default_rng(0).integers(0, 97, 5 * CTX + 3).tolist()


class Tokenizer:
    """One token a character, and a BOS."""

    add_bos, bos_id = True, 1

    def encode(self, text, *, add_special=True, parse_special=False):
        return [*[self.bos_id] * add_special, *(3 + parse_special + ord(c) % 64 for c in text)]


def recorded(model, windows):
    """What the layers of a model are given, run without jit: name -> `[T, n_in]`, all windows one after the other."""
    spec, leaves = steps.split(model)
    fresh, seen = spec.model(leaves), {}
    for name, layer in observable(fresh):
        layer.observer = lambda x, experts, name=name: seen.setdefault(name, []).append(np.asarray(x[0], np.float64))
    for window in windows:
        tokens = jnp.asarray(window, jnp.int32)[None]
        hidden, _ = fresh.hidden(tokens, jnp.arange(len(window))[None])
        fresh.logits(hidden)
    return {name: np.concatenate(each) for name, each in seen.items()}


def close(a, b, n):
    """Equal up to the rounding of sums of `n` squares."""
    np.testing.assert_allclose(a, b, rtol=EPS * n)


def same(a, b, rtol=0.0):
    assert list(a.entries) == list(b.entries)
    for name, entry in a.entries.items():
        np.testing.assert_array_equal(entry.counts, b.entries[name].counts, err_msg=name)
        np.testing.assert_allclose(entry.in_sum2, b.entries[name].in_sum2, rtol=rtol, err_msg=name)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_sums_are_those_of_the_activations(batch_size):
    model = small_model(attn_bias=batch_size % 2 == 1, ffn_bias=batch_size == 2)
    found = collect_imatrix(model, [IDS], ctx_size=CTX, batch_size=batch_size)
    seen = recorded(model, cut(model, IDS, CTX))
    assert list(found.entries) == sorted(name for name in seen if name.startswith("blk."))
    assert (found.chunks, found.chunk_size, found.datasets) == (5, CTX, ())
    for name, entry in found.entries.items():
        assert entry.in_sum2.dtype == np.float64
        close(entry.in_sum2, np.square(seen[name]).sum(0)[None], 5 * CTX)
        np.testing.assert_array_equal(entry.counts, [5 * CTX])


def test_the_first_block_gets_normed_embeddings():
    model = small_model()
    found = collect_imatrix(model, [IDS], ctx_size=CTX, chunks=1)
    x = model.token_embd.weight.get_value()[np.array(IDS[:CTX])]
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + model.config.norm_eps)
    x = np.float64(x * model.blk[0].attn_norm.weight.get_value())
    for name in ("attn_q", "attn_k", "attn_v"):
        close(found.entries[f"blk.0.{name}.weight"].in_sum2, np.square(x).sum(0)[None], CTX)


def test_entries_are_those_of_the_c_reference(shared):
    model = gj.load(shared / "models" / "stories260K" / "stories260K.gguf")
    text = (shared / "text" / "tinystories.txt").read_text("utf-8").removesuffix("\n")
    found = collect_imatrix(model, text, datasets=["tinystories.txt"], ctx_size=64, chunks=5, batch_size=2)
    peer = read_sums(REFERENCE)
    assert (found.chunks, found.chunk_size, found.datasets) == (peer.chunks, peer.chunk_size, peer.datasets)
    tokens, blocks = 5 * 64, model.config.block_count
    same(found, peer, rtol=EPS * np.sqrt(tokens * blocks))  # both round a sum of that many squares, after the blocks


def test_one_program_for_all_batches():
    model = small_model(vocab_size=101)
    before = activations.run._cache_size()
    collect_imatrix(model, [IDS[:CTX] * 7], ctx_size=CTX, batch_size=3)
    assert activations.run._cache_size() == before + 1


def test_a_model_that_was_observed_computes_what_it_did():
    model, tokens = small_model(), np.array([IDS[:CTX]])
    before, jaxpr = np.asarray(model(tokens)), str(jax.make_jaxpr(model.__call__)(tokens))
    collect_imatrix(model, [IDS], ctx_size=CTX)
    assert all(layer.observer is None for _, layer in observable(model))
    assert str(jax.make_jaxpr(model.__call__)(tokens)) == jaxpr
    np.testing.assert_array_equal(np.asarray(model(tokens)), before)


def test_nothing_but_sums_leaves_the_device():
    model = small_model()
    spec, leaves = steps.split(model)
    shapes = jax.eval_shape(
        lambda *inputs: activations.run(*inputs, spec=spec, process_output=False, scored=7),
        leaves, jax.ShapeDtypeStruct((4, CTX), jnp.int32), jax.ShapeDtypeStruct((4,), jnp.bool),
    )  # fmt: skip
    sums, scores = shapes
    widths = activations.shapes(model)
    assert {name: each.in_sum2.shape for name, each in sums.items()} == {name: widths[name] for name in sums}
    assert scores.shape == (4, 7)  # a number for each scored token


@pytest.mark.parametrize("tied", [False, True])
def test_process_output(tied):
    model = small_model(tied_output=tied)
    found = collect_imatrix(model, [IDS], ctx_size=CTX, process_output=True)
    assert ("output.weight" in found.entries) == (not tied)
    if not tied:
        seen = recorded(model, cut(model, IDS, CTX))["output.weight"]
        close(found.entries["output.weight"].in_sum2, np.square(seen).sum(0)[None], 5 * CTX)


@pytest.mark.parametrize("own", [False, True])
def test_experts_are_counted_one_by_one(own):
    rng = np.random.default_rng(1)
    batch, length, used, n_mat, n_in = 3, 5, 2, 6, 4
    x = rng.standard_normal((batch, length, *((used,) if own else ()), n_in)).astype(np.float32)
    experts = np.stack([rng.choice(n_mat - 1, used, replace=False) for _ in range(batch * length)])
    experts = experts.reshape(batch, length, used)
    valid = np.array([True, True, False])
    sums, counts = np.zeros((n_mat, n_in)), np.zeros(n_mat)
    for b, t, k in np.ndindex(2, length, used):
        expert = experts[b, t, k]
        sums[expert] += np.square(np.float64(x[b, t, k] if own else x[b, t]))
        counts[expert] += 1
    found = activations.squares_of_experts(jnp.asarray(x), jnp.asarray(experts), n_mat, jnp.asarray(valid))
    np.testing.assert_array_equal(found.counts, counts)
    close(found.in_sum2, sums, 2 * length * used)
    assert counts[-1] == 0


def test_bos_begins_every_window():
    model = small_model()
    model.tokenizer = Tokenizer()
    text = "It was a fine morning in April, and the clocks were striking."
    ids = model.tokenizer.encode(text)
    windows = cut(model, text, CTX)
    assert windows.shape == (len(ids) // CTX, CTX)
    np.testing.assert_array_equal(windows[:, 0], 1)
    np.testing.assert_array_equal(windows[:, 1:], np.array(ids[: windows.size]).reshape(-1, CTX)[:, 1:])
    np.testing.assert_array_equal(cut(model, ids, CTX), windows)
    assert (cut(model, text, CTX, parse_special=True) != windows).any()
    model.tokenizer.add_bos = False
    np.testing.assert_array_equal(cut(model, ids, CTX).ravel(), ids[: windows.size])


def test_several_texts_are_cut_each_by_itself():
    model = small_model()
    two = collect_imatrix(model, [IDS, IDS[7 : 7 + 2 * CTX]], ctx_size=CTX, datasets=["a", "b"])
    assert (two.chunks, two.datasets) == (7, ("a", "b"))
    same(two, collect_imatrix(model, np.concatenate([cut(model, IDS, CTX), cut(model, IDS[7:39], CTX)])), rtol=EPS)


def test_begun_and_gone_on_with_is_done_at_once(tmp_path):
    model = small_model()
    options = {"ctx_size": CTX, "batch_size": 1}
    whole = collect_imatrix(model, [IDS], datasets=["a"], **options)
    first = collect_imatrix(model, [IDS], datasets=["a"], chunks=2, **options)
    same(collect_imatrix(model, [IDS], from_chunk=2, start=first, **options), whole)
    write_imatrix(tmp_path / "a.gguf", first)
    rest = collect_imatrix(model, [IDS], from_chunk=2, start=read_sums(tmp_path / "a.gguf"), **options)
    assert (rest.chunks, rest.datasets) == (5, ("a",))
    same(rest, whole, rtol=EPS)


def test_an_interruption_leaves_a_whole_record():
    seen = []

    def interrupt(progress):
        seen.append(progress)
        if progress.windows == 3:
            raise KeyboardInterrupt

    model = small_model()
    with pytest.raises(KeyboardInterrupt):
        collect_imatrix(model, [IDS], ctx_size=CTX, batch_size=1, on_batch=interrupt)
    same(seen[-1].sums, collect_imatrix(model, [IDS], ctx_size=CTX, batch_size=1, chunks=3))
    assert [each.sums.chunks for each in seen] == [1, 2, 3]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_perplexity_of_second_halves(batch_size):
    model, seen = small_model(), []
    collect_imatrix(model, [IDS], ctx_size=CTX, batch_size=batch_size, perplexity=True, on_batch=seen.append)
    windows = cut(model, IDS, CTX)
    logits = np.asarray(model(windows), np.float64)
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    scored = range(CTX // 2, CTX - 1)
    nll = -np.array([[log[w, t, windows[w, t + 1]] for t in scored] for w in range(len(windows))])
    last = seen[-1].perplexity
    error = EPS * np.sqrt(nll.size) * np.abs(logits).max()  # of a logarithm
    np.testing.assert_allclose(last.perplexity, np.exp(nll.mean()), rtol=error)
    stderr = nll.std() / np.sqrt(nll.size - 1) * np.exp(nll.mean())
    np.testing.assert_allclose(last.stderr, stderr, rtol=error + error / nll.std())
    means = np.cumsum(nll.sum(1)) / (np.arange(1, 6) * len(scored))
    np.testing.assert_allclose([log.value for log in last.after_each_window()], means, atol=error)


def test_of_a_quantized_model(bundled):
    model = gj.load(bundled)
    ids = np.random.default_rng(2).integers(0, model.config.vocab_size, 2 * CTX)
    found = collect_imatrix(model, [ids.tolist()], ctx_size=CTX)
    seen = recorded(model, cut(model, ids.tolist(), CTX))
    assert len(found.entries) == 7 * model.config.block_count
    for name, entry in found.entries.items():  # two programs, whose products round differently in every block
        scale = np.square(seen[name]).sum(0).mean()
        bound = EPS * model.config.block_count * np.sqrt(model.config.feed_forward_length) * scale
        np.testing.assert_allclose(entry.in_sum2[0], np.square(seen[name]).sum(0), rtol=EPS * 2 * CTX, atol=bound)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": [IDS[:5]]}, "text 1: expected at least 16 tokens for one window of 16, found 5"),
        ({"texts": []}, "texts: expected at least one, found none"),
        ({"texts": [[97] * CTX]}, "text 1: tokens: expected ids from 0 to 96, found 97"),
        ({"texts": [[0] * CTX + [-1]]}, "text 1: tokens: expected ids from 0 to 96, found -1"),
        ({"texts": [[0.5] * CTX]}, r"text 1: tokens: expected integers \[T\], found float64 \[16\]"),
        ({"texts": "words"}, "text 1: expected token ids, as the model has no tokenizer; found a str"),
        ({"ctx_size": 8}, "ctx_size: expected at least 16 tokens, found 8"),
        ({"chunks": 0}, "chunks: expected at least 1, found 0"),
        ({"from_chunk": 5}, "from_chunk: expected from 0 to 4 for 5 chunks of text, found 5"),
        ({"batch_size": 0}, "batch_size: expected at least 1 window, found 0"),
    ],
)
def test_wrong_arguments(options, message):
    arguments = {"texts": [IDS], "ctx_size": CTX} | options
    with pytest.raises(GGUFJaxError, match=message):
        collect_imatrix(small_model(), arguments.pop("texts"), **arguments)


def test_another_models_sums():
    model, other = small_model(), small_model(feed_forward_length=40)
    start = collect_imatrix(other, [IDS], ctx_size=CTX, chunks=1)
    with pytest.raises(
        GGUFJaxError, match=r"entry 'blk.0.ffn_down.weight': expected 48 values for the model, found 40"
    ):
        collect_imatrix(model, [IDS], ctx_size=CTX, start=start)
    start.entries["blk.9.attn_q.weight"] = Sums(np.ones((1, 32)), np.ones(1))
    with pytest.raises(
        GGUFJaxError, match=r"entry 'blk.9.attn_q.weight': expected a weight of the model, which has none"
    ):
        collect_imatrix(other, [IDS], ctx_size=CTX, start=start)


def test_activations_that_are_not_finite():
    model = small_model()
    weight = model.blk[1].ffn_up.weight
    weight.set_value(jnp.asarray(weight.get_value()).at[0].set(jnp.inf))
    with pytest.raises(
        GGUFJaxError, match=r"'blk.1.ffn_down.weight': expected finite activations, found others in chunks"
    ):
        collect_imatrix(model, [IDS], ctx_size=CTX)
