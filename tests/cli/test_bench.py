"""`gguf-jax bench` as a user runs it."""

import csv
import io
import json
import signal
import subprocess
import sys

import pytest

from gguf_jax.cli.bench import integers, pairs
from gguf_jax.errors import GGUFJaxError
from tests.cli.test_cli import gguf_jax


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["512"], [512]),
        (["0", "8,16"], [0, 8, 16]),
        (["1-4"], [1, 2, 3, 4]),
        (["0-1024+512,7"], [0, 512, 1024, 7]),
        (["128-1024*2"], [128, 256, 512, 1024]),
        (["5-5*1"], [5]),
        (["3-7+3"], [3, 6]),
        ([], []),
        (None, []),
    ],
)
def test_numbers_and_ranges(texts, expected):
    assert integers("-p", texts) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1.5", "4-1", "0-8*2", "1-8*1", "1-8+0", "1--2", "99999999999", "0-4000000", "1,,2", "५"]
)
def test_numbers_that_are_none(text):
    with pytest.raises(GGUFJaxError, match=r"^-p: expected "):
        integers("-p", [text])


def test_pairs():
    assert pairs("-pg", ["512,128", "4,0"]) == [(512, 128), (4, 0)]
    with pytest.raises(GGUFJaxError, match="-pg: expected two numbers such as 512,128, found '512'"):
        pairs("-pg", ["512"])


ERRORS = {
    "format": (["-o", "xml"], "-o: expected one of md, csv, json, jsonl, sql, found 'xml'"),
    "list": (["-p", "12,abc"], "-p: expected numbers such as 512, 1-4, 0-1024+256 or 128-1024*2, found 'abc'"),
    "pair": (["-pg", "12"], "-pg: expected two numbers"),
    "batch": (["-ub", "0"], "-ub: expected from 1 to"),
    "cache": (["-ctk", "q9"], "-ctk: expected one of f32, f16"),
    "precision": (["--precision", "sloppy"], "--precision: expected one of exact, fast, found 'sloppy'"),
    "repetitions": (["-r", "0"], "-r: expected at least 1, found 0"),
    "nothing": (["-p", "0", "-n", "0"], "bench: expected something to run"),
    "file": (["-m", "absent.gguf"], "absent.gguf"),
    "op": (["--kernels", "--op", "conv"], "--op: expected one of linear"),
    "kernels": (["--kernels", "-o", "sql"], "--kernels: expected -o md, csv, json or jsonl"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(tmp_path, case):
    arguments, message = ERRORS[case]
    done = gguf_jax("bench", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_the_bundled_model_as_json(tmp_path):
    tests = ["-p", "32", "-n", "4", "-pg", "16,2", "-d", "0,20", "-r", "2", "-ctk", "q8_0", "--precision", "exact"]
    done = gguf_jax("bench", *tests, "-o", "json", "-oe", "md", "--no-limits", "--progress", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["n_prompt"], row["n_gen"], row["n_depth"]) for row in rows] == [
        (prompt, gen, depth) for depth in (0, 20) for prompt, gen in ((32, 0), (0, 4), (16, 2))
    ]
    for row in rows:
        assert (row["type_k"], row["type_v"], row["precision"]) == ("q8_0", "f16", "exact")
        assert len(row["samples_ns"]) == len(row["samples_ts"]) == 2
        assert row["model_filename"].endswith("prose-23m-Q4_K_M.gguf")
        assert row["avg_ts"] > 0
        assert row["limit_ts"] is None
    header = next(line for line in done.stderr.splitlines() if line.startswith("| model"))
    assert "test" in header.split()
    assert "gguf-jax bench: 1/6 pp32: repetition 2 of 2" in done.stderr


def test_a_share_of_the_machines_limit_stands_beside_each_figure(tmp_path):
    done = gguf_jax("bench", "-p", "16", "-n", "2", "-r", "1", "-o", "csv", "--no-warmup", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for row in csv.DictReader(io.StringIO(done.stdout)):
        assert float(row["read_bandwidth"]) > 1e8
        assert float(row["peak_ops"]) > 1e8
        assert float(row["share_of_limit"]) == pytest.approx(float(row["avg_ts"]) / float(row["limit_ts"]), rel=1e-3)


def test_kernels(tmp_path):
    chosen = ["--op", "linear", "--type", "q4_0", "--shape", "small.wide", "--rows", "1", "--implementation", "xla"]
    done = gguf_jax("bench", "--kernels", *chosen, "--seconds", "0.001", "-o", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [(row["type"], row["rows"], row["precision"]) for row in json.loads(done.stdout)] == [
        ("Q4_0", 1, "exact"),
        ("Q4_0", 1, "fast"),
    ]


def test_ctrl_c_leaves_whole_json(tmp_path):
    command = [sys.executable, "-m", "gguf_jax", "bench", "-p", "16", "-n", "64", "-r", "100", "-o", "json"]
    with subprocess.Popen(
        [*command, "--no-limits", "--progress"],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stderr is not None
        assert running.stdout is not None
        for line in running.stderr:
            if "2/2 tg64: repetition 2" in line:
                break
        running.send_signal(signal.SIGINT)
        text, errors = running.stdout.read(), running.stderr.read()
        assert running.wait(60) == 130
    assert [row["n_prompt"] for row in json.loads(text)] == [16]
    assert "Traceback" not in errors
