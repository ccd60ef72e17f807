"""`gguf-jax quantize`, as a user runs it: every option, errors of one line, what is said while it works."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gguf_jax.cli.app import app
from gguf_jax.cli.quantize import parse_override
from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FileType, GGMLType
from gguf_jax.gguf import Typed, ValueType, read
from gguf_jax.gguf.split import groups_of, write_shards
from gguf_jax.quantization import file
from tests.cli.test_cli import Terminal
from tests.quantization.models import encoded, make, make_imatrix, tensors

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder, in which the program runs, with `in.gguf` and `m.gguf`, its importance matrix."""
    monkeypatch.setattr(file, "encode", encoded)
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "in.gguf")
    make_imatrix(tmp_path / "m.gguf")
    return tmp_path


def quantize(*arguments):
    app(["quantize", *map(str, arguments)], standalone_mode=False)


def types_of(path="out.gguf"):
    with read(path) as found:
        return {name: view.type.name for name, view in found.tensors.items()}


def matrices(types):
    return {type for name, type in types.items() if "norm" not in name}


def test_it_writes_a_file_and_says_what_became_of_it(folder, capsys):
    quantize("in.gguf", "out.gguf", "q4_k_m")
    found = capsys.readouterr()
    lines = found.err.splitlines()
    assert len(lines) == len(tensors())
    assert re.match(r"\[ 1/17\] output\.weight +48 x 256 +F16 -> Q6_K +24\.00 KiB -> 9\.84 KiB, \d\.\d\d s", lines[0])
    assert re.fullmatch(r"out\.gguf: Q4_K_M, .* MiB -> .* KiB, \d\.\d+ bits per weight, \d+\.\d\d s\n", found.out)
    assert types_of()["blk.0.attn_q.weight"] == "Q4_K"


def test_quiet_says_nothing(folder, capsys):
    quantize("in.gguf", "out.gguf", "Q8_0", "--quiet")
    assert capsys.readouterr() == ("", "")


def test_without_an_output_it_is_named_after_the_type(folder):
    quantize("in.gguf", "q8_0")
    assert matrices(types_of("ggml-model-Q8_0.gguf")) == {"Q8_0"}
    quantize(folder / "in.gguf", folder / "copied.gguf", "--copy")
    assert types_of("copied.gguf") == types_of("in.gguf")


def test_options_about_types(folder):
    quantize("in.gguf", "out.gguf", "Q4_K_M", "--pure")
    assert matrices(types_of()) == {"Q4_K"}
    (folder / "types.txt").write_text("ffn_up=q8_0\nffn_down=Q6_K  blk.0.attn_k=f16\n")
    quantize(
        "in.gguf", "out.gguf", "Q4_K_M", "--force",
        "--tensor-type", r"blk\.0\.FFN_UP=q5_k", "--tensor-type", "attn_q=q5_0", "--tensor-type-file", "types.txt",
        "--output-tensor-type", "q5_1", "--token-embedding-type", "bf16",
    )  # fmt: skip
    found = types_of()
    expected = {
        "blk.0.ffn_up": "Q5_K", "blk.1.ffn_up": "Q8_0", "blk.0.ffn_down": "Q6_K", "blk.0.attn_q": "Q5_0",
        "blk.0.attn_k": "F16", "output": "Q5_1", "token_embd": "BF16",
    }  # fmt: skip
    assert {name: found[f"{name}.weight"] for name in expected} == expected
    quantize("in.gguf", "out.gguf", "Q4_K_M", "--force", "--leave-output-tensor")
    assert types_of()["output.weight"] == "F16"


def test_requantizing_is_asked_for(folder):
    quantize("in.gguf", "q8.gguf", "Q8_0")
    with pytest.raises(GGUFJaxError, match="--allow-requantize"):
        quantize("q8.gguf", "out.gguf", "Q4_0")
    quantize("q8.gguf", "out.gguf", "Q4_0", "--allow-requantize")
    assert types_of()["blk.0.attn_q.weight"] == "Q4_0"


def bytes_of(path, name):
    with read(path) as found:
        return bytes(found.tensors[name].data)


def test_options_about_importances(folder, capsys):
    names = ("blk.0.attn_q.weight", "blk.0.ffn_up.weight")
    quantize("in.gguf", "plain.gguf", "Q4_0")
    quantize("in.gguf", "with.gguf", "Q4_0", "--imatrix", "m.gguf")
    quantize("in.gguf", "attn.gguf", "Q4_0", "--imatrix", "m.gguf", "--include-weights", "attn")
    quantize("in.gguf", "rest.gguf", "Q4_0", "--imatrix", "m.gguf", "--exclude-weights", "attn")
    plain, weighted, attn, rest = (
        [bytes_of(f"{which}.gguf", name) for name in names] for which in ("plain", "with", "attn", "rest")
    )
    assert plain[0] != weighted[0]
    assert plain[1] != weighted[1]
    assert (attn, rest) == ([weighted[0], plain[1]], [plain[0], weighted[1]])
    with read("attn.gguf") as found:
        assert found.metadata["quantize.imatrix.entries_count"] == 8
        assert found.metadata["quantize.imatrix.file"] == "m.gguf"
    assert "no entries for" in capsys.readouterr().err


def test_options_about_the_model(folder):
    quantize(
        "in.gguf", "out.gguf", "Q8_0", "--prune-layers", "0", "--override-kv", "a.b=int:-5",
        "--override-kv", "general.name=str:x=y:z", "--override-kv", "c=float:0.5", "--override-kv", "d=bool:true",
    )  # fmt: skip
    with read("out.gguf") as found:
        assert found.metadata["llama.block_count"] == 1
        values = {
            key: (found.metadata[key], str(found.metadata.types[key])) for key in ("a.b", "general.name", "c", "d")
        }
        assert values == {
            "a.b": (5, "u32"), "general.name": ("x=y:z", "string"), "c": (0.5, "f32"), "d": (True, "bool"),
        }  # fmt: skip


def test_options_about_shards(folder):
    with read("in.gguf") as whole:
        write_shards(whole, "in", groups_of(whole.tensors, max_tensors=9))
    quantize("in-00002-of-00002.gguf", "kept.gguf", "Q8_0", "--keep-split")
    quantize("in.gguf", "small.gguf", "Q8_0", "--max-shard-size", "150K")
    assert (folder / "kept-00002-of-00002.gguf").exists()
    assert types_of("kept-00001-of-00002.gguf") == types_of("small-00001-of-00008.gguf")
    with pytest.raises(GGUFJaxError, match="size: expected"):
        quantize("in.gguf", "other.gguf", "Q8_0", "--max-shard-size", "150")


def test_a_dry_run_writes_nothing(folder, capsys):
    before = sorted(os.listdir(folder))
    quantize("in.gguf", "out.gguf", "Q4_K_M", "--dry-run", "--json")
    found = json.loads(capsys.readouterr().out)
    assert sorted(os.listdir(folder)) == before
    quantize("in.gguf", "out.gguf", "Q4_K_M", "--json")
    done = json.loads(capsys.readouterr().out)
    same = ("bytes", "bytes_before", "bits_per_weight", "weights", "file_type")
    assert {key: found[key] for key in same} == {key: done[key] for key in same}
    keys = ("name", "type", "found", "shape", "bytes", "reason")
    assert [[t[k] for k in keys] for t in found["tensors"]] == [[t[k] for k in keys] for t in done["tensors"]]
    quantize("in.gguf", "IQ2_XS", "--dry-run")
    found = capsys.readouterr()
    assert found.out.splitlines()[-1].startswith("would be: IQ2_XS, ")
    assert len(found.out.splitlines()) == len(tensors()) + 1
    assert "importance matrix is needed for blk.0.attn" in found.err


def test_report_and_workers(folder):
    quantize("in.gguf", "out.gguf", "Q4_0", "--report", "r.json", "--workers", 1)
    quantize("in.gguf", "out2.gguf", "Q4_0", "--report", "r.csv", "--workers", 3)
    assert len(json.loads((folder / "r.json").read_text())["tensors"]) == len(tensors())
    assert len((folder / "r.csv").read_text().splitlines()) == len(tensors()) + 1
    assert (folder / "out.gguf").read_bytes() == (folder / "out2.gguf").read_bytes()


def test_a_tensor_that_is_not_finite(folder):
    bad = tensors()["blk.0.attn_q.weight"].copy()
    bad[1, 2] = np.nan
    make(folder / "bad.gguf", extra={"blk.0.attn_q.weight": bad})
    with pytest.raises(GGUFJaxError, match=r"'blk\.0\.attn_q\.weight': .* nan at index 258 \(row 1, column 2\)"):
        quantize("bad.gguf", "out.gguf", "Q8_0")
    quantize("bad.gguf", "out.gguf", "Q8_0", "--allow-nonfinite")
    assert types_of()["blk.0.attn_q.weight"] == "F32"


ONE_LINE_ERRORS = {
    "absent": (["absent.gguf", "out.gguf", "Q8_0"], "absent.gguf"),
    "type": (["in.gguf", "out.gguf", "Q9"], "file type: expected one of"),
    "no type": (["in.gguf", "out.gguf"], "file type: expected one of"),
    "itself": (["in.gguf", "./in.gguf", "Q8_0", "--force"], "expected another file than the input"),
    "exists": (["in.gguf", "m.gguf", "Q8_0"], "m.gguf: exists already; --force overwrites it"),
    "imatrix": (["in.gguf", "out.gguf", "IQ1_S"], "importance matrix"),
    "no imatrix": (["in.gguf", "out.gguf", "IQ1_S", "--imatrix", "none.dat"], "none.dat"),
    "tensor type": (["in.gguf", "out.gguf", "Q8_0", "--tensor-type", "x"], "expected PATTERN=TYPE"),
    "ggml type": (["in.gguf", "out.gguf", "Q8_0", "--output-tensor-type", "q9"], "expected one of F32"),
    "type file": (["in.gguf", "out.gguf", "Q8_0", "--tensor-type-file", "no"], "--tensor-type-file no: cannot be read"),
    "layers": (["in.gguf", "out.gguf", "Q8_0", "--prune-layers", "a"], "layers: expected numbers"),
    "override": (["in.gguf", "out.gguf", "Q8_0", "--override-kv", "a=b"], "--override-kv: expected KEY=TYPE:VALUE"),
    "workers": (["in.gguf", "out.gguf", "Q8_0", "--workers", "0"], "workers: expected at least 1"),
    "report": (["in.gguf", "out.gguf", "Q8_0", "--report", "r"], "expected a name that ends in .json or .csv"),
}


@pytest.mark.parametrize("case", ONE_LINE_ERRORS)
def test_errors_are_one_line_and_leave_nothing(folder, case, monkeypatch, capsys):
    from gguf_jax.cli import main

    arguments, message = ONE_LINE_ERRORS[case]
    before = sorted(os.listdir(folder))
    monkeypatch.setattr(sys, "argv", ["gguf-jax", "quantize", *arguments])
    assert main._status() == 1
    found = capsys.readouterr()
    (line,) = found.err.splitlines()
    assert found.out == ""
    assert line.startswith("error: ")
    assert message in line
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=int:7", Typed(7, ValueType.U32)),
        ("a=int:+7", Typed(7, ValueType.U32)),
        ("a=float:1e-3", Typed(1e-3, ValueType.F32)),
        ("a=bool:false", Typed(False, ValueType.BOOL)),
        ("a=str:", Typed("", ValueType.STRING)),
    ],
)
def test_overrides(text, value):
    assert parse_override(text) == ("a", value)


@pytest.mark.parametrize(
    "text",
    ["a", "=int:1", "a=int", "a=int:", "a=int:1.5", "a=int:4294967296", "a=float:x", "a=float:nan", "a=bool:1",
     "a=u32:1", f"a=str:{'x' * 128}", f"{'k' * 128}=int:1"],
)  # fmt: skip
def test_overrides_that_are_none(text):
    with pytest.raises(GGUFJaxError, match="--override-kv"):
        parse_override(text)


SLOW = """
import sys, time
from gguf_jax.cli.main import main
from gguf_jax.quantization import file
from tests.quantization.models import encoded

def slowly(values, type, importance):
    time.sleep(0.2)
    return encoded(values, type, importance)

file.encode = slowly
sys.argv[0] = "gguf-jax"
main()
"""


def test_ctrl_c_says_how_to_go_on(folder):
    command = [sys.executable, "-c", SLOW, "quantize", str(folder / "in.gguf"), str(folder / "out.gguf"), "Q8_0"]
    with subprocess.Popen([*command, "--workers", "1"], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        lines = [process.stderr.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        lines += process.stderr.readlines()
        assert process.wait(60) == 130
    assert lines[-1] == f"interrupted; the same command with --resume goes on from {folder}/out.gguf.partial\n"
    assert not (folder / "out.gguf").exists()
    done = subprocess.run([*command, "--resume"], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr.splitlines()[0].endswith(", kept")
    quantize("in.gguf", "whole.gguf", "Q8_0")
    assert (folder / "out.gguf").read_bytes() == (folder / "whole.gguf").read_bytes()


def test_a_terminal_shows_a_bar(folder):
    with Terminal("quantize", "in.gguf", "out.gguf", "COPY", cwd=folder) as shown:
        shown.wait_for("[ 1/17] output.weight F16 -> F16")
        shown.wait_for("bits per weight")
        assert shown.process.wait(60) == 0
    with read(folder / "out.gguf") as found:
        assert found.metadata["general.file_type"] == FileType.F16
        assert found.tensors["output.weight"].type == GGMLType.F16
