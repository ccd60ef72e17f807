"""No request that the OpenAPI description allows, or forbids, makes the server fail: schemathesis makes them up.

The scheduler takes requests as ever, and answers each at once with the token that ends it: nothing is compiled.

| variable | meaning |
|---|---|
| `GGUF_JAX_FUZZ` | examples of each route and kind; 12 unless set |
| `GGUF_JAX_FUZZ_MODEL` | `1`: the model answers after all |
"""

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation.modes import GenerationMode

import gguf_jax as gj
from tests.server.serving import client_of, ready

EXAMPLES = int(os.environ.get("GGUF_JAX_FUZZ", "12"))
ROUTES = [
    ("GET", "/health"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/props"),
    ("GET", "/slots"),
    ("GET", "/metrics"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/completion"),
    ("POST", "/embedding"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/embeddings"),
]


@pytest.fixture(scope="module")
def client():
    model = gj.load()
    model.tokenizer.chat_templates = {"": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"}
    with client_of(model, ctx_size=64) as found:
        ready(found)
        if os.environ.get("GGUF_JAX_FUZZ_MODEL") != "1":
            answer_at_once(found.app.state.worker.scheduler)
        yield found


def answer_at_once(scheduler):
    def step():
        events = []
        while scheduler._queue:
            request = scheduler._queue.popleft()
            (end,) = request.end_ids
            request.tokens.append(end)
            request.finish = "stop"
            if request.top is not None:
                request.log_probs.append((-1.0, [(i, -1.0 - i) for i in range(request.top)]))
            events.append((request, end))
        return events

    scheduler.step = step


@pytest.fixture(scope="module")
def operations(client):
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    found = [operation.ok() for operation in schema.get_all_operations()]
    return {(operation.method.upper(), operation.path): operation for operation in found}


def test_every_route_is_asked(operations):
    assert sorted(operations) == sorted(ROUTES)


@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_property_nothing_makes_it_fail(method, path, mode, operations, client):
    @given(operations[method, path].as_strategy(generation_mode=GenerationMode(mode)))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    def ask(case):
        sent = case.as_transport_kwargs(base_url="http://testserver")
        sent["content"] = sent.pop("data", None)
        answer = client.request(**sent | {"cookies": None})
        assert answer.status_code < 500, (sent, answer.text)
        if answer.status_code >= 400:
            assert "\n" not in answer.json()["error"]["message"]

    try:
        ask()
    except Unsatisfiable:  # a route that takes nothing has no wrong requests
        assert mode == "negative"
    assert client.get("/health").json()["status"] == "ok"
    assert not client.app.state.worker.active
