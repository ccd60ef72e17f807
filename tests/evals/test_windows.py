"""Windows are those of the definition; what makes none is an error with both numbers."""

import numpy as np
import pytest

from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals.windows import Windows, text_tokens, windows_of
from tests.evals.reference import WordTokenizer, scored
from tests.support import small_model


def cases():
    for length, ctx_size, stride, chunks, bos in (
        (40, 8, None, None, None),
        (47, 8, None, None, 1),
        (47, 9, None, 3, 1),
        (9, 9, None, None, None),
        (50, 8, 3, None, None),
        (50, 8, 3, None, 1),
        (50, 8, 7, 2, None),
        (9, 8, 1, None, None),
        (3, 3, None, 10, None),
    ):
        yield pytest.param(length, ctx_size, stride, chunks, bos, id=f"{length}-{ctx_size}-{stride}-{chunks}-{bos}")


@pytest.mark.parametrize(("length", "ctx_size", "stride", "chunks", "bos"), list(cases()))
@pytest.mark.parametrize("size", [1, 4])
def test_exact_inputs_and_targets(length, ctx_size, stride, chunks, bos, size):
    tokens = np.random.default_rng(0).integers(2, 97, length)
    windows = Windows.of(tokens, ctx_size, stride=stride, chunks=chunks, bos=bos)
    expected = scored(tokens, ctx_size, bos, stride, chunks)
    assert len(windows) == len(expected)
    batches = list(windows.batches(size))
    assert {batch.inputs.shape for batch in batches} == {(size, ctx_size - 1)}  # one program
    assert {batch.targets.shape for batch in batches} == {(size, windows.scored)}
    assert [batch.start for batch in batches] == list(range(0, len(expected), size))
    inputs = np.concatenate([batch.inputs[: batch.count] for batch in batches])
    targets = np.concatenate([batch.targets[: batch.count] for batch in batches])
    for (seen, asked, after), found, target in zip(expected, inputs, targets, strict=True):
        assert found.tolist() == seen[:-1]
        assert target.tolist() == after
        assert asked == list(range(windows.first, ctx_size - 1))


def test_padding_repeats_a_window():
    (_, last) = Windows.of(np.arange(24), 8).batches(2)
    assert last.count == 1
    assert (last.inputs[0] == last.inputs[1]).all()
    assert (last.targets[0] == last.targets[1]).all()


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (range(7), {}, "text: expected at least 8 tokens for one window of 8, found 7"),
        (range(8), {"stride": 2}, "text: expected at least 9 tokens for one window of 8, found 8"),
        ([], {}, "text: expected at least 8 tokens for one window of 8, found 0"),
        (range(20), {"ctx_size": 2}, "ctx_size: expected from 3 to 2147483647 tokens, found 2"),
        (range(20), {"stride": 8}, r"stride: expected from 1 to 7 \(ctx_size - 1\), found 8"),
        (range(20), {"stride": 0}, r"stride: expected from 1 to 7 \(ctx_size - 1\), found 0"),
        (range(20), {"chunks": 0}, "chunks: expected at least 1, found 0"),
        (range(20), {"vocab_size": 19}, "tokens: expected ids from 0 to 18, found 19"),
        ([0, -1] * 8, {}, "tokens: expected ids from 0 to 2147483647, found -1"),
        ([0.5] * 8, {}, r"tokens: expected integers \[T\], found float64 \[8\]"),
        ([[1]] * 8, {}, r"tokens: expected integers \[T\], found int64 \[8, 1\]"),
    ],
)
def test_errors_say_what_and_how_much(tokens, options, message):
    with pytest.raises(GGUFJaxError, match=message):
        Windows.of(list(tokens), **({"ctx_size": 8} | options))


def test_batch_size():
    windows = Windows.of(np.arange(80), 8)
    assert windows.batch_size(None) == 10  # all there are
    assert windows.batch_size(4) == 4
    with pytest.raises(GGUFJaxError, match="batch_size: expected at least 1 window, found 0"):
        windows.batch_size(0)


@pytest.mark.parametrize("add_bos", [False, True])
def test_bos_is_where_the_tokenizer_has_it(add_bos):
    model = small_model()
    model.tokenizer = WordTokenizer(add_bos)
    text = " ".join(map(str, range(2, 26)))
    assert text_tokens(model.tokenizer, text)[0] == (1 if add_bos else 2)
    windows = windows_of(model, text, ctx_size=8)
    assert len(windows) == 3
    (batch,) = windows.batches(3)
    assert (batch.inputs[:, 0] == 1).all() == add_bos


def test_a_text_needs_a_tokenizer():
    with pytest.raises(GGUFJaxError, match="text: expected token ids, as the model has no tokenizer; found a str"):
        windows_of(small_model(), "text")
