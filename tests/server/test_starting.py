"""How the server is started: the runner's flags, and what they say where they can do nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from gguf_jax.errors import GGUFJaxError
from gguf_jax.server.__main__ import started


def test_the_runners_flags():
    flags = "-model m.gguf -port 9000 -host 0.0.0.0 -ctx-size 4096 -batch-size 256 -parallel 3 -kv-cache-type q8_0"
    flags += " -lora a.gguf -lora b.gguf -verbose -threads 4 -flash-attn -n-gpu-layers 99 -mlock -multiuser-cache"
    what, notes = started(flags.split())
    assert (what.model, what.host, what.port, what.parallel) == ("m.gguf", "0.0.0.0", 9000, 3)
    assert (what.ctx_size, what.batch_size, what.cache_type, what.verbose) == (4096, 256, "q8_0", True)
    assert what.adapters == [("a.gguf", 1.0), ("b.gguf", 1.0)]
    assert [note.partition(":")[0] for note in notes] == ["-threads", "-flash-attn", "-mlock", "-n-gpu-layers"]
    assert started([])[0].model is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("-mmproj x.gguf", "-mmproj: expected no projector"),
        ("-port 70000", "-port: expected from 0 to 65535, found 70000"),
        ("-parallel 0", "-parallel: expected from 1 to 256, found 0"),
    ],
)
def test_flags_that_cannot_be(flags, message):
    with pytest.raises(GGUFJaxError, match=message):
        started(flags.split())


def test_a_file_that_is_none_ends_it_with_one_line(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"junk, and not a model")
    for command in (["-m", "gguf_jax.server", "-model"], ["-m", "gguf_jax", "serve"]):
        run = subprocess.run(
            [sys.executable, *command, str(tmp_path / "x.gguf")], capture_output=True, text=True, check=False
        )
        assert run.returncode == 1
        assert run.stderr.startswith(f"error: {tmp_path / 'x.gguf'}: magic")
        assert run.stderr.count("\n") == 1


def test_it_answers_and_goes_down_when_it_is_told_to():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gguf_jax", "serve", "--port", str(port), "-c", "64"]
    # a shell that starts jobs in the background has them ignore Ctrl-C: SIGTERM it is
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    assert json.load(answer) == {"status": "ok", "progress": 1.0}
                    break
            except OSError:  # not listening yet, or 503
                assert time.monotonic() < deadline
                time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert errors == f"listening at http://127.0.0.1:{port}\n"
    finally:
        process.kill()
