"""`gguf-jax doctor`: what it says, and that what is wrong stands in its place and ends nothing."""

import json
import platform
import subprocess
import sys

import jax
import pytest

from gguf_jax.ops import native


def doctor(monkeypatch, *arguments, **variables):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)  # JAX's own setting comes first
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    return subprocess.run(
        [sys.executable, "-m", "gguf_jax", "doctor", *arguments], capture_output=True, text=True, check=False
    )


def found(done):
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_it_says_what_is_used_and_measures_it(monkeypatch, tmp_path):
    answer = found(doctor(monkeypatch, "--json", GGUF_JAX_COMPILATION_CACHE=tmp_path, GGUF_JAX_THREADS=1))
    assert answer["versions"]["python"] == platform.python_version()
    assert answer["versions"]["jax"] == jax.__version__
    assert answer["devices"][0]["platform"] == jax.default_backend()
    assert min(answer["limits"]["read_bandwidth"], *answer["limits"]["peaks"].values()) > 1e8
    assert answer["compilation_cache"]["folder"].startswith(str(tmp_path))
    assert answer["environment"]["GGUF_JAX_THREADS"] == "1"
    if native.available():
        assert answer["native"]["error"] is None
        assert answer["native"]["threads"] == 1
        assert answer["native"]["level"] in answer["native"]["levels"]


@pytest.mark.parametrize(
    ("name", "value", "part", "message"),
    [
        ("GGUF_JAX_NATIVE", "off", "native", "switched off"),
        ("GGUF_JAX_NATIVE", "maybe", "native", "expected auto, off or require, found 'maybe'"),
        ("GGUF_JAX_NATIVE_LIBRARY", "/nowhere.so", "native", "there is no /nowhere.so"),
        ("GGUF_JAX_COMPILATION_CACHE", "here", "compilation_cache", "expected off or an absolute path, found 'here'"),
    ],
)
def test_what_is_wrong_stands_in_its_place(monkeypatch, name, value, part, message):
    answer = found(doctor(monkeypatch, "--json", "--no-measure", **{name: value}))
    assert message in answer[part]["error"]
    assert answer["limits"] is None


def test_for_people_it_is_lines(monkeypatch):
    done = doctor(monkeypatch, "--no-measure", JAX_TRACEBACK_FILTERING="off")
    assert (done.returncode, done.stderr) == (0, "")
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert {"python", "jax", "device", "kernels", "compiled", "JAX_TRACEBACK_FILTERING"} <= set(names)
