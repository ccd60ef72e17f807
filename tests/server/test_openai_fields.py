"""The other fields of OpenAI's interface through the official client: prompts, echo, suffix, names, usage, errors."""

import openai
import pytest
from fastapi.testclient import TestClient

import gguf_jax as gj
from gguf_jax.server.app import make_app
from gguf_jax.server.settings import Settings
from gguf_jax.tokenizers import Tokenizer
from tests.server.scripted import Scripted
from tests.server.serving import PROMPT, client_of, ready

OTHER = "There was a house by the sea"


@pytest.fixture(scope="module")
def model():
    return gj.load()


@pytest.fixture(scope="module")
def client(model):
    with client_of(model, Settings("prose", path="prose-23m.gguf"), batch_size=16) as found:
        yield ready(found)


@pytest.fixture(scope="module")
def official(client):
    return openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client, max_retries=0)


def completed(official, prompt=PROMPT, **options):
    return official.completions.create(**dict(model="prose", prompt=prompt, max_tokens=6, temperature=0) | options)


def test_several_prompts(official, model):
    alone = [completed(official, prompt).choices[0].text for prompt in (PROMPT, OTHER)]
    texts = completed(official, [PROMPT, OTHER])
    assert [(choice.index, choice.text) for choice in texts.choices] == list(enumerate(alone))
    lengths = [len(model.tokenizer.encode(prompt)) for prompt in (PROMPT, OTHER)]
    assert texts.usage.prompt_tokens == sum(lengths)
    assert texts.usage.completion_tokens == 12
    ids = [model.tokenizer.encode(prompt) for prompt in (PROMPT, OTHER)]
    assert [choice.text for choice in completed(official, ids).choices] == alone
    assert completed(official, ids[0]).choices[0].text == alone[0]
    several = completed(official, [PROMPT, OTHER], n=2)
    assert [choice.text for choice in several.choices] == [alone[0], alone[0], alone[1], alone[1]]
    assert several.usage.prompt_tokens == sum(lengths)
    streamed = ["", ""]
    for event in completed(official, [PROMPT, OTHER], stream=True):
        streamed[event.choices[0].index] += event.choices[0].text
    assert streamed == alone


def test_echo(official, model):
    alone = completed(official).choices[0].text
    assert completed(official, echo=True).choices[0].text == PROMPT + alone
    assert "".join(event.choices[0].text for event in completed(official, echo=True, stream=True)) == PROMPT + alone
    ids = model.tokenizer.encode(PROMPT)
    assert completed(official, ids, echo=True).choices[0].text == PROMPT + alone


def test_a_suffix(model, monkeypatch):
    roles = {"pre": 7, "suf": 8, "mid": 9}
    monkeypatch.setattr(Tokenizer, "fim_ids", roles)
    worker = Scripted(model, "filled")
    with TestClient(make_app(worker, Settings("prose"))) as found:
        official = openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=ready(found))
        assert completed(official, "ab", suffix="cd").choices[0].text == "filled"
    tokenizer = model.tokenizer
    bos = [tokenizer.bos_id] if tokenizer.add_bos else []
    ends = [tokenizer.encode(text, add_special=False) for text in ("ab", "cd")]
    assert worker.prompts == [tokenizer.decode([*bos, 7, *ends[0], 8, *ends[1], 9])]


def test_names_of_the_model(official):
    for name in ("prose", "prose-23m.gguf", "default", ""):
        assert completed(official, model=name, max_tokens=1).model == "prose"
    for ask in (
        lambda: completed(official, model="gpt-9"),
        lambda: official.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}]),
        lambda: official.embeddings.create(model="gpt-9", input="x"),
    ):
        with pytest.raises(openai.NotFoundError) as error:
            ask()
        assert error.value.code == "model_not_found"
        assert error.value.param == "model"
        assert "'gpt-9'" in error.value.message


def test_what_means_nothing_here_is_taken(official):
    extra = dict(user="me", extra_body={"store": True, "metadata": {"a": "b"}, "service_tier": "auto"})
    assert completed(official, best_of=1, **extra).choices[0].text == completed(official).choices[0].text


def test_tokens_that_were_held_already_are_told(official, model):
    completed(official, max_tokens=1)
    usage = completed(official, max_tokens=1).usage
    assert usage.prompt_tokens_details.cached_tokens == len(model.tokenizer.encode(PROMPT)) - 1
    events = list(completed(official, max_tokens=1, stream=True, stream_options={"include_usage": True}))
    assert events[-1].usage == usage
    assert events[-1].system_fingerprint.startswith("gguf_jax-")


def test_offsets_of_scored_tokens_in_a_stream(official):
    whole = completed(official, logprobs=2).choices[0].logprobs
    events = [event.choices[0].logprobs for event in completed(official, logprobs=2, stream=True)]
    assert [at for each in events for at in each.text_offset] == whole.text_offset
    assert [token for each in events for token in each.tokens] == whole.tokens


def test_embeddings_of_tokens(official, model):
    ids = model.tokenizer.encode(PROMPT)
    text = official.embeddings.create(model="prose", input=PROMPT)
    for tokens in (ids, [ids], [ids, ids]):
        found = official.embeddings.create(model="prose", input=tokens, dimensions=len(text.data[0].embedding))
        assert all(each.embedding == text.data[0].embedding for each in found.data)
        assert found.usage.prompt_tokens == len(ids) * len(found.data)
    for options, message in (
        (dict(input=[99999]), "99999"),
        (dict(input=PROMPT, dimensions=7), "dimensions: expected 512, as embeddings are not shortened"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            official.embeddings.create(model="prose", **options)


ERRORS = {
    "logprobs of a prompt": (dict(echo=True, logprobs=1), 400, "echo: expected no logprobs", "echo", None),
    "best_of": (dict(best_of=3), 400, "best_of: expected n (1)", "best_of", None),
    "no suffix": (dict(suffix="x"), 400, "suffix: expected a model with tokens for filling", "suffix", None),
    "too many answers": (dict(prompt=[PROMPT] * 20, n=8), 400, "at most 128 answers", "prompt", None),
    "too many prompts": (dict(prompt=["x"] * 129), 422, "prompt", None, None),
    "mixed prompts": (dict(prompt=["x", 1]), 422, "prompt", None, None),
    "too long": (dict(prompt="word " * 200), 400, "at most 127 tokens", "prompt", "context_length_exceeded"),
    "a type": (dict(temperature="hot"), 422, "temperature", "temperature", None),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_fields_and_codes(case, official):
    options, status, message, param, code = ERRORS[case]
    with pytest.raises(openai.APIStatusError) as error:
        completed(official, **options)
    body = error.value.body
    assert error.value.status_code == status
    assert message in body["message"]
    assert (body["type"], body["code"]) == ("invalid_request_error", code)
    if param is not None:
        assert body["param"] == param
