"""Exact: the numbers that llama-quantize uses, of both formats. Contract: a wrong file is refused in a line."""

import re
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gguf_jax.errors import GGUFError
from gguf_jax.gguf import Typed, ValueType, read, write
from gguf_jax.quantization.imatrix import Imatrix, read_imatrix
from tests.gguf.checks import one_line

NAME = "blk.0.ffn_down.weight"
NEGATIVE = -1
META = {
    "general.type": "imatrix",
    "imatrix.datasets": ["wiki.train", "other"],
    "imatrix.chunk_count": 7,
    "imatrix.chunk_size": 512,
}


def entry(name: bytes = NAME.encode(), calls: int = 4, values=(8.0, 2.0, 0.0), **false: int) -> bytes:
    """An entry of the older format; `length` and `n` overrule the counts."""
    head = struct.pack("<i", false.get("length", len(name))) + name
    return head + struct.pack("<ii", calls, false.get("n", len(values))) + struct.pack(f"<{len(values)}f", *values)


def legacy(*entries: bytes, n: int | None = None, tail: bytes = b"") -> bytes:
    return struct.pack("<i", len(entries) if n is None else n) + b"".join(entries) + tail


TAIL = struct.pack("<ii", 9, 4) + b"wiki"


@pytest.fixture
def dat(tmp_path):
    def dat(content: bytes) -> Path:
        (tmp_path / "a.dat").write_bytes(content)
        return tmp_path / "a.dat"

    return dat


@pytest.fixture
def gguf(tmp_path):
    def gguf(tensors: dict, metadata: dict = META) -> Path:
        write(tmp_path / "a.gguf", metadata, tensors)
        return tmp_path / "a.gguf"

    return gguf


def test_the_older_format(dat):
    path = dat(legacy(entry(), entry(b"output.weight", 0, (1.0, 5.0)), tail=TAIL))
    found = read_imatrix(path)
    assert list(found.entries) == [NAME, "output.weight"]
    assert found.entries[NAME].tolist() == [[2.0, 0.5, 0.0]]
    assert found.entries["output.weight"].tolist() == [[1.0, 5.0]]  # without calls, values are what they are
    assert (found.datasets, found.chunks, found.chunk_size, found.path) == (("wiki",), 9, None, str(path))
    for values in found.entries.values():
        assert values.dtype == np.float32
        assert not values.flags.writeable


@pytest.mark.parametrize(
    ("tail", "chunks", "datasets"),
    [(b"", 0, ()), (TAIL[:4], 9, ()), (struct.pack("<ii", 9, 0), 9, ()), (TAIL, 9, ("wiki",))],
)
def test_the_tail_may_be_missing(tail, chunks, datasets, dat):
    found = read_imatrix(dat(legacy(entry(), tail=tail)))
    assert (found.chunks, found.datasets) == (chunks, datasets)


def test_divisions_are_in_float32(dat, gguf):
    values = np.random.default_rng(0).random(1000, np.float32) * 1e6
    means = (values / np.float32(77)).tolist()
    assert read_imatrix(dat(legacy(entry(calls=77, values=values)))).entries[NAME].tolist() == [means]
    tensors = {f"{NAME}.in_sum2": values.reshape(2, 500), f"{NAME}.counts": np.float32([[77], [16777216]])}
    found = read_imatrix(gguf(tensors)).entries[NAME]
    assert found[0].tolist() == means[:500]
    assert found[1].tolist() == (values[500:] / np.float32(16777216)).tolist()


def test_the_format_in_gguf(gguf):
    tensors = {
        "b.weight.in_sum2": np.float32([[2, 4], [3, 9], [5, 5]]),
        "b.weight.counts": np.float32([[2], [3], [0]]),
        "a.weight.counts": np.float32([4]),
        "a.weight.in_sum2": np.float32([1, 2]),
        "a.weight.in_sum": np.float32([-1, 2]),  # newer writers add it; nothing here wants it
        "unknown": np.zeros(3, np.float16),
    }
    path = gguf(tensors)
    found = read_imatrix(str(path))
    assert {name: values.tolist() for name, values in found.entries.items()} == {
        "b.weight": [[1, 2], [1, 3], [1, 1]],  # an expert that saw nothing has ones
        "a.weight": [[0.25, 0.5]],
    }
    assert all(values.dtype == np.float32 and not values.flags.writeable for values in found.entries.values())
    assert (found.datasets, found.chunks, found.chunk_size) == (("wiki.train", "other"), 7, 512)
    assert found.path == str(path)
    with read(path) as file:
        write(path, file.metadata, file.tensors, byte_order="big")
    assert read_imatrix(path).entries["b.weight"].tolist() == [[1, 2], [1, 3], [1, 1]]


def test_counts_are_rounded_as_by_lround(gguf):
    counts = np.float32([0.25, 0.5, 1.5, 2.5, 8388607.5, 2**25])
    rounded = np.float32([0, 1, 2, 3, 8388608, 2**25])
    found = read_imatrix(gguf({"w.in_sum2": np.full((6, 1), 12, np.float32), "w.counts": counts[:, None]}))
    expected = [1.0, *(np.float32(12) / rounded[1:]).tolist()]
    assert found.entries["w"].ravel().tolist() == expected


BIG = struct.pack("<i", 2**31 - 1)
REFUSED_LEGACY = {
    "empty": (b"", "empty"),
    "one byte": (b"\1", "number of entries"),
    "none": (legacy(), "number of entries: expected at least 1, found 0"),
    "negative": (legacy(entry(), n=NEGATIVE), "number of entries: expected at least 1, found -1"),
    "too many": (legacy(entry(), n=1000), "number of entries: expected at most 2"),
    "one too many": (legacy(entry(), entry(b"b"), n=3, tail=TAIL), "name of entry 2"),
    "most": (BIG + bytes(100), "number of entries: expected at most 5"),
    "name of none": (legacy(entry(b"")), "length of name of entry 0: expected at least 1, found 0"),
    "name too long": (legacy(entry(length=2**31 - 1)), "name of entry 0: expected 2147483647 bytes"),
    "name negative": (legacy(entry(length=NEGATIVE)), "length of name of entry 0: expected at least 1, found -1"),
    "name with NUL": (legacy(entry(b"a\0b")), "name of entry 0: expected a text without NUL"),
    "twice": (legacy(entry(), entry()), f"entry '{NAME}': expected each name once"),
    "calls negative": (legacy(entry(calls=-2)), f"calls of entry '{NAME}': expected at least 0, found -2"),
    "no values": (legacy(entry(values=())), f"number of values of entry '{NAME}': expected at least 1, found 0"),
    "values too many": (legacy(entry(n=2**30)), f"number of values of entry '{NAME}': expected at most 3"),
    "values one too many": (legacy(entry(n=4)), "expected at most 3"),
    "values negative": (legacy(entry(n=NEGATIVE)), "expected at least 1, found -1"),
    "nan": (
        legacy(entry(values=(1.0, float("nan")))),
        f"entry '{NAME}': expected finite numbers from 0, found nan at 1",
    ),
    "infinite": (
        legacy(entry(values=(float("inf"),))),
        f"entry '{NAME}': expected finite numbers from 0, found inf at 0",
    ),
    "below zero": (legacy(entry(values=(1.0, 0.0, -2.0))), "found -2.0 at 2"),
    "tail cut": (legacy(entry(), tail=TAIL[:3]), "number of chunks"),
    "chunks negative": (legacy(entry(), tail=struct.pack("<i", -1)), "number of chunks: expected at least 0"),
    "dataset cut": (legacy(entry(), tail=TAIL[:-1]), "dataset: expected 4 bytes"),
    "dataset negative": (legacy(entry(), tail=struct.pack("<ii", 1, -5)), "length of dataset: expected at least 0"),
    "more": (legacy(entry(), tail=TAIL + b"x"), "the end of the file"),
    "control characters": (legacy(entry(b"\x1b[2J\n", calls=-1)), r"\x1b[2J\n"),
}


@pytest.mark.parametrize("case", REFUSED_LEGACY)
def test_refused_legacy_files(case, dat):
    content, part = REFUSED_LEGACY[case]
    path = dat(content)
    tracemalloc.start()
    try:
        with pytest.raises(GGUFError, match=re.escape(part)) as error:
            read_imatrix(path)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert one_line(error).startswith(f"{path}: ")


def test_legacy_files_truncated_anywhere(dat):
    content = legacy(entry(), entry(b"b", 3, (1.0,)), tail=TAIL)
    whole = {len(content) - len(TAIL), len(content) - len(TAIL) + 4}  # where it may end
    for n in range(1, len(content)):
        path = dat(content[:n])
        if n in whole:
            assert len(read_imatrix(path).entries) == 2
            continue
        with pytest.raises(GGUFError) as error:
            read_imatrix(path)
        one_line(error)


def test_random_flips(dat):
    content = legacy(entry(), entry(b"b", 3, (1.0,)), tail=TAIL)
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(2000):
        changed = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(len(changed))] = rng.integers(256)
        try:
            found = read_imatrix(dat(bytes(changed)))
        except GGUFError as error:
            messages.append(str(error))
        else:
            assert all(np.isfinite(values).all() and (values >= 0).all() for values in found.entries.values())
    assert 0 < len(messages) < 2000
    assert all(message.isprintable() for message in messages)


F = np.float32
REFUSED_GGUF = {
    "no counts": ({"w.in_sum2": F([1])}, META, "entry 'w': expected .counts beside .in_sum2"),
    "no sums": (
        {"w.in_sum2": F([1]), "w.counts": F([1]), "v.counts": F([1])},
        META,
        "entry 'v': expected .in_sum2 beside .counts",
    ),
    "nothing": ({"w.counts": F([1])}, META, "names ending in .in_sum2, found none"),
    "no name": ({".in_sum2": F([1]), ".counts": F([1])}, META, "expected a name before .in_sum2"),
    "half": ({"w.in_sum2": np.float16([1]), "w.counts": F([1])}, META, "entry 'w': .in_sum2: expected F32"),
    "counts of integers": ({"w.in_sum2": F([1]), "w.counts": np.int32([1])}, META, "entry 'w': .counts: expected F32"),
    "no elements": ({"w.in_sum2": F([]), "w.counts": F([1])}, META, "entry 'w': .in_sum2: expected F32 and at least"),
    "no count": ({"w.in_sum2": F([1]), "w.counts": F([])}, META, "entry 'w': .counts: expected F32 and at least"),
    "fewer counts": ({"w.in_sum2": F([[1, 2], [3, 4]]), "w.counts": F([[1]])}, META, "expected 2 counts"),
    "more counts": ({"w.in_sum2": F([[1, 2]]), "w.counts": F([[1], [1]])}, META, "expected 1 counts"),
    "nan": ({"w.in_sum2": F([[1, 2], [3, np.nan]]), "w.counts": F([[1], [1]])}, META, "'w': .in_sum2: expected finite"),
    "infinite": ({"w.in_sum2": F([np.inf]), "w.counts": F([1])}, META, "found inf at 0"),
    "below zero": ({"w.in_sum2": F([1, -1]), "w.counts": F([1])}, META, "found -1.0 at 1"),
    "count nan": ({"w.in_sum2": F([1]), "w.counts": F([np.nan])}, META, "'w': .counts: expected finite"),
    "count infinite": ({"w.in_sum2": F([1]), "w.counts": F([np.inf])}, META, "'w': .counts: expected finite"),
    "count below zero": ({"w.in_sum2": F([1]), "w.counts": F([-1])}, META, "'w': .counts: expected finite"),
    "a model": ({"w": F([1])}, {"general.architecture": "llama"}, "imatrix.datasets: expected an imatrix"),
    "chunks of text": (
        {"w.in_sum2": F([1]), "w.counts": F([1])},
        META | {"imatrix.chunk_count": "7"},
        "imatrix.chunk_count: expected an imatrix, with this key of type u32, found string",
    ),
    "a dataset": (
        {"w.in_sum2": F([1]), "w.counts": F([1])},
        META | {"imatrix.datasets": "wiki"},
        "imatrix.datasets: expected an imatrix, with this key of type [string], found string",
    ),
}


@pytest.mark.parametrize("case", REFUSED_GGUF)
def test_refused_gguf_files(case, gguf):
    tensors, metadata, part = REFUSED_GGUF[case]
    path = gguf(tensors, metadata)
    with pytest.raises(GGUFError, match=re.escape(part)) as error:
        read_imatrix(path)
    assert one_line(error).startswith(f"{path}: ")


def test_a_cut_gguf_is_refused_as_one(gguf):
    path = gguf({"w.in_sum2": F([1]), "w.counts": F([1])})
    content = path.read_bytes()
    for n in (4, 20, 100, len(content) - 40):
        path.write_bytes(content[:n])
        with pytest.raises(GGUFError) as error:
            read_imatrix(path)
        one_line(error)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(GGUFError) as error:
            read_imatrix(path)
        one_line(error)


def test_metadata_of_a_model_made_with_it():
    made = Imatrix({"a": np.ones((1, 2), np.float32)}, ("first", "second"), 7, 512, "x.gguf")
    assert made.metadata() == {
        "quantize.imatrix.file": Typed("x.gguf", ValueType.STRING),
        "quantize.imatrix.dataset": Typed("first", ValueType.STRING),
        "quantize.imatrix.entries_count": Typed(1, ValueType.U32),
        "quantize.imatrix.chunks_count": Typed(7, ValueType.U32),
    }
    assert made.metadata(entries=0)["quantize.imatrix.entries_count"] == Typed(0, ValueType.U32)
    bare = Imatrix({}, (), 0, None, "ö" * 100).metadata()
    assert list(bare) == ["quantize.imatrix.file", "quantize.imatrix.entries_count"]
    assert bare["quantize.imatrix.file"].value.encode("utf-8", "surrogateescape") == ("ö" * 100).encode()[:127]


def test_real_files(shared):
    folder = shared / "imatrix"
    new, old = read_imatrix(folder / "prose-23m.gguf"), read_imatrix(folder / "prose-23m.dat")
    large = read_imatrix(folder / "tinyllama-1.1b.dat")
    assert set(new.entries) == set(old.entries)
    assert (new.chunks, new.chunk_size is None, old.chunk_size) == (old.chunks, False, None)
    assert new.datasets == old.datasets
    eps = np.finfo(np.float32).eps
    for name, values in new.entries.items():
        assert values.shape == old.entries[name].shape
        # The older one is rounded three times on its way: by the count, times the calls, by the calls.
        np.testing.assert_allclose(values, old.entries[name], rtol=3 * eps)
    assert large.entries["blk.0.ffn_down.weight"].shape == (1, 5632)
    assert large.entries["blk.0.attn_q.weight"].shape == (1, 2048)


def test_imports_no_jax():
    code = "import sys, gguf_jax.quantization.imatrix; sys.exit(', '.join({'jax', 'flax'} & set(sys.modules)) or 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
