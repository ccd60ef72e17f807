"""`gguf-jax imatrix`, as a user runs it: collecting, merging, resuming, looking, and errors of one line."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from gguf_jax.bundled import bundled_model
from gguf_jax.cli import imatrix as command
from gguf_jax.cli.app import app
from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf import write
from gguf_jax.quantization.imatrix_file import read_sums, write_imatrix
from gguf_jax.quantization.imatrix_sums import ImatrixSums, Sums

CHUNK = 16
TEXT = "It was a fine morning in April, and the clocks of the town were striking nine.\n" * 12
EPS = float(np.finfo(np.float32).eps)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    return tmp_path


def imatrix(*arguments):
    """Returns the status, where that is not 0."""
    return app(["imatrix", *map(str, arguments)], standalone_mode=False)


def collect(*arguments):
    """Of the bundled model, in chunks of 16 tokens, two at once."""
    return imatrix(bundled_model(), "-c", CHUNK, "-b", 2, *arguments)


def sums_of(columns=(1.0, 2.0), count=CHUNK, name="a.weight", **more):
    entries = {name: Sums(np.float32([columns]), np.float64([count]))}
    return ImatrixSums(entries, more.get("datasets", ("a.txt",)), count // CHUNK, CHUNK)


def same(a, b, rtol=0.0):
    assert list(a.entries) == list(b.entries)
    for name, (in_sum2, counts) in a.entries.items():
        np.testing.assert_array_equal(counts, b.entries[name].counts)
        np.testing.assert_allclose(in_sum2, b.entries[name].in_sum2, rtol=rtol)


def fails(message, *arguments, call=imatrix):
    with pytest.raises(GGUFJaxError, match=message) as error:
        call(*arguments)
    assert "\n" not in str(error.value)


def test_it_collects_and_says_so(capsys):
    collect("-f", "text.txt", "-o", "a.gguf", "--chunks", 5)
    found = capsys.readouterr().out
    expected = r"((\[\d\]\d+\.\d{4},)+)\nFinal estimate: PPL = (\d+\.\d{4}) \+/- \d+\.\d{5}\n"
    match = re.fullmatch(expected + r"a\.gguf: 42 entries, 5 chunks, 80 tokens in .* tokens/s\n", found)
    assert match
    assert [each[0] for each in re.findall(r"\[(\d)\]", match[1])] == list("12345")
    assert match[1].endswith(f"[5]{match[3]},")
    sums = read_sums("a.gguf")
    assert (sums.chunks, sums.chunk_size, sums.datasets) == (5, CHUNK, ("text.txt",))


def test_json_and_the_older_format(capsys):
    collect("-f", "text.txt", "-f", "text.txt", "-o", "a.dat", "--chunks", 3, "--json", "--no-ppl")
    found = json.loads(capsys.readouterr().out)
    assert (found["path"], found["entries"], found["chunks"], found["tokens"]) == ("a.dat", 42, 3, 48)
    assert found["datasets"] == ["text.txt", "text.txt"]
    assert found["unseen_experts"] == {}
    assert "perplexity" not in found
    collect("-f", "text.txt", "-o", "b.gguf", "--chunks", 3, "--output-format", "dat", "--json")
    assert json.loads(capsys.readouterr().out)["perplexity"] > 1
    written = Path("b.gguf").read_bytes()
    assert not written.startswith(b"GGUF")
    assert len(written) == len(Path("a.dat").read_bytes())


def test_it_saves_on_the_way(monkeypatch):
    written = []

    def note(path, sums, format=None):
        written.append((path, sums.chunks))
        write_imatrix(path, sums, format)

    monkeypatch.setattr("gguf_jax.quantization.imatrix_file.write_imatrix", note)
    frequencies = "--output-frequency", 3, "--save-frequency", 4
    collect("-f", "text.txt", "-o", "a.gguf", "--chunks", 9, *frequencies)
    # two chunks a batch step over the third and the ninth
    assert written == [
        *(("a.gguf", 4), ("a.gguf.at_4", 4), ("a.gguf", 6), ("a.gguf.at_8", 8), ("a.gguf", 9), ("a.gguf", 9))
    ]


def test_an_interrupted_run_keeps_what_it_had_and_goes_on(monkeypatch, capsys):
    reached = command._Target.reached

    def interrupt(target, sums):
        reached(target, sums)
        if sums.chunks == 4:
            raise KeyboardInterrupt

    arguments = "-f", "text.txt", "--chunks", 7
    monkeypatch.setattr(command._Target, "reached", interrupt)
    for name in ("a.gguf", "a.dat"):
        assert collect(*arguments, "-o", name) == 130
        assert read_sums(name).chunks == 4
    monkeypatch.undo()
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "interrupted after 4 of 7 chunks, which are in a.gguf; the same command with --resume goes on",
        "interrupted after 4 of 7 chunks, which are in a.dat; --in-file a.dat --from-chunk 4 goes on",
    ]


def test_resuming(capsys):
    collect("-f", "text.txt", "-o", "whole.gguf", "--chunks", 7)
    collect("-f", "text.txt", "-o", "a.gguf", "--chunks", 4)
    capsys.readouterr()
    collect("-f", "text.txt", "-o", "a.gguf", "--chunks", 7, "--resume")
    found = capsys.readouterr()
    assert "going on after 4 of 7 chunks" in found.err
    assert found.out.startswith("[5]")
    assert "of the 3 chunks run now" in found.out
    resumed = read_sums("a.gguf")
    assert (resumed.chunks, resumed.datasets) == (7, ("text.txt",))
    same(resumed, read_sums("whole.gguf"), rtol=2 * EPS)
    resume = "-f", "text.txt", "-o", "a.gguf", "--resume"
    fails("a.gguf: expected some of the text's chunks, found 7 of 7; nothing", *resume, "--chunks", 7, call=collect)
    os.rename("text.txt", "other.txt")
    fails(r"expected datasets \['other.txt'\], found \['text.txt'\]", "-f", "other.txt", *resume[2:], call=collect)
    fails("expected chunks of 32 tokens, found 16", bundled_model(), "-f", "other.txt", "-c", 32, *resume[2:])
    write_imatrix("a.dat", resumed)
    fails("a.dat: expected a GGUF file", "-f", "other.txt", "-o", "a.dat", "--resume", call=collect)


def test_the_peers_way_to_go_on():
    collect("-f", "text.txt", "-o", "whole.gguf", "--chunks", 5, "--no-ppl")
    collect("-f", "text.txt", "-o", "a.gguf", "--chunks", 2, "--no-ppl")
    go_on = "--in-file", "a.gguf", "--from-chunk", 2, "--chunks", 3, "--no-ppl", "--force"
    collect("-f", "text.txt", "-o", "a.gguf", *go_on)
    found = read_sums("a.gguf")
    assert (found.chunks, found.datasets) == (5, ("text.txt", "text.txt"))
    same(found, read_sums("whole.gguf"), rtol=2 * EPS)


def test_merging_needs_no_model(capsys):
    write_imatrix("a.gguf", sums_of())
    write_imatrix("b.gguf", sums_of((3.0, 5.0), 2 * CHUNK, datasets=("b.txt",)))
    imatrix("--in-file", "a.gguf", "--in-file", "b.gguf", "-o", "c.gguf")
    assert capsys.readouterr().out == "c.gguf: 1 entries, 3 chunks\n"
    found = read_sums("c.gguf")
    assert (found.chunks, found.chunk_size, found.datasets) == (3, CHUNK, ("a.txt", "b.txt"))
    np.testing.assert_array_equal(found.entries["a.weight"].in_sum2, [[4, 7]])


def test_a_file_of_the_older_format_there_and_back(shared):
    original = shared / "imatrix" / "tinyllama-1.1b.dat"
    imatrix("--in-file", original, "-o", "a.gguf")
    imatrix("--in-file", "a.gguf", "-o", "a.dat")
    assert Path("a.dat").read_bytes() == original.read_bytes()


def test_experts_that_saw_nothing_are_reported(capsys):
    sums = sums_of()
    sums.entries["e.weight"] = Sums(np.ones((3, 2)), np.float64([4, 0, 0]))
    write_imatrix("a.gguf", sums)
    imatrix("--in-file", "a.gguf", "-o", "b.gguf")
    expected = "warning: e.weight: 2 of 3 experts saw no token; they get weight 1 when it is used\n"
    assert capsys.readouterr().err == expected


def test_statistics(capsys):
    write_imatrix("a.gguf", sums_of(name="blk.0.up.weight"))
    imatrix("--show-statistics", "--in-file", "a.gguf")
    assert "Computing statistics for a.gguf (1 tensors)" in capsys.readouterr().out
    imatrix("--show-statistics", "--in-file", "a.gguf", "--json")
    assert json.loads(capsys.readouterr().out)["tensors"][0]["name"] == "blk.0.up.weight"
    fails("--show-statistics: expected one --in-file, found 0", "--show-statistics")


def test_what_is_refused(folder):
    write_imatrix("a.gguf", sums_of())
    fails("a.gguf: exists already; --force overwrites it, --resume goes on", "-f", "text.txt", "-o", "a.gguf")
    fails("expected --file, text to run a model on, or --in-file alone, to merge; found none")
    fails("expected --file, text to run", bundled_model(), "--in-file", "a.gguf")
    fails("expected a folder to write to, found none at no", "-f", "text.txt", "-o", "no/a.gguf")
    fails("--precision: expected exact or fast, found 'best'", "-f", "text.txt", "--precision", "best")
    fails("--output-format: expected gguf or dat, found 'csv'", "-f", "text.txt", "--output-format", "csv")
    fails("--chunks: expected at least 1, or -1, found 0", "-f", "text.txt", "--chunks", 0)
    fails("--save-frequency: expected at least 0, found -1", "-f", "text.txt", "--save-frequency", -1)
    fails("--file absent: cannot be read: No such file", "-f", "absent")
    (folder / "bad.txt").write_bytes(b"abc\xff")
    fails("--file bad.txt: expected UTF-8 text, found an invalid byte at 3", "-f", "bad.txt")
    (folder / "short.txt").write_text("a few words")
    fails(r"--file short.txt: text: expected at least 16 tokens for one window", "-f", "short.txt", call=collect)
    fails(
        "a.gguf: entry 'a.weight': expected a weight of the model",
        "-f",
        "text.txt",
        "--in-file",
        "a.gguf",
        call=collect,
    )
    write_imatrix("b.gguf", sums_of(name="blk.0.attn_q.weight"))
    message = "b.gguf: entry 'blk.0.attn_q.weight': expected 512 values for the model, found 2"
    fails(message, "-f", "text.txt", "--in-file", "b.gguf", call=collect)
    write("model.gguf", {"general.architecture": "llama"}, {"w": np.ones(1, np.float32)})
    fails("model.gguf: imatrix.datasets: expected an imatrix", "--in-file", "model.gguf", "-o", "c.gguf")
    cut = (folder / "a.gguf").read_bytes()[:-40]
    (folder / "cut.gguf").write_bytes(cut)
    fails("cut.gguf", "--in-file", "cut.gguf", "-o", "c.gguf")
    fails("from_chunk: expected from 0 to", "-f", "text.txt", "--from-chunk", 1000, call=collect)
