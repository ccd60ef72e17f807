"""Embeddings: what poolings make of a text's states, alone or beside others, and what is refused."""

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.checkpoint import tensors_of
from gguf_jax.embeddings import embed, normalized, pooling_for, similarities
from gguf_jax.errors import GGUFJaxError, Unsupported
from gguf_jax.ops.native.library import available
from tests.models import encoder_reference as reference
from tests.models import reference as decoder_reference
from tests.models.encoder_families import ENCODERS, small_encoder
from tests.models.test_encoder import rounding
from tests.support import EPS, small_model
from tests.tokenizers.vocabularies import tokenizer

RANDOM = np.random.default_rng(3)
TEXTS = [RANDOM.integers(0, 97, n).tolist() for n in (13, 1, 8, 30, 13)]
PLAIN = dict(normalize=False)


def with_words(name="bert", **changes):
    """An encoder with the tiny vocabulary of words."""
    words = tokenizer("tiny_bert")
    model = small_encoder(ENCODERS[name].make(vocab_size=words.vocab_size, **changes))
    model.tokenizer = words
    return model


@pytest.fixture(scope="module")
def bert():
    return small_encoder(ENCODERS["bert"].make())


@pytest.mark.parametrize("pooling", ["none", "mean", "cls", "last"])
def test_poolings(bert, pooling):
    found = embed(bert, TEXTS, pooling=pooling, **PLAIN)
    for text, each in zip(TEXTS, found, strict=True):
        states = reference.states(bert.config, tensors_of(bert), text)
        expected = {"none": states, "mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
        assert each.dtype == np.float32
        assert each.shape == expected.shape
        assert np.abs(each - expected).max() <= rounding(states, bert.config)


def test_scores():
    model = small_encoder(ENCODERS["bert, two layers of scores"].make())
    model.metadata = {"general.architecture": "bert", "bert.pooling_type": 4}
    found = embed(model, TEXTS)
    assert found.shape == (5, 3)
    for text, scores in zip(TEXTS, found, strict=True):
        states = reference.states(model.config, tensors_of(model), text)
        expected = reference.scores(tensors_of(model), states[0])
        assert np.abs(scores - expected).max() <= 6 * rounding(np.maximum(1, np.abs(expected)), model.config)
    assert embed(model, []).shape == (0, 3)


def test_a_decoder_s_states_are_those_before_its_logits():
    model = small_model()
    found = embed(model, TEXTS, **PLAIN)
    for text, each in zip(TEXTS, found, strict=True):
        logits = decoder_reference.logits(model.config, tensors_of(model), text)[-1]
        made = np.asarray(model.logits(each))
        assert np.abs(made - logits).max() <= rounding(logits, model.config)


def test_exact_a_text_gives_the_same_beside_others(bert):
    if not available():
        pytest.skip("the native library is not built, or is switched off")
    for model in (bert, small_model()):
        together = embed(model, TEXTS)
        assert (together[0] == together[4]).all() == (TEXTS[0] == TEXTS[4])
        for text, each in zip(TEXTS, together, strict=True):
            assert (embed(model, [text])[0] == each).all()
        assert (np.asarray(embed(model, TEXTS[::-1])) == np.asarray(together)[::-1]).all()
        assert (np.asarray(embed(model, TEXTS, batch_tokens=1)) == np.asarray(together)).all()


def test_default_poolings(bert):
    assert pooling_for(bert, None) == "mean"
    assert pooling_for(small_model(), None) == "last"
    other, decoder = small_encoder(bert.config), small_model()
    other.metadata = {"general.architecture": "bert", "bert.pooling_type": 2}
    decoder.metadata = {"general.architecture": "llama", "llama.pooling_type": 1}
    assert pooling_for(other, None) == "cls"
    assert pooling_for(decoder, None) == "mean"
    assert pooling_for(other, "last") == "last"


def test_texts():
    model = with_words()
    words = model.tokenizer
    found = embed(model, ["the lamp", "", "a"])
    assert found.shape == (3, 36)
    assert np.abs(np.linalg.norm(found, axis=-1) - 1).max() <= 8 * EPS
    assert (embed(model, [words.encode("the lamp")])[0] == found[0]).all()
    assert (embed(model, "the lamp") == found[:1]).all()
    assert (embed(model, "[CLS]", parse_special=True) == embed(model, [[2, 2, 3]])).all()


def test_a_long_text_is_cut_only_where_that_is_asked_for():
    model = with_words()
    text = "a " * 100
    with pytest.raises(GGUFJaxError, match="text 1: expected at most 40 tokens, the model's context, found 102"):
        embed(model, ["a", text])
    cut = [2, *[model.tokenizer.encode("a")[1]] * 38, 3]
    assert (embed(model, text, truncate=True) == embed(model, [cut])).all()


def test_pairs():
    model = with_words("bert, two layers of scores", token_types=2)
    ids, second = model.tokenizer.encode_pair("the lamp", "a")
    assert ids == [*model.tokenizer.encode("the lamp"), *model.tokenizer.encode("a")[1:]]
    assert ids[second - 1] == 3
    pair, plain = embed(model, [("the lamp", "a"), ids], pooling="rank")
    # the second text's tokens are of another type
    assert np.abs(pair - plain).max() > 1e-3
    with pytest.raises(GGUFJaxError, match="text 0: expected one text, as pooling is mean, found a pair"):
        embed(model, [("a", "b")], pooling="mean")


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["a"], {}, "expected token ids, since the model has no tokenizer, found a string"),
        ([[]], {}, "text 0: expected at least one token, found none"),
        ([[1], [97, 3]], {}, "text 1: expected ids from 0 to 96, found 3 to 97"),
        ([[-1]], {}, "text 0: expected ids from 0 to 96, found -1 to -1"),
        ([[1]], {"pooling": "max"}, "pooling: expected one of none, mean, cls, last, rank, found 'max'"),
        ([[1]], {"pooling": "rank"}, r"pooling rank: expected a model with scores \(cls or cls.output\), found none"),
    ],
)
def test_what_is_refused(bert, texts, options, message):
    with pytest.raises(GGUFJaxError, match=message):
        embed(bert, texts, **options)


def test_an_encoder_does_not_generate(bert):
    with pytest.raises(Unsupported, match=r"expected a decoder, which has logits, found an encoder \(bert\)"):
        gj.Engine(bert)


def test_norms():
    x = np.array([[3, -4, 0], [0, 0, 0], [1e30, 1e30, -1e30]], np.float32)
    assert np.allclose(normalized(x)[0], [0.6, -0.8, 0], rtol=EPS)
    assert np.allclose(normalized(x, 1)[0], [3 / 7, -4 / 7, 0], rtol=EPS)
    assert np.allclose(normalized(x, 3)[0], x[0] / 91 ** (1 / 3), rtol=EPS)
    assert np.allclose(normalized(x, 0)[0], [24570, -32760, 0], rtol=EPS)
    assert (normalized(x, -1) == x).all()
    for order in (0, 1, 2, 7):
        assert np.isfinite(normalized(x, order)).all()
        assert (normalized(x, order)[1] == 0).all()
    assert np.allclose(normalized(x)[2], [3**-0.5, 3**-0.5, -(3**-0.5)], rtol=EPS)
    assert np.allclose(similarities(np.array([[1, 0], [1, 1], [0, 0]], np.float32)),
                       [[1, 0.5**0.5, 0], [0.5**0.5, 1, 0], [0, 0, 1]], atol=4 * EPS)  # fmt: skip
