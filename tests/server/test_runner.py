"""Ollama's runner: the requests that its client and its README send, and answers of exactly its fields.

Field names and their order are those of CompletionRequest, CompletionResponse and EmbeddingResponse in Ollama's
llm/server.go of May 2026, the last that had runners of its own; Go writes `done_reason`, a constant, as a number.
"""

import json

import jsonschema
import numpy as np
import pytest

import gguf_jax as gj
from tests.server.serving import PROMPT, client_of, ready

FIELDS = [
    "content",
    "done_reason",
    "done",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
]
SCHEMA = {"type": "object", "properties": {"mood": {"enum": ["glad", "sad"]}}, "required": ["mood"]}
SCHEMA["additionalProperties"] = False


@pytest.fixture(scope="module")
def model():
    return gj.load()


@pytest.fixture(scope="module")
def client(model):
    with client_of(model, ctx_size=64, batch_size=16) as found:
        yield ready(found)


def lines(client, body):
    answer = client.post("/completion", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_fields_of_every_line(client, model):
    found = lines(client, {"prompt": "hi"})  # the README's
    assert [list(line) for line in found] == [FIELDS] * len(found)
    *parts, last = found
    nothing = {"done_reason": 0, "done": False} | dict.fromkeys(FIELDS[3:], 0)
    assert all(part == nothing | {"content": part["content"]} and part["content"] for part in parts)
    room = 64 - len(model.tokenizer.encode("hi"))
    assert (last["content"], last["done"], last["done_reason"], last["eval_count"]) == ("", True, 1, room)
    assert last["prompt_eval_count"] == len(model.tokenizer.encode("hi"))
    assert all(isinstance(last[name], int) and last[name] > 0 for name in FIELDS[3:])


def test_what_its_client_sends(client):
    """Go's encoder writes the names of fields that have no other; those of options are in snake case."""
    options = {"num_predict": 4, "temperature": 0.0, "stop": ["zzz"], "num_ctx": 2048, "num_keep": 4, "seed": 1}
    body = {"Prompt": PROMPT, "Format": None, "Images": None, "Options": options, "Grammar": "", "Shift": True}
    body |= {"Truncate": True, "Logprobs": False, "TopLogprobs": 0}
    expected = lines(client, {"prompt": PROMPT, "options": {"num_predict": 4, "temperature": 0}})
    found = lines(client, body)
    assert [line["content"] for line in found] == [line["content"] for line in expected]
    assert found[-1]["eval_count"] == 4
    assert lines(client, body | {"Options": None, "Prompt": "word " * 50})[-1]["done"]


def test_log_probabilities(client):
    options = {"num_predict": 3, "temperature": 0}
    found = lines(client, {"Prompt": PROMPT, "Options": options, "Logprobs": True, "TopLogprobs": 2})
    scores = [score for line in found for score in line.get("logprobs", [])]
    assert [list(score) for score in scores] == [["token", "logprob", "top_logprobs"]] * 3
    assert "".join(score["token"] for score in scores) == "".join(line["content"] for line in found)
    assert all(score["top_logprobs"][0] == {k: score[k] for k in ("token", "logprob")} for score in scores)
    assert "logprobs" not in found[-1]


def test_format_and_grammar(client):
    options = {"num_predict": 40, "temperature": 0}

    def text(**more):
        return "".join(line["content"] for line in lines(client, {"prompt": PROMPT, "options": options} | more))

    jsonschema.validate(json.loads(text(format=SCHEMA)), SCHEMA)
    assert text(format="json").startswith("{")
    assert text(grammar='root ::= "yes" | "no"') in ("yes", "no")
    assert text(format="") == text(format=None) == text()
    bad = client.post("/completion", json={"prompt": "x", "format": "xml"})
    assert bad.status_code == 422
    bad = client.post("/completion", json={"prompt": "x", "format": {"type": "foo"}})
    assert (bad.status_code, bad.json()["error"]["message"]) == (400, "format: Invalid type: foo")
    bad = client.post("/completion", json={"prompt": "x", "images": [{"data": "", "id": 1}]})
    assert bad.status_code == 422


def test_a_prompt_that_is_too_long(client, model):
    assert client.post("/completion", json={"prompt": "word " * 80}).status_code == 400
    long = "".join(f"w{i} " for i in range(40))
    ids = model.tokenizer.encode(long)
    for keep in (5, 0, -1, 100):
        options = {"num_predict": 1, "num_keep": keep, "temperature": 0}
        found = lines(client, {"prompt": long, "truncate": True, "options": options})
        assert found[-1]["prompt_eval_count"] == 63
        first = keep if 0 <= keep < 62 else 62
        kept = {"prompt": [*ids[:first], *ids[len(ids) - (63 - first) :]], "max_tokens": 1, "temperature": 0}
        same = client.post("/v1/completions", json=kept).json()
        assert "".join(line["content"] for line in found) == same["choices"][0]["text"]


def test_embedding(client, model):
    expected = gj.embed(model, ["turn me into an embedding"])[0]
    for name in ("content", "Content", "prompt"):  # the client's, Go's, the README's
        found = client.post("/embedding", json={name: "turn me into an embedding"}).json()
        assert list(found) == ["embedding", "prompt_eval_count"]
        assert np.float32(found["embedding"]).tolist() == expected.tolist()
        assert found["prompt_eval_count"] == len(model.tokenizer.encode("turn me into an embedding"))
