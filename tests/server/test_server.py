"""The server as its clients see it: shapes of answers, errors, and answers that are those of the model alone."""

import json
import threading
import time

import numpy as np
import openai
import pytest
from fastapi.testclient import TestClient

import gguf_jax as gj
from gguf_jax.errors import GGUFJaxError
from gguf_jax.server.app import make_app
from gguf_jax.server.settings import Settings
from gguf_jax.server.worker import Worker
from tests.evals.reference import noise
from tests.server.serving import PROMPT, client_of, ready


@pytest.fixture(scope="module")
def model():
    return gj.load()


@pytest.fixture(scope="module")
def client(model):
    with client_of(model) as found:
        yield ready(found)


@pytest.fixture(scope="module")
def official(client):
    return openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client, max_retries=0)


@pytest.fixture(scope="module")
def expected(model):
    engine = gj.Engine(model, ctx_size=128)
    return gj.generate(model, PROMPT, engine=engine, max_tokens=12, temperature=0).text


def test_runner_completion(client, expected):
    options = {"num_predict": 12, "temperature": 0}
    answer = client.post("/completion", json={"prompt": PROMPT, "options": options})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert "".join(line["content"] for line in lines) == expected
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    last = lines[-1]
    assert (last["content"], last["done_reason"], last["eval_count"]) == ("", 1, 12)
    assert last["prompt_eval_count"] > 5
    assert last["prompt_eval_duration"] > 0
    whole = client.post("/completion", json={"prompt": PROMPT, "options": options, "stream": False}).json()
    assert (whole["content"], whole["done"]) == (expected, True)


def test_openai_completion(official, expected):
    asked = dict(model="prose", prompt=PROMPT, max_tokens=12, temperature=0)
    answer = official.completions.create(**asked)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (expected, "length")
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == 12 + answer.usage.prompt_tokens
    events = list(official.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(event.choices[0].text for event in events if event.choices) == expected
    assert events[-1].usage == answer.usage
    stop = expected[5:9]
    assert official.completions.create(**asked, stop=[stop]).choices[0].text == expected[: expected.index(stop)]
    several = official.completions.create(model="prose", prompt=PROMPT, max_tokens=8, n=3, seed=1)
    again = official.completions.create(model="prose", prompt=PROMPT, max_tokens=8, n=3, seed=1)
    texts = [choice.text for choice in several.choices]
    assert texts == [choice.text for choice in again.choices]
    assert len(set(texts)) == 3


def test_openai_chat(official, model, monkeypatch):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    monkeypatch.setattr(model.tokenizer, "chat_templates", {"": template})
    messages = [{"role": "user", "content": [{"type": "text", "text": "Good morning"}]}]
    asked = dict(model="prose", messages=messages, max_tokens=10, temperature=0)
    answer = official.chat.completions.create(**asked).choices[0]
    assert answer.message.role == "assistant"
    engine = gj.Engine(model, ctx_size=128)
    prompt = "user: Good morning\nassistant:"
    assert answer.message.content == gj.generate(model, prompt, engine=engine, max_tokens=10, temperature=0).text
    events = list(official.chat.completions.create(**asked, stream=True))
    assert events[0].choices[0].delta.role == "assistant"
    assert "".join(event.choices[0].delta.content or "" for event in events) == answer.message.content
    assert events[-1].choices[0].finish_reason == "length"


def test_log_probabilities(model, monkeypatch):
    with client_of(model, precision="exact", cache_type="f32") as exact:
        official = openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=ready(exact))
        check_log_probabilities(official, model, monkeypatch)


def check_log_probabilities(official, model, monkeypatch):
    asked = dict(model="prose", prompt=PROMPT, max_tokens=4, temperature=0)
    found = official.completions.create(**asked, logprobs=3).choices[0].logprobs
    ids = [model.tokenizer.encode(PROMPT)]
    for token, value, best in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        logits = np.asarray(model(ids), np.float64)[0, -1]
        exact = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        order = np.argsort(-exact)[:3]
        assert token == model.tokenizer.token_bytes(int(order[0])).decode()
        assert abs(value - exact[order[0]]) <= noise(model)
        assert sorted(best.values(), reverse=True)[0] == value
        assert len(best) == 3
        ids[0].append(int(order[0]))
    text = "".join(found.tokens)
    assert [text[at:].startswith(token) for at, token in zip(found.text_offset, found.tokens, strict=True)] == [
        True
    ] * 4
    assert official.completions.create(**asked).choices[0].logprobs is None
    monkeypatch.setattr(model.tokenizer, "chat_templates", {"": "{{ messages[0].content }}"})
    chat = dict(model="prose", messages=[{"role": "user", "content": PROMPT}], max_tokens=4, temperature=0)
    whole = official.chat.completions.create(**chat, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert [entry.token for entry in whole] == found.tokens
    assert [entry.logprob for entry in whole] == found.token_logprobs
    assert all(len(entry.top_logprobs) == 2 and bytes(entry.bytes).decode() == entry.token for entry in whole)
    events = official.chat.completions.create(**chat, logprobs=True, stream=True)
    given = [event.choices[0].logprobs for event in events]
    streamed = [entry for each in given if each is not None for entry in each.content]
    assert [entry.logprob for entry in streamed] == found.token_logprobs
    with pytest.raises(openai.BadRequestError, match="expected logprobs to be true"):
        official.chat.completions.create(**chat, top_logprobs=2)


def test_embeddings(official, client, model):
    expected = gj.embed(model, ["one text", "another"])
    found = official.embeddings.create(model="prose", input=["one text", "another"])
    assert np.float32([each.embedding for each in found.data]).tolist() == expected.tolist()
    answer = {"embedding": expected[0].tolist(), "prompt_eval_count": len(model.tokenizer.encode("one text"))}
    assert client.post("/embedding", json={"content": "one text"}).json() == answer
    assert client.post("/embedding", json={"prompt": "one text"}).json() == answer  # as the runner's README has it
    assert client.post("/embedding", json={}).status_code == 400


def test_the_rest(official, client, model):
    assert [each.id for each in official.models.list()] == ["prose"]
    ids = client.post("/tokenize", json={"content": PROMPT}).json()["tokens"]
    assert ids == model.tokenizer.encode(PROMPT, add_special=False)
    assert client.post("/detokenize", json={"tokens": ids}).json()["content"] == PROMPT
    assert "gguf_jax:tokens_predicted_total " in client.get("/metrics").text
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/completion", "/v1/chat/completions", "/health"} <= paths.keys()


ERRORS = {
    "not JSON": ("/completion", "{", 400, "JSON"),
    "no prompt": ("/completion", {}, 422, "prompt: Field required"),
    "a prompt of a wrong type": ("/v1/completions", {"prompt": {"a": 1}}, 422, "prompt"),
    "too long": ("/v1/completions", {"prompt": "word " * 200}, 400, "expected at most 127 tokens"),
    "temperature": ("/v1/completions", {"prompt": "x", "temperature": "hot"}, 422, "temperature"),
    "infinity": ("/v1/completions", {"prompt": "x", "temperature": 1e40}, 422, "temperature"),
    "top_p": ("/v1/completions", {"prompt": "x", "top_p": -1}, 422, "top_p"),
    "max_tokens": ("/v1/completions", {"prompt": "x", "max_tokens": -5}, 422, "max_tokens"),
    "n": ("/v1/completions", {"prompt": "x", "n": 1000}, 422, "n: "),
    "an empty stop": ("/v1/completions", {"prompt": "x", "stop": [""]}, 422, "stop"),
    "a token of the bias": ("/v1/completions", {"prompt": "x", "logit_bias": {"99999": 1}}, 400, "below 4096"),
    "no token of the bias": ("/v1/completions", {"prompt": "x", "logit_bias": {"a": 1}}, 400, "expected token ids"),
    "an id": ("/v1/completions", {"prompt": [99999]}, 400, "expected 0 to 4095, found 99999"),
    "no messages": ("/v1/chat/completions", {"messages": []}, 422, "messages"),
    "no template": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, 400, "chat template"),
    "an id to decode": ("/detokenize", {"tokens": [99999]}, 400, "99999"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_of_openais_form(case, client):
    path, body, status, message = ERRORS[case]
    sent = body if isinstance(body, str) else json.dumps(body)
    answer = client.post(path, content=sent, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]
    assert "\n" not in answer.json()["error"]["message"]


def test_bodies_have_bounds(client):
    big = {"content-length": str(1 << 40)}
    assert client.post("/completion", content=b"{}", headers=big).status_code == 413
    assert client.get("/absent").status_code == 404
    assert client.get("/absent").json()["error"]["message"] == "Not Found"


def test_a_model_that_cannot_be_loaded():
    def load(told):
        raise GGUFJaxError("no such file")

    with TestClient(make_app(Worker(load), Settings("none"))) as found:
        while found.get("/health").json()["status"] == "loading model":
            time.sleep(0.01)
        answer = found.post("/completion", json={"prompt": "x"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "2"
        assert "could not be loaded: no such file" in answer.json()["error"]["message"]


def test_many_at_once_and_a_full_queue(model, expected):
    with client_of(model, max_queue=0) as found:
        ready(found)
        body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0}
        answers = [None] * 8

        def ask(i):
            answers[i] = found.post("/v1/completions", json=body)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        texts = [each.json()["choices"][0]["text"] for each in answers if each.status_code == 200]
        assert len(texts) >= 3
        assert set(texts) == {expected}
        assert {each.status_code for each in answers} <= {200, 503}
        refused = [each for each in answers if each.status_code == 503]
        assert all(each.headers["retry-after"] == "1" for each in refused)


def test_who_goes_away_leaves_his_slot(client):
    worker = client.app.state.worker
    with client.stream("POST", "/completion", json={"prompt": PROMPT, "options": {"num_predict": 100}}) as answer:
        next(answer.iter_lines())
    deadline = time.monotonic() + 20
    while worker.active or worker.scheduler.free < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
