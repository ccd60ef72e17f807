"""`gguf-jax kld`, as a user runs it."""

import csv
import io
import json
import re
import signal
import struct

import pytest

from gguf_jax import bundled_model
from gguf_jax.cli.app import app
from gguf_jax.errors import GGUFJaxError
from tests.cli.test_perplexity import TEXT, run_interrupted
from tests.test_checkpoint import write_small

MODEL = str(bundled_model())
SHORT = ["-f", "text.txt", "-c", "32", "--chunks", "3"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder, in which the program runs, with a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    return tmp_path


def kld(*arguments):
    app(["kld", *map(str, arguments)], standalone_mode=False)


def test_one_model_has_all_statistics(folder, capsys):
    kld(MODEL, MODEL, *SHORT)
    found = capsys.readouterr()
    for line in (
        r"Mean PPL\(Q\)/PPL\(base\) +: 1\.000000 ± 0\.000000",
        r"Cor\(ln\(PPL\(Q\)\), ln\(PPL\(base\)\)\): 100\.00%",
        r"Mean    KLD: 0\.000000 ± 0\.000000",
        r"Maximum KLD:   0\.000000",
        r"99\.9%   KLD:   0\.000000",
        r"Median  KLD:   0\.000000",
        r" 0\.1%   Δp:  0\.000%",
        r"Same top p: 100\.000 ± 0\.000 %",
    ):
        assert re.search(f"^{line}$", found.out, re.MULTILINE), line
    assert "45 tokens scored in 3 windows of 32" in found.err


def test_several_models_have_a_table(folder, capsys):
    kld(MODEL, MODEL, MODEL, *SHORT)
    base, head, rule, *rows = capsys.readouterr().out.splitlines()
    assert base.startswith("PPL(base) = ")
    assert "mean KLD" in head
    assert {len(line) for line in (head, rule, *rows)} == {len(head)}
    assert all("| 0.00000 ± 0.00000 " in row for row in rows)
    assert len(rows) == 2


@pytest.mark.parametrize("sequential", [False, True])
def test_json_and_csv(folder, capsys, sequential):
    arguments = [MODEL, MODEL, MODEL, *SHORT, *(["--sequential"] if sequential else [])]
    kld(*arguments, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["base"] == MODEL
    assert [(row["model"], row["windows"], row["kld_mean"]) for row in found["models"]] == [(MODEL, 3, 0.0)] * 2
    kld(*arguments, "--csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [list(row) for row in rows] == [list(row) for row in found["models"]]
    assert [float(row["same_top"]) for row in rows] == [1.0, 1.0]


def test_a_file_of_log_probabilities(folder, capsys):
    kld(MODEL, *SHORT, "--save-logits", "base.kld")
    capsys.readouterr()
    kld("base.kld", MODEL, "--json")
    (row,) = json.loads(capsys.readouterr().out)["models"]
    assert (row["windows"], row["ctx_size"]) == (3, 32)
    assert abs(row["kld_mean"]) < 16 / 65535  # a step of the file
    assert abs(row["log_perplexity_ratio"]) < 16 / 65535
    kld("base.kld", MODEL, *SHORT, "--json")
    assert json.loads(capsys.readouterr().out)["models"][0]["kld_mean"] == row["kld_mean"]


def test_a_file_that_was_cut_off(folder, capsys):
    kld(MODEL, *SHORT, "--save-logits", "base.kld")
    capsys.readouterr()
    path = folder / "base.kld"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(GGUFJaxError, match=r"^base\.kld: expected \d+ bytes, 3 windows .* found \d+ bytes, 2 whole"):
        kld("base.kld", MODEL)
    kld("base.kld", MODEL, "--chunks", 2, "--json")
    assert json.loads(capsys.readouterr().out)["models"][0]["windows"] == 2


ERRORS = {
    "no model": ([MODEL, "-f", "text.txt"], "kld: expected at least one MODEL, or --save-logits; found neither"),
    "no text": ([MODEL, MODEL], "kld: expected a text, -f FILE; found none"),
    "short": ([MODEL, MODEL, "-f", "text.txt"], "text: expected at least 512 tokens for one window of 512, found "),
    "two formats": ([MODEL, MODEL, *SHORT, "--json", "--csv"], "expected one of --json and --csv, found both"),
    "saved anew": (["bad.kld", MODEL, "--save-logits", "x"], "--save-logits: expected BASE to be a model"),
    "vocabulary": (["bad.kld", MODEL], f"{MODEL}: vocabulary: expected 7 tokens as in bad.kld, found 4096"),
    "window": (["bad.kld", "small.gguf", "-c", 16], "ctx_size: expected 8 as in bad.kld, found 16"),
    "models": ([MODEL, "small.gguf", *SHORT], "small.gguf: vocabulary: expected 4096 tokens"),
    "precision": ([MODEL, MODEL, *SHORT, "--precision", "x"], "--precision: expected one of exact, fast, found 'x'"),
    "absent": ([MODEL, "absent.gguf", *SHORT], "absent.gguf"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(folder, case):
    arguments, message = ERRORS[case]
    if "small.gguf" in arguments:
        write_small(folder / "small.gguf", vocab_size=7)
    row = struct.pack("<2f8H", 0, -2, *[0] * 8)
    (folder / "bad.kld").write_bytes(b"_logits_" + struct.pack("<3i8i", 8, 7, 1, *[1] * 8) + 3 * row)
    with pytest.raises(GGUFJaxError) as error:
        kld(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_ctrl_c_prints_what_there_is(folder):
    arguments = ["kld", MODEL, MODEL, *SHORT, "-b", 1, "--json"]
    done = run_interrupted("kl_divergence", "kl_divergences", *arguments, cwd=folder)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    (row,) = json.loads(done.stdout)["models"]
    assert (row["windows"], row["windows_planned"], row["kld_mean"]) == (2, 3, 0.0)
    assert done.stderr.startswith("interrupted after 2 of 3 windows")
