"""A server in this process, around a model that is there already."""

import time

from fastapi.testclient import TestClient

from gguf_jax.generation import Scheduler
from gguf_jax.server.app import make_app
from gguf_jax.server.settings import Settings
from gguf_jax.server.worker import Worker

PROMPT = "It was a cold evening in November, and"


def client_of(model, settings=None, answer_seconds=None, **options):
    def load(told):
        told(0.5)
        return model, Scheduler(model, **dict(slots=3, ctx_size=128) | options)

    worker = Worker(load, answer_seconds)
    app = make_app(worker, settings or Settings("prose"))
    app.state.worker = worker
    return TestClient(app)


def ready(client):
    while client.get("/health").json()["status"] == "loading model":
        time.sleep(0.01)
    assert client.get("/health").json() == {"status": "ok", "progress": 1.0}
    return client
