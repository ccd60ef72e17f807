"""`gguf-jax perplexity`, as a user runs it."""

import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.cli.app import app
from gguf_jax.cli.perplexity import read_text
from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals.perplexity import Perplexity
from gguf_jax.evals.perplexity import perplexity as of
from gguf_jax.generation import Timings

TEXT = "It was a fine morning in April, and the whole family had gone out to look at the garden. " * 12


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder, in which the program runs, with a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    return tmp_path


def perplexity(*arguments):
    app(["perplexity", *map(str, arguments)], standalone_mode=False)


def test_the_bundled_model(folder, capsys):
    perplexity("-f", "text.txt", "-c", 32)
    found = capsys.readouterr()
    value, error = map(float, re.fullmatch(r"PPL = (\S+) \+/- (\S+)\n", found.out).groups())
    expected = of(gj.load(), TEXT, ctx_size=32)
    assert (value, error) == (round(expected.perplexity, 4), round(expected.stderr, 5))
    assert re.search(r"\d+ tokens scored in \d+ windows of 32, .* tokens/s", found.err)


def test_json(folder, capsys):
    perplexity("-f", "text.txt", "-c", 32, "--chunks", 3, "-b", 2, "--precision", "fast", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["precision"]) == ("bundled", "fast")
    assert (found["windows"], found["windows_planned"], found["tokens"]) == (3, 3, 45)
    assert found["perplexity"] > 1
    assert found["stderr"] > 0


@pytest.mark.parametrize("output_type", [0, 1])
def test_the_estimate_after_each_window(folder, capsys, output_type):
    perplexity("-f", "text.txt", "-c", 32, "--chunks", 4, "-b", 3, "--ppl-output-type", output_type)
    *_, last = out = capsys.readouterr().out.splitlines()
    if output_type == 0:
        numbers = re.findall(r"\[(\d+)\](\d+\.\d{4}),", out[0])
    else:
        numbers = [line.split()[:2] for line in out[:-1]]
    assert [int(number) for number, _ in numbers] == ([1, 2, 3, 4] if output_type == 0 else [0, 32, 64, 96])
    assert last.startswith(f"PPL = {numbers[-1][1]} +/- ")


def test_stride(folder, capsys):
    perplexity("-f", "text.txt", "-c", 32, "--stride", 8, "--chunks", 5, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["stride"], found["windows"], found["tokens"]) == (8, 5, 40)


ERRORS = {
    "short": (["-f", "text.txt", "-c", 512], "text: expected at least 512 tokens for one window of 512, found "),
    "no text": (["-f", "absent.txt"], "--file absent.txt: cannot be read: No such file or directory"),
    "not UTF-8": (["-f", "latin1.txt"], "--file latin1.txt: expected UTF-8 text, found an invalid byte at 3"),
    "ctx": (["-f", "text.txt", "-c", 2], "ctx_size: expected from 3 to 2147483647 tokens, found 2"),
    "stride": (["-f", "text.txt", "-c", 32, "--stride", 32], "stride: expected from 1 to 31 (ctx_size - 1), found 32"),
    "negative stride": (["-f", "text.txt", "--stride", -2], "--stride: expected at least 1, or 0, found -2"),
    "chunks": (["-f", "text.txt", "--chunks", 0], "--chunks: expected at least 1, or -1, found 0"),
    "batch": (["-f", "text.txt", "-c", 32, "-b", 0], "batch_size: expected at least 1 window, found 0"),
    "precision": (["-f", "text.txt", "--precision", "x"], "--precision: expected one of exact, fast, found 'x'"),
    "type": (["-f", "text.txt", "--ppl-output-type", 2], "--ppl-output-type: expected 0 or 1, found 2"),
    "type and JSON": (["-f", "text.txt", "--ppl-output-type", 1, "--json"], "expected it without --json"),
    "model": (["-f", "text.txt", "absent.gguf"], "absent.gguf"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(folder, case):
    (folder / "latin1.txt").write_bytes(b"caf\xe9")
    arguments, message = ERRORS[case]
    with pytest.raises(GGUFJaxError) as error:
        perplexity(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_last_newline_is_left_out(folder):
    (folder / "lines.txt").write_text("a\nb\n\n", "utf-8")
    assert read_text(folder / "lines.txt") == "a\nb\n"


INTERRUPTED = """
import signal, sys
from gguf_jax.cli.main import main
from gguf_jax.evals import {module}

of = {module}.{function}
def interrupted(*arguments, **options):
    for number, found in enumerate(of(*arguments, **options)):
        yield found
        if number == 1:
            signal.raise_signal(signal.SIGINT)
{module}.{function} = interrupted
sys.argv[1:] = {arguments}
main()
"""


def run_interrupted(module, function, *arguments, cwd):
    """The program, with Ctrl-C after the second batch."""
    code = INTERRUPTED.format(module=module, function=function, arguments=list(map(str, arguments)))
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_prints_what_there_is(folder, as_json):
    arguments = ["perplexity", "-f", "text.txt", "-c", 32, "-b", 1, *(["--json"] if as_json else [])]
    done = run_interrupted("perplexity", "perplexities", *arguments, cwd=folder)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    if as_json:
        found = json.loads(done.stdout)
        assert found["windows"] == 2 < found["windows_planned"]
    else:
        assert re.fullmatch(r"PPL = \S+ \+/- \S+\n", done.stdout)
    assert re.match(r"interrupted after 2 of \d+ windows: the figures are of those\n", done.stderr)


def test_a_perplexity_beyond_all_numbers():
    found = Perplexity(np.full((1, 4), 1e6, np.float32), 8, None, 1, 1, Timings())
    assert found.perplexity == float("inf")
    assert found.as_dict()["perplexity"] is None
