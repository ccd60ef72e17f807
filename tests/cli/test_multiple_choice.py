"""`gguf-jax multiple-choice`, as a user runs it."""

import csv
import io
import json
import re
import signal

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.cli.app import app
from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals.task_files import read_tasks
from tests.cli.test_perplexity import run_interrupted

CONTEXTS = (
    "It was a fine",
    "The old house stood",
    "She opened the letter and",
    "They walked along the",
    "He had never",
)
ENDINGS = ("morning in April.", "at the end of the lane.", "began to read.", "banana quickly of.")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder, in which the program runs, with tasks of each kind."""
    monkeypatch.chdir(tmp_path)
    lines = [line for i, context in enumerate(CONTEXTS * 2) for line in (f"Prose: {context}", str(i % 4), *ENDINGS)]
    (tmp_path / "hellaswag.txt").write_text("\n".join(lines) + "\n", "utf-8")
    rows = [
        {"query": context, "choices": list(ENDINGS[: 2 + i % 3]), "gold": i % 2} for i, context in enumerate(CONTEXTS)
    ]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (tmp_path / "winogrande.csv").write_text("0,Ann saw Sue because _ was at the window.,Ann,Sue,1\n", "utf-8")
    return tmp_path


def multiple_choice(*arguments):
    app(["multiple-choice", *map(str, arguments)], standalone_mode=False)


def test_the_bundled_model(folder, capsys):
    multiple_choice("-f", "hellaswag.txt")
    found = capsys.readouterr()
    expected = gj.multiple_choice(gj.load(), read_tasks("hellaswag.txt"))
    low, high = expected.interval
    assert found.out == (
        f"accuracy      : {100 * expected.accuracy.value:.4f} +/- {100 * expected.accuracy.stderr:.4f} %\n"
        f"95% interval  : {100 * low:.4f} to {100 * high:.4f} %\n"
        "random chance : 25.0000 %\n"
    )
    assert re.search(r"10 hellaswag tasks, .* tokens/s", found.err)


def test_json(folder, capsys):
    multiple_choice("-f", "queries.jsonl", "-n", 3, "-b", 64, "--precision", "fast", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["file"], found["precision"]) == ("bundled", "queries.jsonl", "fast")
    assert (found["kind"], found["tasks"], found["tasks_planned"]) == ("multiple-choice", 3, 3)
    assert 0 <= found["correct"] <= 3


def test_csv(folder, capsys):
    multiple_choice("-f", "queries.jsonl", "--csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    expected = gj.multiple_choice(gj.load(), read_tasks("queries.jsonl")).answers
    assert len(rows) == len(expected)
    for row, answer in zip(rows, expected, strict=True):
        assert [float(score) for score in row["scores"].split()] == list(answer.scores)
        assert int(row["chosen"]) == int(np.argmax(answer.scores)) == answer.chosen
        assert (int(row["task"]), int(row["gold"]), int(row["right"])) == (answer.task, *answer.gold, answer.right)


def test_one_task(folder, capsys):
    multiple_choice("-f", "winogrande.csv", "--kind", "winogrande", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["tasks"], found["chance"], found["accuracy_stderr"]) == (1, 0.5, None)


ERRORS = {
    "no file": (["-f", "absent"], "absent: cannot be read: No such file or directory"),
    "kind": (
        ["-f", "hellaswag.txt", "--kind", "x"],
        "--kind: expected one of hellaswag, winogrande, multiple-choice, ",
    ),
    "another kind": (
        ["-f", "hellaswag.txt", "--kind", "winogrande"],
        "hellaswag.txt: line 1: expected index, sentence",
    ),
    "tasks": (["-f", "hellaswag.txt", "-n", 0], "--tasks: expected at least 1, or -1, found 0"),
    "batch": (["-f", "hellaswag.txt", "-b", 0], "batch_tokens: expected at least 1, found 0"),
    "precision": (["-f", "hellaswag.txt", "--precision", "x"], "--precision: expected one of exact, fast, found 'x'"),
    "two outputs": (["-f", "hellaswag.txt", "--json", "--csv"], "expected one of --json and --csv, found both"),
    "model": (["-f", "hellaswag.txt", "absent.gguf"], "absent.gguf"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(folder, case):
    arguments, message = ERRORS[case]
    with pytest.raises(GGUFJaxError) as error:
        multiple_choice(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("output", ["", "--json"])
def test_ctrl_c_prints_what_there_is(folder, output):
    arguments = ["multiple-choice", "-f", "hellaswag.txt", "-b", 64, *output.split()]
    done = run_interrupted("multiple_choice", "multiple_choices", *arguments, cwd=folder)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    interrupted = re.match(r"interrupted after (\d+) of 10 tasks: the figures are of those\n", done.stderr)
    assert interrupted
    if output == "--json":
        found = json.loads(done.stdout)
        assert found["tasks"] == int(interrupted[1]) < found["tasks_planned"] == 10
    else:
        assert done.stdout.startswith("accuracy      : ")
