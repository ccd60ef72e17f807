"""Contract: what `inspect` shows is what the file says, and nothing in a file can drive the terminal."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from gguf_jax.cli.inspect import inspect, size_text
from gguf_jax.gguf import ArrayOf, Typed, ValueType, read, write
from gguf_jax.gguf.summary import summary
from gguf_jax.gguf.text import printable
from tests.gguf.craft import small_file

HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n\u202e[red]text[/red]\x9b1m\udcff"


@pytest.fixture
def path(tmp_path) -> str:
    path = tmp_path / "a.gguf"
    metadata = {
        "general.name": "[bold]name[/bold]",
        "long": "x" * 5000,
        "tokens": [f"token {i}" for i in range(1000)],
        "floats": np.array([1.5, math.inf, -math.inf, math.nan], np.float32),
        "epsilon": 1e-6,
        "nested": [[1, 2], ["a"]],
        "empty": Typed([], ArrayOf(ValueType.STRING)),
        HOSTILE: HOSTILE,
        "array": [HOSTILE],
        "bytes": "\udcff",
    }
    tensors = {
        "a": np.zeros((4, 32), np.float32),
        "b": (8, np.zeros((2, 3, 68), np.uint8)),
        HOSTILE: np.zeros(2, np.int8),
    }
    write(path, metadata, tensors)
    return str(path)


def test_summary(path):
    with read(path) as file:
        found = summary(file)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["metadata"]["tokens"] == {
        "type": "[string]",
        "length": 1000,
        "value": [f"token {i}" for i in range(8)],
    }
    assert found["metadata"]["floats"]["value"] == [1.5, "Infinity", "-Infinity", "NaN"]
    assert found["metadata"]["nested"] == {"type": "[array]", "length": 2, "value": [[1, 2], ["a"]]}
    assert found["metadata"]["epsilon"] == {"type": "f32", "value": float(np.float32(1e-6))}
    assert found["tensors"][1] == {
        "name": "b",
        "type": "Q8_0",
        "shape": [2, 3, 64],
        "bytes": 408,
        "bits_per_weight": 8.5,
        "offset": found["data_offset"] + 512,
    }
    assert found["types"]["Q8_0"] == {"tensors": 1, "weights": 384, "bytes": 408}
    assert list(found["types"]) == ["F32", "Q8_0", "I8"]
    assert found["parameters"] == 128 + 384 + 2
    assert found["bits_per_weight"] == 8 * (512 + 408 + 2) / 514
    with read(path) as file:
        assert len(summary(file, full=True)["metadata"]["tokens"]["value"]) == 1000


def test_summary_of_a_file_made_by_hand(stored):
    found = summary(read(stored(small_file())), full=True)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["metadata"]["array.7"]["value"] == [True, False, True]


def test_json(path, capsys):
    inspect(path, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["metadata"]["general.name"]["value"] == "[bold]name[/bold]"
    assert found["metadata"][HOSTILE]["value"] == HOSTILE
    inspect(path, as_json=True, metadata_only=True)
    assert json.loads(capsys.readouterr().out) == found["metadata"]


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("tensors", [True, False])
def test_nothing_unprintable_reaches_the_terminal(path, full, tensors, capsys):
    inspect(path, full=full, tensors=tensors)
    out = capsys.readouterr().out
    assert out.replace("\n", "").replace("\t", "").isprintable()
    assert "[bold]name[/bold]" in out
    assert r"\x1b[2J" in out
    assert "1e-06" in out
    assert ("token 999" in out) is full
    assert ("2 x 3 x 64" in out) is tensors
    assert "Q8_0" in out
    assert "514 weights" in out
    inspect(path, metadata_only=True)
    assert "Q8_0" not in capsys.readouterr().out


def test_printable():
    assert printable("plain ünï") == "plain ünï"
    assert printable(HOSTILE).isprintable()
    assert printable("\n\x1b\u202e\udcff") == r"\n\x1b\u202e\udcff"


def run(path: str, shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from gguf_jax.cli.inspect import inspect; inspect(sys.argv[1], full=True, tensors=True)"
    command = f'"{sys.executable}" -c "{code}" "{path}" {shell}'
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=os.environ | environment, timeout=60
    )


def test_a_reader_that_stops_early(path, tmp_path):
    write(tmp_path / "b.gguf", {"tokens": [f"token {i}" for i in range(200_000)]}, {})
    done = run(str(tmp_path / "b.gguf"), "| head -c 10; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "tokens\t[st")


def test_a_terminal_without_unicode(tmp_path):
    write(tmp_path / "b.gguf", {"name": "wörld"}, {"t": np.zeros(1, np.float32)})
    done = run(str(tmp_path / "b.gguf"), "", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"w\xf6rld" in done.stdout


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1 << 40, "1.00 TiB"), (150 << 20, "150.0 MiB")],
)
def test_size_text(nbytes, text):
    assert size_text(nbytes) == text
