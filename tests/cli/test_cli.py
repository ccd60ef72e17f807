"""The program, as a user runs it: output, errors of one line, exit statuses."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import gguf_jax as gj

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
    "cache type": (["run", "--cache-type", "q9"], "--cache-type: expected one of f32, f16, bf16, found 'q9'"),
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
    for arguments in (["inspect", "--json"], ["tokenize", "-p", "x"], ["--help"], ["version"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
        assert done.stderr.splitlines()[-1] == "False", arguments


def test_a_closed_pipe_is_no_error(folder):
    program = f"{sys.executable} -m gguf_jax inspect --full | head -n 1"
    done = subprocess.run(program, shell=True, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


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

    def wait_for(self, text, seconds=120):
        """Everything until `text` appears; it is consumed."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"waited for {text!r}, saw {self.seen!r}"
            try:
                self.seen += os.read(self.fd, 4096).decode("utf-8", "replace")
            except OSError:  # the program has gone
                assert text in self.seen, f"waited for {text!r}, saw {self.seen!r}"
        before, self.seen = self.seen.split(text, 1)
        return before

    def type(self, text):
        os.write(self.fd, text.encode())

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)


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
