"""The program, as a user runs it: output, errors of one line, exit statuses."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time

import pytest

import gguf_jax as gj
from gguf_jax.cli import options
from gguf_jax.cli.app import app
from gguf_jax.formats import GGMLType
from gguf_jax.generation import Piece

ONE_LINE_ERRORS = {
    "no such file": (["run", "absent.gguf"], "absent.gguf"),
    "a folder": (["inspect", "."], "expected a regular file"),
    "not GGUF": (["inspect", "junk.gguf"], "junk.gguf: magic"),
    "prompt too long": (["run", "-p", "word " * 30, "-c", "16"], "expected at most 15 tokens (the context holds 16"),
    "negative top_k": (["run", "--top-k", "-3"], "top_k: expected an integer from 0"),
    "nan": (["run", "--temp", "nan"], "temperature: expected a number"),
    "logit bias": (
        ["run", "--logit-bias", "fish"],
        "--logit-bias: expected TOKEN_ID+BIAS or TOKEN_ID-BIAS, found 'fish'",
    ),
    "cache type": (
        ["run", "--cache-type-k", "q9"],
        "--cache-type-k: expected one of f32, f16, bf16, q8_0, q4_0, found 'q9'",
    ),
    "short cache type": (
        ["chat", "-ctk", "q8_0", "-ctv", "q9"],
        "--cache-type-v: expected one of f32, f16, bf16, q8_0, q4_0, found 'q9'",
    ),
    "prompt twice": (["run", "-p", "x", "-f", "y"], "expected one of --prompt and --file"),
    "no prompt file": (["run", "-f", "absent.txt"], "--file absent.txt: cannot be read"),
    "n": (["run", "-n", "0"], "-n: expected a number of tokens or -1, found 0"),
    "empty stop": (["run", "--stop", ""], "stop"),
    "ids": (["tokenize", "--decode", "1 two"], "--decode: expected token ids, found 'two'"),
    "id out of range": (["tokenize", "--decode", "99999"], "99999"),
}


def gguf_jax(*arguments, cwd, **options):
    return subprocess.run(
        [sys.executable, "-m", "gguf_jax", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "junk.gguf").write_bytes(b"JUNK" * 100)
    return tmp_path


def test_run_streams_text_and_reports_timings(folder):
    done = gguf_jax("run", "-p", "It was a fine morning", "-n", 8, "--temp", 0, cwd=folder)
    assert done.returncode == 0, done.stderr
    model = gj.load()
    expected = gj.generate(model, "It was a fine morning", max_tokens=8, temperature=0)
    assert done.stdout == f"It was a fine morning{expected.text}\n"
    assert [line.split()[0] for line in done.stderr.splitlines() if line] == ["load", "compile", "prefill", "decode"]


def test_run_json(folder):
    sampled = [
        "--seed",
        "7",
        "--temp",
        "0.9",
        "--top-k",
        "50",
        "--top-p",
        "0.9",
        "--min-p",
        "0.01",
        "--typical",
        "0.95",
    ]
    penalized = ["--repeat-penalty", "1.1", "--presence-penalty", "0.1", "--frequency-penalty", "0.1", "-l", "40-inf"]
    done = gguf_jax("run", "--json", "-n", 6, "-p", "Hello", *sampled, *penalized, cwd=folder)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["prompt"], answer["seed"], answer["finish_reason"]) == ("Hello", 7, "length")
    assert len(answer["tokens"]) == 6
    assert answer["text"] == gj.tokenizer().decode(answer["tokens"])
    assert {"load_s", "compile_s", "prefill_s", "decode_s", "decode_per_second"} <= set(answer["timings"])


def test_run_takes_a_prompt_from_stdin_and_stops_at_a_text(folder):
    done = gguf_jax("run", "-f", "-", "-n", 8, "--temp", 0, "--no-echo", cwd=folder, input="It was a fine morning")
    stop = done.stdout[5:8]
    again = gguf_jax(
        "run", "-f", "-", "-n", 8, "--temp", 0, "--no-echo", "--stop", stop, cwd=folder, input="It was a fine morning"
    )
    assert again.stdout == done.stdout[: done.stdout.index(stop)] + "\n"


@pytest.mark.parametrize("case", ONE_LINE_ERRORS)
def test_errors_are_one_line_and_status_1(folder, case):
    arguments, message = ONE_LINE_ERRORS[case]
    done = gguf_jax(*arguments, cwd=folder)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_debug_shows_the_traceback(folder):
    done = gguf_jax("inspect", "junk.gguf", "--debug", cwd=folder)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "GGUFError" in done.stderr


def test_a_wrong_option_is_a_usage_error(folder):
    done = gguf_jax("run", "--temprature", 1, cwd=folder)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_tokenize(folder):
    tokenizer = gj.tokenizer()
    text = "Hello, wörld"
    ids = tokenizer.encode(text)
    assert gguf_jax("tokenize", "-p", text, "--ids", cwd=folder).stdout.split() == [str(i) for i in ids]
    assert gguf_jax("tokenize", "--count", cwd=folder, input=text).stdout == f"{len(ids)}\n"
    listed = json.loads(gguf_jax("tokenize", "-p", text, "--json", cwd=folder).stdout)
    assert [each["id"] for each in listed] == ids
    plain = tokenizer.encode(text, add_special=False)
    assert gguf_jax("tokenize", "--decode", ",".join(map(str, plain)), cwd=folder).stdout == text + "\n"
    assert len(gguf_jax("tokenize", "-p", text, cwd=folder).stdout.splitlines()) == len(ids)


def test_inspect_without_a_model_is_the_bundled_one(folder):
    summary = json.loads(gguf_jax("inspect", "--json", cwd=folder).stdout)
    assert summary["metadata"]["general.name"]["value"] == "prose-23m"


def test_light_commands_import_no_jax(folder):
    code = (
        "import sys; sys.argv = ['gguf-jax', *sys.argv[1:]]\n"
        "from gguf_jax.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('jax' in sys.modules, file=sys.stderr)"
    )
    for arguments in (["inspect"], ["tokenize", "-p", "x"], ["run", "--help"], ["version"], ["run", "absent.gguf"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
        assert done.stderr.splitlines()[-1] == "False", arguments


def test_run_ends_quietly_with_its_reader(folder):
    program = f"{sys.executable} -m gguf_jax run -n 400 -p 'Once upon' | head -c 5; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Once ", "")


@pytest.fixture
def answered(monkeypatch):
    """Commands in this process with the answer "!" in place of a generation; what was asked, for each."""
    asked = []

    def pieces(engine, tokenizer, prompts, params, *, max_tokens=None, timings=None, **rest):
        asked.append((engine, params[0], max_tokens))
        timings.decode_tokens += 1
        yield Piece(0, "!", 0, "length")

    monkeypatch.setattr("gguf_jax.generation.pieces", pieces)

    def command(*arguments):
        app([*map(str, arguments)], standalone_mode=False)
        return asked.pop()

    return command


GIVEN = {
    "temperature": ("--temp", 0.5),
    "top_k": ("--top-k", 50),
    "top_p": ("--top-p", 0.5),
    "min_p": ("--min-p", 0.25),
    "typical_p": ("--typical", 0.5),
    "repeat_penalty": ("--repeat-penalty", 2),
    "presence_penalty": ("--presence-penalty", 0.5),
    "frequency_penalty": ("--frequency-penalty", 0.25),
    "penalty_last_n": ("--repeat-last-n", 8),
    "seed": ("--seed", 9),
}


@pytest.mark.parametrize("command", ["run", "chat"])
def test_every_sampling_field_is_an_option_and_has_its_own_default(command, answered, monkeypatch):
    lines = iter(["hello", None] * 3)
    monkeypatch.setattr("gguf_jax.cli.chat._read", lambda: next(lines))
    _, params, _ = answered(command, "--seed", 7)
    assert params == gj.SamplingParams(seed=7)
    _, params, _ = answered(command)
    assert params.seed is not None
    given = [word for pair in GIVEN.values() for word in pair]
    cache = ["-ctk", "f32", "--cache-type-v", "q8_0"]
    engine, params, limit = answered(command, *given, "-l", "5-inf", "-n", 3, "-c", 32, "-b", 16, *cache)
    assert params == gj.SamplingParams(
        **{name: value for name, (_, value) in GIVEN.items()}, logit_bias={5: -float("inf")}
    )
    assert {*GIVEN, "logit_bias"} == set(gj.SamplingParams.__dataclass_fields__)
    assert (limit, engine.ctx_size, engine.batch_size, engine.cache_type) == (
        *(3, 32, 16),
        (GGMLType.F32, GGMLType.Q8_0),
    )


def test_load_time_holds_what_imports_jax_but_not_who_types(answered, monkeypatch, capsys):

    def slow(function, seconds):
        def called(*arguments):
            time.sleep(seconds)
            return function(*arguments)

        return called

    monkeypatch.setattr(options, "sampling_params", slow(options.sampling_params, 1))
    monkeypatch.setattr("gguf_jax.cli.run._prompt", slow(lambda *_: "text", 3))
    answered("run", "--json")
    assert 1 <= json.loads(capsys.readouterr().out)["timings"]["load_s"] < 3


def test_chat_reports_the_load_once(answered, monkeypatch, capsys):
    lines = iter(["one", "two", None])
    monkeypatch.setattr("gguf_jax.cli.chat._read", lambda: next(lines))
    answered("chat")
    found = capsys.readouterr()
    assert found.out == "!\n!\n"
    words = [line.split()[0] for line in found.err.splitlines() if line]
    assert [word for word in words if word in ("load", "compile", "prefill", "decode")] == [
        "load", *["prefill", "decode"] * 2
    ]  # fmt: skip


EARLY = """
import signal, sys, weakref
from gguf_jax.cli.main import main

class Finder:
    def find_spec(self, name, *_):
        if name == "gguf_jax.cli.app":
            if {wrapped}:
                raised = {{"__set_name__": lambda *_: signal.raise_signal(signal.SIGINT)}}
                type("Owner", (), {{"x": type("Named", (), raised)()}})
            elif {ignored}:
                thing = type("Thing", (), {{}})()
                ref = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
                del thing
            else:
                signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["tokenize"]  # which waits for stdin
main()
"""


@pytest.mark.parametrize("where", ["imported", "ignored", "wrapped"])
def test_ctrl_c_while_the_program_starts(where):
    """In an import; where exceptions can only be ignored; where Python 3.11 wraps them in another."""
    program = subprocess.Popen(
        [sys.executable, "-c", EARLY.format(ignored=where == "ignored", wrapped=where == "wrapped")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with program:  # without `communicate`, which would close stdin
        assert program.wait(60) == 130
        assert program.stderr.read() == b""


class Terminal:
    """The program on a pseudo terminal."""

    def __init__(self, *arguments, cwd):
        self.fd, inner = os.openpty()
        command = [sys.executable, "-m", "gguf_jax", *arguments]
        self.process = subprocess.Popen(
            command, cwd=cwd, stdin=inner, stdout=inner, stderr=inner, start_new_session=True
        )
        os.close(inner)
        self.seen = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.fd)

    def read(self, seconds=120):
        """What comes next, "" when the program has gone, or says nothing for so long."""
        if not select.select([self.fd], [], [], max(0, seconds))[0]:
            return ""
        try:
            return os.read(self.fd, 4096).decode("utf-8", "replace")
        except OSError:
            return ""

    def wait_for(self, text, seconds=120):
        """Everything until `text` appears; it is consumed."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"waited for {text!r}, saw {self.seen!r}"
            part = self.read(end - time.monotonic())
            self.seen += part
            assert part or text in self.seen, f"waited for {text!r}, saw {self.seen!r}"
        before, self.seen = self.seen.split(text, 1)
        return before

    def type(self, text):
        os.write(self.fd, text.encode())

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("moment", ["prompt", "compiling", "April, and"], ids=["prefill", "compile", "decode"])
def test_ctrl_c_ends_run(folder, moment, monkeypatch):
    monkeypatch.setenv("GGUF_JAX_NATIVE", "off")  # with kernels a moment is over before it can be seen
    with Terminal("run", "-n", "400", cwd=folder) as run:
        run.wait_for(moment)
        run.interrupt()
        seen = ""
        while part := run.read():
            seen += part
        assert run.process.wait(60) == 130
        assert "Traceback" not in seen


def test_a_remote_header_that_takes_long_shows_that(folder):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/a.gguf"
        with Terminal("inspect", address, cwd=folder) as inspect:
            inspect.wait_for("reading header")
            inspect.interrupt()
            assert inspect.process.wait(30) == 130


def test_a_hostile_text_does_not_drive_the_terminal(folder):
    with Terminal("tokenize", "--decode", " ".join(map(str, gj.tokenizer().encode("\x1b[2Jx"))), cwd=folder) as shown:
        shown.wait_for("\\x1b[2Jx")


def test_chat_answers_stops_on_ctrl_c_and_goes_on(folder):
    with Terminal("chat", "--seed", "1", "-n", "400", cwd=folder) as chat:
        chat.wait_for("no chat template")
        chat.wait_for("> ")
        chat.type("It was a fine morning in April, and\n")
        chat.wait_for("April, and")
        chat.wait_for(" ")  # the answer has begun
        chat.interrupt()
        chat.wait_for("(stopped)")
        chat.wait_for("decode")
        chat.wait_for("> ")
        chat.type("word " * 600 + "\n")
        chat.wait_for("error: prompt: expected at most")
        chat.wait_for("> ")
        chat.type("/clear\n")
        chat.wait_for("(forgotten)")
        chat.wait_for("> ")
        chat.type("/exit\n")
        assert chat.process.wait(30) == 0
