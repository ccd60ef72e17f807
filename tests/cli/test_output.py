"""Contract: what cannot be written is one line or, when the reader has gone, nothing; no text drives the terminal."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gguf_jax.cli import output
from gguf_jax.cli.activity import Activity
from gguf_jax.cli.inspect import element_text, inspect, value_text
from gguf_jax.gguf import write
from gguf_jax.tokenizers.from_file import tokenizer

LIGHT = (["inspect"], ["inspect", "--json"], ["tokenize", "-p", "some text"], ["version"], ["run", "--help"])


class Stream(io.TextIOWrapper):
    """Standard output in memory, a terminal or not."""

    def __init__(self, encoding="utf-8", terminal=False):
        super().__init__(io.BytesIO(), encoding, newline="")
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    @property
    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def stdout(monkeypatch):
    def replaced(**kind):
        stream = Stream(**kind)
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    return replaced


def shell(arguments, redirection, **environment):
    command = f'"{sys.executable}" -m gguf_jax "$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", command, "bash", *arguments], capture_output=True, text=True, env=os.environ | environment
    )


def test_a_terminal_sees_no_control_characters(stdout):
    text = "a\x1b[2J\x9b1m\x07\x00\x7f\tb\r\nこ\u3000\u200dé"
    terminal = stdout(terminal=True)
    output.write(text)
    assert terminal.text == "a\\x1b[2J\\x9b1m\\x07\\x00\\x7f\tb\r\nこ\u3000\u200dé"
    output.write("\x1b[1mbold\x1b[0m", styled=True)
    assert terminal.text.endswith("\x1b[1mbold\x1b[0m")


def test_a_pipe_gets_the_text_as_it_is(stdout):
    pipe = stdout()
    output.write("a\x1b[2Jé")
    assert pipe.text == "a\x1b[2Jé"


def test_what_the_encoding_lacks_is_escaped(stdout):
    ascii_only = stdout(encoding="ascii")
    output.write("wörld ☃\udcff")
    output.write_json({"é": "☃"})
    assert ascii_only.text == 'w\\xf6rld \\u2603\\udcff{"\\u00e9": "\\u2603"}\n'


def test_inspect_draws_lines_that_the_encoding_has(stdout):
    terminal = stdout(encoding="ascii", terminal=True)
    inspect()
    assert "\x1b[" in terminal.text
    assert "\\u2500" not in terminal.text


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_a_full_disk_is_one_line(arguments):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = shell(arguments, "> /dev/full")
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")


@pytest.mark.parametrize("arguments", [["run"], ["chat"], *LIGHT[:3]], ids=" ".join)
def test_a_closed_output_is_one_line_before_any_work(arguments):
    done = shell(arguments, ">&-")
    assert (done.returncode, done.stderr) == (1, "error: standard output: Bad file descriptor\n")


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_a_reader_that_has_gone_is_no_error(arguments):
    done = shell(arguments, "| true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_stdin_and_stderr():
    done = shell(["tokenize", "--count", "--no-special"], "<&- 2>&-")
    assert (done.returncode, done.stdout) == (0, "0\n")


def test_tokens_are_escaped_once():
    codec = tokenizer()
    text = 'é☃ \\n\n"'
    done = shell(["tokenize", "--no-special", "-p", text], "", PYTHONIOENCODING="utf-8")
    shown = [line[10:] for line in done.stdout.splitlines()]
    assert "'\\xe2'" in shown
    assert not any(re.search(r"\\\\x", token) for token in shown)
    assert b"".join(codec.token_bytes(int(line[:8])) for line in done.stdout.splitlines()) == text.encode()


@pytest.mark.parametrize("full", [False, True])
def test_nan_is_written_in_one_way(tmp_path, full, capsys):
    floats = [1e-6, float("nan"), float("-inf")]
    write(tmp_path / "a.gguf", {"one": float("nan"), "many": np.array(floats, np.float32), "words": ["NaN"]}, {})
    inspect(str(tmp_path / "a.gguf"), full=full)
    lines = {line.split()[0]: line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert re.search(r"f32\s+NaN$", lines["one"])
    assert lines["many"].endswith("1e-06, NaN, -Infinity")
    assert lines["words"].endswith("'NaN'")
    assert value_text([["a"], [1]], "[array]") == "['a'], [1]"
    assert element_text(True, "bool") == "True"


def test_a_bar_whose_work_is_done_pulses():
    activity = Activity("prompt", 8, then="compiling")

    def shown():
        (task,) = activity._progress.tasks
        return task.description, task.completed, task.total

    activity.update(4, 8)
    assert shown() == ("prompt", 4, 8)
    activity.update(8, 8)
    assert shown() == ("compiling", 0, None)
    activity.update(2, 4)
    assert shown() == ("prompt", 2, 4)
    activity.advance(2)
    assert shown() == ("compiling", 0, None)
