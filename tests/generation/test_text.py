"""`generate`: text in, text out, on the bundled model."""

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.generation import Piece, pieces
from tests.support import small_model

PROMPT = "It was a fine morning in April, and"


@pytest.fixture(scope="module")
def model():
    return gj.load()


@pytest.fixture(scope="module")
def engine(model):
    return gj.Engine(model, ctx_size=256)


def test_streamed_pieces_make_the_answer(model, engine):
    whole = gj.generate(model, PROMPT, max_tokens=24, temperature=0, engine=engine)
    streamed = list(gj.generate(model, PROMPT, max_tokens=24, temperature=0, stream=True, engine=engine))
    assert len(streamed) > 5
    assert "".join(streamed) == whole.text == str(whole)
    assert whole.text == model.tokenizer.decode(whole.tokens)
    assert (len(whole.tokens), whole.finish_reason) == (24, "length")
    assert whole.prompt_tokens == len(model.tokenizer.encode(PROMPT))
    assert whole.timings.decode_tokens == 23


def test_a_seed_repeats_and_another_does_not(model, engine):
    one, two, three = (
        gj.generate(model, PROMPT, max_tokens=16, seed=seed, temperature=1.5, engine=engine).tokens
        for seed in (1, 1, 2)
    )
    assert one == two != three


def test_a_stop_text_ends_the_answer_and_is_not_in_it(model, engine):
    free = gj.generate(model, PROMPT, max_tokens=24, temperature=0, engine=engine).text
    stop = free[10:14]
    ended = gj.generate(model, PROMPT, max_tokens=24, temperature=0, stop=stop, engine=engine)
    assert ended.text == free[: free.index(stop)]
    assert ended.finish_reason == "stop"
    streamed = gj.generate(model, PROMPT, max_tokens=24, temperature=0, stop=[stop], stream=True, engine=engine)
    assert "".join(streamed) == ended.text


def test_an_end_of_text_token_ends_the_answer(model, engine):
    (eos,) = model.tokenizer.eog_ids
    forced = dict(max_tokens=24, temperature=0, engine=engine, logit_bias={eos: 1e6})
    ended = gj.generate(model, PROMPT, **forced)
    assert (ended.text, ended.tokens, ended.finish_reason) == ("", [eos], "stop")
    assert len(gj.generate(model, PROMPT, ignore_eog=True, **forced).tokens) == 24


def test_several_prompts_are_answered_as_each_alone(model, engine):
    prompts = [PROMPT, "Once upon a time there was", [0, 40, 471, 79]]
    three = gj.Engine(model, ctx_size=256)
    together = gj.generate(model, prompts, max_tokens=8, seed=3, engine=three)
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,) = gj.generate(model, [prompt], max_tokens=8, seed=3, engine=engine)
        assert (alone.tokens, alone.text) == (answer.tokens, answer.text)
    streamed = list(gj.generate(model, prompts, max_tokens=8, seed=3, stream=True, engine=three))
    assert all(isinstance(piece, Piece) for piece in streamed)
    for i, answer in enumerate(together):
        assert "".join(piece.text for piece in streamed if piece.index == i) == answer.text


def test_text_of_split_characters_is_never_torn(model, engine):
    """Force bytes of a four-byte character: no piece may hold half of it."""
    ids = model.tokenizer.encode("😀", add_special=False)
    assert len(ids) == 4
    for count in (3, 4):
        stream = model.tokenizer.stream()
        texts = [stream.put(token) for token in ids[:count]] + [stream.flush()]
        assert "".join(texts) == ("😀" if count == 4 else "\ufffd")
        assert not any(texts[: count - 1])


def test_a_full_context_is_length(model):
    engine = gj.Engine(model, ctx_size=16)
    ids = model.tokenizer.encode(PROMPT)
    out = list(pieces(engine, model.tokenizer, [ids], [gj.SamplingParams.greedy()]))
    assert len(out) == 16 - len(ids)
    assert [piece.finish for piece in out] == [None] * (len(out) - 1) + ["length"]


class TestBadInput:
    def test_no_tokenizer(self):
        with pytest.raises(gj.GGUFJaxError, match="expected a model with a tokenizer"):
            gj.generate(small_model(), "x")

    def test_unknown_option(self, model):
        with pytest.raises(gj.GGUFJaxError, match=r"expected sampling fields among temperature, .* found temprature"):
            gj.generate(model, "x", temprature=1)

    @pytest.mark.parametrize("prompt", [[1, 2, 3], np.array([1, 2, 3]), b"a", [[1.5, 2]], 7], ids=repr)
    def test_what_is_no_prompt(self, model, prompt):
        with pytest.raises(gj.GGUFJaxError, match=r"prompt: expected a (text|list)"):
            gj.generate(model, prompt)

    def test_an_engine_of_another_model(self, model):
        with pytest.raises(gj.GGUFJaxError, match="expected the engine's own model"):
            gj.generate(model, "x", engine=gj.Engine(small_model()))

    def test_params_and_fields(self, model):
        with pytest.raises(gj.GGUFJaxError, match="found both"):
            gj.generate(model, "x", params=gj.SamplingParams(), temperature=1)

    def test_too_long(self, model, engine):
        with pytest.raises(gj.GGUFJaxError, match=r"expected at most 255 tokens .* found \d+"):
            gj.generate(model, "word " * 300, engine=engine)

    def test_ids_outside_the_vocabulary(self, model, engine):
        with pytest.raises(gj.GGUFJaxError, match="expected token ids from 0 to 4095, found 9999"):
            gj.generate(model, [np.array([5, 9999])], engine=engine)
