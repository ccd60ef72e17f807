"""Who may ask, how much and how slowly: guards before every route, in the application and on sockets."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

import gguf_jax as gj
from gguf_jax.errors import GGUFJaxError
from gguf_jax.server import bodies, guards
from gguf_jax.server.__main__ import started
from gguf_jax.server.app import make_app
from gguf_jax.server.protocol import BoundedHTTP
from gguf_jax.server.run import Server, Started, is_loopback, listening
from gguf_jax.server.settings import Settings
from tests.server.serving import PROMPT, client_of, ready

ASKED = {"prompt": PROMPT, "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def model():
    return gj.load()


@pytest.fixture(scope="module")
def client(model):
    with client_of(model) as found:
        yield ready(found)


@pytest.fixture(scope="module")
def guarded(model):
    given = Settings(
        "prose", api_key="schlüssel", origins=("https://friend.example",), hosts=frozenset({"localhost", "::1"})
    )
    with client_of(model, given) as found:
        found.headers = {"host": "localhost:8080", "authorization": "Bearer schlüssel".encode()}
        yield ready(found)


def test_a_body_in_chunks_is_taken(client):
    chunks = iter([json.dumps(ASKED)[:10].encode(), json.dumps(ASKED)[10:].encode()])
    answer = client.post("/v1/completions", content=chunks, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert answer.json()["choices"] == client.post("/v1/completions", json=ASKED).json()["choices"]


def test_bodies_of_all_requests_are_bounded(client, monkeypatch):
    monkeypatch.setattr(guards, "MOST_HELD", 100)
    assert client.post("/tokenize", json={"content": "x" * 50}).status_code == 200
    answer = client.post("/tokenize", json={"content": "x" * 100})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client.post("/tokenize", json={"content": "x" * 50}).status_code == 200
    monkeypatch.undo()
    assert client.post("/tokenize", json={"content": " " * guards.LARGE}).status_code == 200


def test_only_heads(client):
    for path in ("/", "/health"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


NO_JSON = {
    "nested": (b'{"prompt": ' + b"[" * 100_000, "at most 200 levels"),
    "nested behind strings": (b'{"a": "\\"[[", "b": ' + b'{"a":' * 300, "at most 200 levels, found 301"),
    "no UTF-8": (b'{"prompt": "\xff"}', "expected UTF-8, found byte 0xff at 12"),
    "UTF-16": ('{"prompt": "x"}'.encode("utf-16"), "expected UTF-8"),
    "half a pair": (b'{"prompt": "x", "user": "\\ud83d"}', "both halves of a surrogate pair"),
    "a huge integer": (b'{"prompt": "x", "seed": ' + b"9" * 10_000 + b"}", "error parsing the body"),
}


@pytest.mark.parametrize("case", NO_JSON)
@pytest.mark.parametrize("path", ["/v1/completions", "/completion", "/v1/chat/completions"])
def test_what_is_no_safe_json(case, path, client):
    body, message = NO_JSON[case]
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400])
@pytest.mark.parametrize("field", ["temperature", "max_tokens", "seed", "top_p", "logit_bias"])
def test_numbers_that_are_none(value, field, client):
    written = value if field != "logit_bias" else f'{{"5": {value}}}'
    body = f'{{"prompt": "x", "{field}": {written}}}'.encode()
    answer = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(field)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=100, deadline=None)
@given(JSON, st.booleans())
def test_property_what_json_writes_is_taken_and_its_depth_known(value, ascii):
    def levels(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(levels, inner), default=0)

    body = json.dumps(value, ensure_ascii=ascii).encode()
    assert bodies.depth(body) == levels(value)
    bodies.check(body)


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from('\\u"ad8\ud83d\ude00\U0001f600')))
def test_property_halves_of_pairs_are_found(text):
    body = json.dumps(text).encode()
    try:
        json.loads(body).encode()
    except UnicodeEncodeError:
        with pytest.raises(bodies.Refused):
            bodies.check(body)
    else:
        bodies.check(body)


def test_a_key_is_asked_for(guarded):
    wrong = [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic schlüssel".encode()}, {"x-api-key": "x"}]
    for path in ("/v1/models", "/metrics", "/slots", "/props", "/openapi.json", "/absent"):
        for headers in wrong:
            answer = guarded.get(path, headers={"authorization": ""} | headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert guarded.get("/v1/models").status_code == 200
    assert (
        guarded.get("/v1/models", headers={"authorization": "", "x-api-key": "schlüssel".encode()}).status_code == 200
    )
    for path in ("/", "/health", "/page/icon.svg"):
        assert guarded.get(path, headers={"authorization": ""}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1", 403),
        ("[::2]", 403),
    ],
)
def test_names_that_it_is_called_by(host, status, guarded):
    answer = guarded.get("/health", headers={"host": host})
    assert answer.status_code == status
    assert status == 200 or "--allow-host" in answer.json()["error"]["message"]


def test_pages_of_other_sites(guarded):
    def post(**headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return guarded.post("/tokenize", json={"content": "x"}, headers=headers)

    assert post().status_code == 200
    assert post(origin="http://localhost:8080").status_code == 200
    assert post(origin="https://proxy.example", sec_fetch_site="same-origin").status_code == 200
    assert post(origin="https://evil.example", sec_fetch_site="cross-site").status_code == 403
    assert post(origin="null").status_code == 403
    friend = post(origin="https://friend.example")
    assert (friend.status_code, friend.headers["access-control-allow-origin"]) == (200, "https://friend.example")
    # a browser asks without a key, and what is refused can be read by the page that asked
    asks = {"authorization": "", "access-control-request-method": "POST"}
    asks["access-control-request-headers"] = "authorization,content-type"
    allowed = guarded.options("/v1/completions", headers=asks | {"origin": "https://friend.example"})
    assert allowed.status_code == 200
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    assert guarded.options("/v1/completions", headers=asks | {"origin": "https://evil.example"}).status_code == 400
    refused = guarded.get("/v1/models", headers={"authorization": "", "origin": "https://friend.example"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://friend.example")


def test_an_answer_that_takes_too_long_ends(model):
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 4000, "logit_bias": {"0": -100}}
    with client_of(model, answer_seconds=0.5, ctx_size=4096) as found:
        ready(found)
        found.post("/v1/completions", json=body)  # has everything compiled
        answer = found.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert 0 < answer["usage"]["completion_tokens"] < 4000


def test_an_answer_that_does_not_begin_in_time_fails(model, monkeypatch):
    with client_of(model, answer_seconds=0.1) as found:
        ready(found)
        monkeypatch.setattr(found.app.state.worker.scheduler, "step", list)
        answer = found.post("/v1/completions", json=ASKED)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "time was over" in answer.json()["error"]["message"]
        deadline = time.monotonic() + 10
        while found.app.state.worker.active:
            assert time.monotonic() < deadline


def test_a_step_that_fails_is_the_servers_fault(model, monkeypatch):
    with client_of(model) as found:
        scheduler = ready(found).app.state.worker.scheduler

        def fail():
            raise MemoryError

        monkeypatch.setattr(scheduler, "step", fail)
        answer = found.post("/v1/completions", json=ASKED)
        assert (answer.status_code, answer.json()["error"]["message"]) == (500, "engine: MemoryError")
        assert answer.json()["error"]["type"] == "server_error"
        monkeypatch.undo()
        assert found.post("/v1/completions", json=ASKED).status_code == 200


def test_who_waits_for_an_engine_that_is_gone_is_told(model, monkeypatch):
    with client_of(model) as found:
        worker = ready(found).app.state.worker

        def fail(*_):
            raise MemoryError("no room")

        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(worker, "_added", fail)
            answer = found.post("/v1/completions", json=ASKED)
            assert (answer.status_code, answer.json()["error"]["message"]) == (500, "engine: no room")
        assert found.post("/v1/completions", json=ASKED).status_code == 200
        monkeypatch.setattr(worker.scheduler, "step", fail)
        monkeypatch.setattr(worker.scheduler, "reset", fail)
        statuses = [found.post("/v1/completions", json=ASKED).status_code for _ in range(2)]
        assert statuses == [500, 503]
        assert "the engine has failed: no room" in found.get("/health").json()["error"]


def test_listening():
    with listening("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        with pytest.raises(GGUFJaxError, match=f"127.0.0.1:{port}: Address already in use"):
            listening("127.0.0.1", port)
    with pytest.raises(GGUFJaxError, match="expected an address to listen at"):
        listening("no.such.host.invalid", 0)
    assert [is_loopback(host) for host in ("localhost", "127.3.2.1", "::1", "0.0.0.0", "example.org")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert started(["-port", "0"])[0].port == 0
    assert Started().hosts == {"localhost", "127.0.0.1", "::1"}
    assert Started(host="0.0.0.0").hosts is None
    assert Started(host="0.0.0.0", allowed_hosts=["Box.example"]).hosts >= {"box.example", "localhost", "0.0.0.0"}


# ---- on sockets ----


@pytest.fixture(scope="module")
def impatient(client):
    """The same application behind a socket, with little patience."""

    class Impatient(BoundedHTTP):
        head_seconds = unread_seconds = 0.3

    listener = listening("127.0.0.1", 0)
    worker = client.app.state.worker
    app = make_app(worker, Settings("prose", body_seconds=0.3))
    server = Server(uvicorn.Config(app, http=Impatient, ws="none", lifespan="off", log_level="critical"), worker, 1.0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield server
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address(impatient):
    while not impatient.started:
        time.sleep(0.01)
    return impatient.servers[0].sockets[0].getsockname()


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SLOW = {
    "nothing": ([b""], b""),
    "half a head": ([HEAD[:20]], b""),
    "a head in drops": ([HEAD[i : i + 1] for i in range(len(HEAD))], b""),
    "half a body": ([HEAD + b"Content-Length: 100\r\n\r\n{"], b"HTTP/1.1 408"),
    "a body in drops": ([HEAD + b"Content-Length: 100\r\n\r\n{"] + [b" "] * 50, b"HTTP/1.1 408"),
    "half a chunk": ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"], b"HTTP/1.1 408"),
    "too much": ([HEAD + b"Content-Length: 99999999999\r\n\r\n{"], b"HTTP/1.1 413"),
}


@pytest.mark.parametrize("case", SLOW)
def test_slow_clients_hold_nothing(case, address):
    pieces, expected = SLOW[case]
    with socket.create_connection(address, timeout=10) as client:
        began = time.monotonic()
        client.settimeout(0.02)
        found = None
        for piece in pieces + [b""] * 1000:
            with contextlib.suppress(OSError):
                client.send(piece)
            with contextlib.suppress(TimeoutError):
                found = client.recv(4096)
                break
        assert found is not None
        assert found.startswith(expected)
        if found:
            assert b"connection: close" in found.lower()
        assert time.monotonic() - began < 5


def test_a_body_in_chunks_is_counted(address, monkeypatch):
    monkeypatch.setattr(bodies, "MOST_BYTES", 1000)
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"64\r\n" + b" " * 100 + b"\r\n") * 11)
        found = client.recv(4096)
    assert found.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in found.lower()


def test_who_does_not_read_is_left(address, impatient):
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect(address)
        lazy.settimeout(0.1)
        deadline = time.monotonic() + 10
        with contextlib.suppress(OSError):  # it takes no more, or is closed
            while time.monotonic() < deadline:
                lazy.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        assert impatient.server_state.connections
        while impatient.server_state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_who_goes_away_leaves_his_slot_with_no_stream_too(address, client):
    body = json.dumps({"prompt": PROMPT, "max_tokens": 100, "temperature": 0}).encode()
    worker = client.app.state.worker
    with socket.create_connection(address) as leaving:
        leaving.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        deadline = time.monotonic() + 10
        while not worker.active:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    answered = worker.figures.answered
    while worker.active or worker.scheduler.free < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert worker.figures.answered == answered


def test_it_finishes_what_it_answers_and_refuses_the_rest():
    command = [sys.executable, "-m", "gguf_jax", "serve", "--port", "0", "-c", "512", "--host", "0.0.0.0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert "expected --api-key, found none" in process.stderr.readline()
        port = int(process.stderr.readline().rpartition(":")[2])
        deadline = time.monotonic() + 60
        while b"200 OK" not in exchange(port, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        body = {"prompt": PROMPT, "max_tokens": 400, "temperature": 0, "stream": True, "logit_bias": {"0": -100}}
        sent = json.dumps(body).encode()
        request = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(sent) + sent
        with socket.create_connection(("127.0.0.1", port), timeout=60) as running:
            running.sendall(request)
            found = running.recv(4096)
            while b"data: " not in found:
                found += running.recv(4096)
            process.send_signal(signal.SIGTERM)
            refused = exchange(port, request)
            while more := running.recv(65536):
                found += more
        assert b" 503 " in refused
        assert b"the server is going down" in refused
        assert b"retry-after" in refused.lower()
        assert found.count(b'"finish_reason": "length"') == 1
        assert b"data: [DONE]" in found
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.stderr.close()


def exchange(port, request):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(request)
        found = b""
        while more := client.recv(65536):
            found += more
        return found
