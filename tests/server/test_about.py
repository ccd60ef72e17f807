"""What a server tells of itself: llama-server's names, figures that add up, and nothing of anybody's text."""

import math
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

import gguf_jax as gj
from gguf_jax.server.figures import Rate
from gguf_jax.server.settings import Settings
from tests.server.serving import PROMPT, client_of, ready


@pytest.fixture(scope="module")
def model():
    return gj.load()


@pytest.fixture(scope="module")
def client(model):
    with client_of(model, Settings("prose", path="prose-23m-Q4_K_M.gguf")) as found:
        yield ready(found)


def figures(client):
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    assert all(family.documentation and family.type in ("counter", "gauge") for family in families)
    samples = [sample for family in families for sample in family.samples]
    return {sample.name.removeprefix("gguf_jax:"): sample.value for sample in samples}


def test_props(client, bundled):
    found = client.get("/props").json()
    assert (found["total_slots"], found["model_alias"], found["model_path"]) == (3, "prose", "prose-23m-Q4_K_M.gguf")
    assert (found["chat_template"], found["bos_token"]) == ("", "<|endoftext|>")
    assert found["default_generation_settings"]["n_ctx"] == found["n_ctx"] == 128
    params = found["default_generation_settings"]["params"]
    assert (params["temperature"], params["top_k"], params["min_p"], params["seed"]) == (0.8, 40, 0.05, -1)
    assert (found["architecture"], found["model_ftype"], found["n_vocab"]) == ("llama", "Q4_K_M", 4096)
    with gj.read(bundled) as file:
        assert found["n_params"] == sum(math.prod(view.shape) for view in file.tensors.values())
    assert (found["cache_type_k"], found["cache_type_v"], found["n_ctx_train"]) == ("f16", "f16", 512)
    assert found["build_info"].startswith(f"gguf_jax {gj.__version__} (jax ")


def test_models(client):
    assert client.get("/v1/models/prose").json() == client.get("/v1/models").json()["data"][0]
    assert client.get("/v1/models/another").status_code == 404
    assert client.get("/v1/health").json() == client.get("/health").json()


def test_slots_and_metrics_while_something_is_answered(client, model):
    before = figures(client)
    assert before["requests_processing"] == before["requests_deferred"] == 0
    assert [slot["state"] for slot in client.get("/slots").json()] == ["idle"] * 3
    secrets = [f"{PROMPT} xylophone{i}" for i in range(3)]

    def ask(secret):
        body = {"prompt": secret, "options": {"num_predict": 70, "temperature": 0}}
        assert client.post("/completion", json=body).status_code == 200

    threads = [threading.Thread(target=ask, args=(secret,)) for secret in secrets]
    for thread in threads:
        thread.start()
    seen, statuses = [], set()
    while any(thread.is_alive() for thread in threads):
        answer = client.get("/slots")
        assert "xylo" not in answer.text
        seen.append(answer.json())
        if all(slot["is_processing"] for slot in seen[-1]):
            statuses.add(client.get("/slots", params={"fail_on_no_slot": 1}).status_code)
    assert 503 in statuses
    answering = [slot for slots in seen for slot in slots if slot["state"] == "answer"]
    assert {slot["id"] for slot in answering} == {0, 1, 2}
    assert max(slot["n_decoded"] for slot in answering) > min(slot["n_decoded"] for slot in answering)
    assert max(slot["tokens_per_second"] for slot in answering) > 0
    lengths = [len(model.tokenizer.encode(secret)) for secret in secrets]
    assert all(slot["n_prompt_tokens"] in lengths and slot["n_held"] <= slot["n_ctx"] == 128 for slot in answering)
    deadline = time.monotonic() + 10
    while (after := figures(client))["requests_processing"]:
        assert time.monotonic() < deadline
    assert [slot["state"] for slot in client.get("/slots").json()] == ["idle"] * 3
    grown = {name: after[name] - before[name] for name in after if name.endswith("_total")}
    assert grown["tokens_predicted_total"] == 3 * 70
    assert grown["prompt_tokens_total"] + grown["prompt_tokens_cached_total"] == sum(lengths)
    assert grown["requests_answered_total"] == 3
    assert 0 < grown["n_decode_total"] <= 3 * 70  # a step may draw several tokens
    assert 1 < after["n_busy_slots_per_decode"] <= 3
    assert after["n_tokens_max"] == max(lengths) + 70
    assert 0 < after["kv_cache_usage_ratio"] <= 1
    for tokens, seconds, rate in (
        ("prompt_tokens_total", "prompt_seconds_total", "prompt_tokens_seconds"),
        ("tokens_predicted_total", "tokens_predicted_seconds_total", "predicted_tokens_seconds"),
    ):
        assert after[rate] == after[tokens] / after[seconds]


def test_a_rate_is_of_the_last_seconds():
    rate = Rate(seconds=3.0)
    assert rate.of(10, 0.0) == 0.0
    assert [rate.of(10 + 5 * second, float(second)) for second in (1, 2, 3, 4)] == [5.0] * 4
    assert rate.of(30, 104.0) == 0.0  # looked at again after a while: since then, and not since the beginning
    assert rate.of(2, 105.0) == 0.0  # another request
    assert rate.of(6, 106.0) == 4.0
