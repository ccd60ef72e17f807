"""Exact: files are written as llama-imatrix writes them, and the older format comes back byte for byte. Property: sums
that are merged are those that were counted at once. Contract: what does not fit is refused in a line."""

import struct
import subprocess
import sys

import numpy as np
import pytest

from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.gguf import read
from gguf_jax.quantization.imatrix import read_imatrix
from gguf_jax.quantization.imatrix_file import read_sums, write_imatrix
from gguf_jax.quantization.imatrix_statistics import of_blocks, statistics, table
from gguf_jax.quantization.imatrix_sums import ImatrixSums, Sums, merged

EPS = float(np.finfo(np.float32).eps)


def entry(n_mat=1, n_in=4, counts=None, seed=0):
    rng = np.random.default_rng(seed)
    counts = np.float64(rng.integers(1, 40, n_mat) * 16 if counts is None else counts)
    return Sums(np.square(rng.standard_normal((n_mat, n_in))) * counts[:, None], counts)


def made(chunk_size=16, datasets=("a", "b"), **entries):
    return ImatrixSums(dict(entries), datasets, 7, chunk_size)


def test_the_files_of_the_c_reference_are_written_back_byte_for_byte(shared, tmp_path):
    folder = shared / "imatrix"
    write_imatrix(tmp_path / "a.gguf", read_sums(folder / "prose-23m.gguf"))
    assert (tmp_path / "a.gguf").read_bytes() == (folder / "prose-23m.gguf").read_bytes()
    write_imatrix(tmp_path / "a.dat", read_sums(folder / "prose-23m.dat"))
    assert (tmp_path / "a.dat").read_bytes() == (folder / "prose-23m.dat").read_bytes()


@pytest.mark.parametrize("name", ["prose-23m.dat", "tinyllama-1.1b.dat"])
def test_the_older_format_survives_the_newer_one(name, shared, tmp_path):
    original = shared / "imatrix" / name
    write_imatrix(tmp_path / "a.gguf", read_sums(original).in_tokens(512))
    write_imatrix(tmp_path / "a.dat", read_sums(tmp_path / "a.gguf"))
    assert (tmp_path / "a.dat").read_bytes() == original.read_bytes()
    new, old = read_imatrix(tmp_path / "a.gguf"), read_imatrix(original)
    for each, values in old.entries.items():
        np.testing.assert_array_equal(new.entries[each], values)


def test_the_older_format_of_the_c_references_newer_one(shared, tmp_path):
    folder = shared / "imatrix"
    write_imatrix(tmp_path / "a.dat", read_sums(folder / "prose-23m.gguf"))
    found, peer = read_sums(tmp_path / "a.dat"), read_sums(folder / "prose-23m.dat")
    assert (list(found.entries), found.chunks, found.datasets) == (list(peer.entries), peer.chunks, peer.datasets)
    for name, (values, calls) in found.entries.items():
        np.testing.assert_array_equal(calls, peer.entries[name].counts)
        np.testing.assert_allclose(values, peer.entries[name].in_sum2, rtol=1.5 * EPS)  # it rounds twice more


def test_gguf_holds_sums_and_counts(tmp_path):
    sums = made(**{"blk.0.x.weight": entry(), "blk.0.e.weight": entry(3, counts=[5, 0, 2])})
    write_imatrix(tmp_path / "a.gguf", sums)
    with read(tmp_path / "a.gguf") as file:
        assert list(file.metadata) == ["general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"]
        assert [(name, view.shape) for name, view in file.tensors.items()] == [
            ("blk.0.x.weight.in_sum2", (4,)),
            ("blk.0.x.weight.counts", (1,)),
            ("blk.0.e.weight.in_sum2", (3, 4)),
            ("blk.0.e.weight.counts", (3, 1)),
        ]
    back = read_sums(tmp_path / "a.gguf")
    assert (back.datasets, back.chunks, back.chunk_size) == (("a", "b"), 7, 16)
    for name, (in_sum2, counts) in sums.entries.items():
        np.testing.assert_array_equal(back.entries[name].in_sum2, in_sum2.astype(np.float32))
        np.testing.assert_array_equal(back.entries[name].counts, counts)
    assert back.unseen() == {"blk.0.e.weight": (1, 3)}
    np.testing.assert_array_equal(read_imatrix(tmp_path / "a.gguf").entries["blk.0.e.weight"][1], 1)


def test_the_older_format_by_its_definition(tmp_path):
    sums = made(x=Sums(np.float64([[3, 6]]), np.float64([48])), e=entry(2, 1, [0, 20]), none=entry(2, 1, [0, 0]))
    write_imatrix(tmp_path / "a", sums, "dat")
    e = np.float32(sums.entries["e"].in_sum2[1, 0] * 2 / 20)
    assert (tmp_path / "a").read_bytes() == b"".join(
        [
            struct.pack("<i", 2),
            struct.pack("<i1sii2f", 1, b"x", 3, 2, 3 / 16, 6 / 16),
            struct.pack("<i1sii2f", 1, b"e", 2, 2, 2, e),  # an expert without a token has ones, two calls of them
            struct.pack("<ii1s", 7, 1, b"b"),
        ]
    )


def test_without_datasets(tmp_path):
    for name in ("a.gguf", "a.dat"):
        write_imatrix(tmp_path / name, made(datasets=(), x=entry()))
        assert read_sums(tmp_path / name).datasets == ()


def test_merging_adds_sums_and_counts():
    a, b, c = entry(3, seed=1), entry(3, seed=2), entry(2, seed=3)
    found = merged([made(x=a, datasets=("a",)), made(y=c, x=b, datasets=("b",))], 16)
    assert (list(found.entries), found.datasets, found.chunk_size) == (["x", "y"], ("a", "b"), 16)
    np.testing.assert_array_equal(found.entries["x"].in_sum2, a.in_sum2 + b.in_sum2)
    np.testing.assert_array_equal(found.entries["x"].counts, a.counts + b.counts)
    assert found.chunks == max(*(a.counts + b.counts), *c.counts) // 16


def test_the_older_format_is_merged_with_experts(tmp_path):
    """It has one count for all experts, which then is each one's."""
    new = entry(3, 2, [16, 32, 48])
    old = ImatrixSums({"x": Sums(np.float32([range(1, 7)]), np.float64([4]))}, (), 4, None, "old.dat")
    found = merged([old, made(x=new)], 16).entries["x"]
    np.testing.assert_array_equal(found.counts, new.counts + 4 * 16)
    np.testing.assert_array_equal(found.in_sum2, new.in_sum2 + 16 * np.arange(1, 7).reshape(3, 2))


def test_what_does_not_fit():
    parts = [made(x=entry(1, 4)), made(x=entry(1, 5))]
    with pytest.raises(GGUFJaxError, match="entry 'x': expected 4 values as before, found 5"):
        merged(parts, 16)
    with pytest.raises(GGUFJaxError, match="entry 'x': expected 3 counts, found 2"):
        made(x=entry(2, 6)).shaped({"x": (3, 4)})
    with pytest.raises(GGUFJaxError, match="entry 'x': expected a weight of the model"):
        made(x=entry()).shaped({"y": (1, 4)})


@pytest.mark.parametrize("format", ["gguf", "dat"])
def test_nothing_to_write(format, tmp_path):
    with pytest.raises(GGUFError, match="expected at least one entry"):
        write_imatrix(tmp_path / "a", made(), format)
    if format == "dat":
        with pytest.raises(GGUFError, match="expected at least one entry that saw a token"):
            write_imatrix(tmp_path / "a", made(x=entry(counts=[0])), format)
    assert not (tmp_path / "a").exists()


def test_statistics():
    values = np.array([[4.0, 4.0, 8.0, 0.0]])
    a = Sums(values * 10, np.float64([10]))
    b = Sums(np.vstack([values * 3, np.zeros((1, 4))]), np.float64([3, 0]))
    found = {
        each.name: each for each in statistics(made(**{"blk.0.up.weight": a, "blk.1.up.weight": a, "o.weight": b}))
    }
    first, second, output = (found[name] for name in ("blk.0.up.weight", "blk.1.up.weight", "o.weight"))
    assert (first.total, first.low, first.high, first.mean, first.count) == (16, 0, 8, 4, 4)
    assert (first.deviation, first.active, first.entropy, first.outlying) == (np.sqrt(8), 0.75, 1.5, 0.25)
    assert (first.relative_entropy, first.block, first.tensor) == (0.75, 0, "up")
    assert (first.cosine, second.cosine, output.cosine) == (0, pytest.approx(1, rel=4 * np.finfo(np.float64).eps), 0)
    assert (output.block, output.count, output.total) == (None, 4, 16)  # a matrix without tokens does not count
    assert [(each.block, each.total) for each in of_blocks(list(found.values()))] == [(0, 16), (1, 16)]
    assert [line.split("\t")[0] for line in table("x", list(found.values())).splitlines()][4:7] == [
        "    -",
        "    0",
        "    1",
    ]


def test_statistics_of_the_c_reference(shared):
    """A few of the figures that llama-imatrix --show-statistics prints."""
    sums = read_sums(shared / "imatrix" / "prose-23m.gguf")
    text = table("x", statistics(sums))
    rows = {tuple(line.split()[:2]): line.split("\t")[2:] for line in text.splitlines() if "weight" not in line}
    found = [" ".join(cell.strip() for cell in rows[key]) for key in (("5", "attn_k"), ("4", "ffn_down"))]
    assert found == [
        "478.25 0.5052 7.7170 0.93 0.65 100.00% 512 8.8079 97.87% 5.86% 0.9922",
        "993.24 0.0237 39.5001 0.65 1.55 100.00% 1536 9.4797 89.56% 4.04% 0.1405",
    ]


def test_imports_no_jax():
    modules = "gguf_jax.quantization.imatrix_file, gguf_jax.quantization.imatrix_statistics"
    code = f"import sys, {modules}; sys.exit(', '.join({{'jax', 'flax'}} & set(sys.modules)) or 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
