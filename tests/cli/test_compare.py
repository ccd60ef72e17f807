"""`gguf-jax compare --sensitivity`, as a user runs it; what it does without a text is in tests/quantization."""

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
from gguf_jax.evals.kl_divergence import kl_divergence
from gguf_jax.formats import FORMATS, GGMLType
from tests.cli.test_perplexity import TEXT, run_interrupted
from tests.test_checkpoint import write_small

MODEL = str(gj.bundled_model())
CHANGED = ["blk.0.attn_q.weight", "blk.5.attn_v.weight", "output_norm.weight"]
SHORT = ["--sensitivity", "text.txt", "-c", 32, "--chunks", 3]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The bundled model with a few tensors changed."""
    path = tmp_path_factory.mktemp("other") / "b.gguf"
    form = FORMATS[GGMLType.Q2_K]
    with gj.read(MODEL) as file:
        packed = {name: form.encode_planes(file.tensors[name].dequantize(), None, np) for name in CHANGED[:2]}
        changed = {name: (GGMLType.Q2_K, form.join(planes)) for name, planes in packed.items()}
        norm = np.float32(1.25 * file.tensors[CHANGED[2]].dequantize())
        gj.write(path, file.metadata, file.tensors | changed | {CHANGED[2]: norm})
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder, in which the program runs, with a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    return tmp_path


def compare(*arguments):
    app(["compare", *map(str, arguments)], standalone_mode=False)


def test_the_table(folder, other, capsys):
    compare(MODEL, other, *SHORT)
    found = capsys.readouterr()
    head, *rows = [re.split(r"  +", line) for line in found.out.splitlines()]
    assert head[:3] == ["tensor", "A", "B"]
    assert head[-6:] == ["KLD", "99% KLD", "same top, %", "ln PPL ratio", "MiB saved", "KLD/MiB"]
    by_name = {row[0]: row for row in rows}
    with gj.read(MODEL) as file:
        assert list(by_name) == [*file.tensors, "all", "sum of single ones"]
        same = [name for name in file.tensors if name not in CHANGED]
    assert {tuple(by_name[name][3:]) for name in same} == {("same bytes",)}
    (expected,) = kl_divergence(gj.load(MODEL), gj.load(other), TEXT, ctx_size=32, chunks=3)
    value, error = map(float, by_name["all"][4].split(" ± "))
    assert value == pytest.approx(expected.kld.value, rel=5e-3)  # three digits
    assert error == pytest.approx(expected.kld.stderr, rel=0.5)  # one digit
    singles = [float(by_name[name][6].split(" ± ")[0]) for name in CHANGED]
    assert min(singles) > 0
    assert float(by_name["sum of single ones"][1].split(" ± ")[0]) == pytest.approx(sum(singles), rel=2e-2)
    assert f"{len(same)} tensors have the same bytes in both files and were not run\n" in found.err
    assert "3 tensors replaced one by one, on 3 windows of 32: " in found.err


def test_json_and_csv(folder, other, capsys):
    compare(MODEL, other, *SHORT, "--json")
    found = json.loads(capsys.readouterr().out)
    compare(MODEL, other, *SHORT, "--csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [list(row) for row in rows] == [list(tensor) for tensor in found["tensors"]]
    for row, tensor in zip(rows, found["tensors"], strict=True):
        assert float(row["kld_mean"]) == tensor["kld_mean"]
        assert (tensor["kld_mean"] == 0) == tensor["same_bytes"] == (tensor["name"] not in CHANGED)
        assert tensor["bytes_saved"] == tensor["bytes_a"] - tensor["bytes_b"]
    about = found["sensitivity"]
    assert (about["windows"], about["windows_planned"], about["ctx_size"]) == (3, 3, 32)
    assert about["kld_sum_of_single"] == pytest.approx(sum(t["kld_mean"] for t in found["tensors"]))
    assert about["together"]["kld_mean"] > 0


def test_chosen_tensors(folder, other, capsys):
    compare(MODEL, other, *SHORT, "--tensors", "attn_[qk]", "--csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["name"] for row in rows if row["kld_mean"]} == {row["name"] for row in rows if re.search(
        "attn_[qk]", row["name"])}  # fmt: skip
    assert {row["name"] for row in rows if row["kld_mean"] not in ("", "0.0")} == {CHANGED[0]}
    compare(MODEL, other, *SHORT, "--tensors", "attn_[qv]")
    *_, every, chosen, single = capsys.readouterr().out.splitlines()
    assert (every.count("±"), chosen.count("±"), single.count("±")) == (0, 2, 1)
    assert chosen.startswith("all that were chosen ")


def test_the_plot(folder, other, capsys):
    compare(MODEL, other, *SHORT, "--plot", "map.svg")
    drawing = (folder / "map.svg").read_text("utf-8")
    assert "relative RMS error" in drawing
    assert "KL divergence, that tensor alone, nats" in drawing


def test_files_that_do_not_differ(folder, capsys):
    compare(MODEL, MODEL, *SHORT)
    found = capsys.readouterr()
    assert "KLD" not in found.out
    assert re.fullmatch(r"\d+ tensors have the same bytes in both files and were not run\n", found.err)


ERRORS = {
    "chosen without a text": (["--tensors", "x"], "--tensors: expected --sensitivity with it, found none"),
    "short": (["--sensitivity", "text.txt"], "text: expected at least 512 tokens for one window of 512, found "),
    "absent": (["--sensitivity", "absent.txt"], "--sensitivity absent.txt: cannot be read: No such file"),
    "pattern": ([*SHORT, "--tensors", "("], "tensors: expected a regular expression, found '('"),
    "nothing chosen": ([*SHORT, "--tensors", "x{9}"], "expected a pattern that some tensor's name has, found 'x{9}'"),
    "chunks": (["--sensitivity", "text.txt", "--chunks", 0], "--chunks: expected at least 1, or -1, found 0"),
    "precision": ([*SHORT, "--precision", "x"], "--precision: expected one of exact, fast, found 'x'"),
    "vocabulary": ([*SHORT], "small.gguf: vocabulary: expected 4096 tokens as in the model, found 7"),
    "plot": ([*SHORT, "--plot", "map.jpg"], "expected a name that ends in .png"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(folder, other, case):
    arguments, message = ERRORS[case]
    b = write_small(folder / "small.gguf", vocab_size=7) if case == "vocabulary" else other
    with pytest.raises(GGUFJaxError) as error:
        compare(MODEL, b, *arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_prints_what_there_is(folder, other, as_json):
    arguments = ["compare", MODEL, other, *SHORT, *(["--json"] if as_json else [])]
    done = run_interrupted("sensitivity", "sensitivities", *arguments, cwd=folder)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    if as_json:
        found = json.loads(done.stdout)
        assert sum(bool(tensor["kld_mean"]) for tensor in found["tensors"]) == 2
        assert (found["sensitivity"]["together"], found["sensitivity"]["windows"]) == (None, 0)
    else:
        assert sum("±" in line for line in done.stdout.splitlines()) == 3  # two tensors and their sum
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"interrupted at \d+ % after .*, with 2 of 3 tensors run: the figures are of what was run", last
    )
