"""Exact: shards and merged files are llama-gguf-split's, byte for byte. Contract: all of them are written or none."""

import hashlib
import json
import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gguf_jax.errors import GGUFError
from gguf_jax.gguf import Typed, ValueType, read, write
from gguf_jax.gguf.split import groups_of, merged_metadata, shard_paths, size_of, write_merged, write_shards
from gguf_jax.gguf.watched import watched
from tests.conftest import DATA
from tests.gguf.checks import one_line
from tests.gguf.craft import small_file
from tests.gguf.split_cases import CASES, make_input

EXPECTED = json.loads((DATA / "llama_cpp_files.json").read_text("utf-8"))


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def split(source: Path, prefix: Path, *, max_tensors=None, max_size=None, empty_first=False) -> list[str]:
    with read(source) as file:
        limit = None if max_size is None else size_of(max_size)
        groups = groups_of(file.tensors, max_tensors=max_tensors, max_bytes=limit, empty_first=empty_first)
        return write_shards(file, str(prefix), groups)


def merge(first: str | Path, target: Path, **options: bool) -> Path:
    with read(first) as whole:
        write_merged(whole, str(target), merged_metadata(whole, **options), whole.tensors)
    return target


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return {name: make_input(name, folder) for name in {name for name, _ in CASES.values()}}


def test_inputs_are_those_that_were_split(inputs):
    assert {name: sha256(path) for name, path in inputs.items()} == EXPECTED["inputs"]


@pytest.mark.parametrize("case", CASES)
def test_shards_and_merged_files_are_llama_cpps(case, inputs, tmp_path):
    name, options = CASES[case]
    paths = split(inputs[name], tmp_path / "out", **options)
    assert sorted(os.listdir(tmp_path)) == [os.path.basename(path) for path in paths]
    assert {os.path.basename(path): sha256(path) for path in paths} == EXPECTED["split"][case]["shards"]
    assert sha256(merge(paths[-1], tmp_path / "merged.gguf")) == EXPECTED["split"][case]["merged"]


@pytest.mark.parametrize("case", [case for case, (name, _) in CASES.items() if name in ("crafted", "bundled")])
def test_without_split_keys_the_file_is_what_it_was(case, inputs, tmp_path):
    name, options = CASES[case]
    paths = split(inputs[name], tmp_path / "out", **options)
    assert sha256(merge(paths[0], tmp_path / "again.gguf", split_keys=False)) == sha256(inputs[name])


def views(*sizes: int, tmp_path: Path) -> dict:
    write(tmp_path / "v.gguf", {}, {f"t{i}": np.zeros(n, np.int8) for i, n in enumerate(sizes)})
    return read(tmp_path / "v.gguf").tensors


@pytest.mark.parametrize(
    ("sizes", "options", "expected"),
    [
        ((32, 32, 32), {"max_bytes": 64}, [2, 1]),
        ((32, 33, 32), {"max_bytes": 64}, [1, 1, 1]),  # padding counts
        ((100, 32, 32), {"max_bytes": 64}, [1, 2]),  # where the peer gives up
        ((32, 100, 32), {"max_bytes": 64}, [1, 1, 1]),
        ((32, 0, 32), {"max_bytes": 32}, [2, 1]),
        ((32,) * 4, {"max_tensors": 2}, [2, 2]),
        ((32,) * 5, {"max_tensors": 2, "empty_first": True}, [0, 2, 2, 1]),
        ((), {"max_tensors": 2, "empty_first": True}, [0, 0]),
    ],
)
def test_groups(sizes, options, expected, tmp_path):
    tensors = views(*sizes, tmp_path=tmp_path)
    groups = groups_of(tensors, **options)
    assert [len(group) for group in groups] == expected
    assert [name for group in groups for name in group] == list(tensors)


@pytest.mark.parametrize("text", ["", "G", "2", "2.5G", "-1G", "0M", "2g", "2GB", "2 G", "1" * 13 + "M", "²G"])
def test_sizes_that_are_none(text):
    with pytest.raises(GGUFError, match="size: expected a whole number") as error:
        size_of(text)
    one_line(error)


def test_limits_that_are_none(tmp_path):
    tensors = views(1, tmp_path=tmp_path)
    for options in ({}, {"max_tensors": 1, "max_bytes": 1}, {"max_tensors": 0}, {"max_tensors": -1}):
        with pytest.raises(GGUFError):
            groups_of(tensors, **options)
    with pytest.raises(GGUFError, match="at most 65535 shards"):
        groups_of({str(i): tensors["t0"] for i in range(65536)}, max_tensors=1)


def test_alignment_stays_in_every_shard(tmp_path):
    tensors = {name: np.arange(i + 5, dtype=np.float32) for i, name in enumerate("abcd")}
    write(tmp_path / "in.gguf", {"general.name": "x"}, tensors, alignment=128)
    paths = split(tmp_path / "in.gguf", tmp_path / "out", max_tensors=2)
    for path in paths:
        with read(path, shards=False) as shard:
            assert shard.alignment == 128
            assert all(view.offset % 128 == 0 for view in shard.tensors.values())
    merge(paths[0], tmp_path / "again.gguf", split_keys=False)
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "in.gguf").read_bytes()


def test_big_endian(stored, tmp_path):
    path = stored(small_file(3, ">"))
    paths = split(path, tmp_path / "out", max_tensors=1)
    assert {read(shard, shards=False).byte_order for shard in paths} == {"big"}
    merge(paths[0], tmp_path / "again.gguf", split_keys=False)
    assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()


def test_shards_are_split_again_and_may_be_replaced_while_they_are_read(inputs, tmp_path):
    first = split(inputs["crafted"], tmp_path / "out", max_tensors=3)
    before = {path: Path(path).read_bytes() for path in first}
    assert split(Path(first[1]), tmp_path / "out", max_tensors=3) == first
    assert {path: Path(path).read_bytes() for path in first} == before
    again = split(Path(first[0]), tmp_path / "two", max_tensors=4)
    assert sha256(merge(again[0], tmp_path / "m.gguf", split_keys=False)) == sha256(inputs["crafted"])


@pytest.mark.parametrize("failing", ["write", "replace", "space"])
def test_all_shards_or_none(failing, inputs, tmp_path, monkeypatch):
    replace, calls = os.replace, []

    def counted(source, target):
        calls.append(target)
        if failing == "write" and len(calls) == 2:  # of three shards, the second's own renaming
            raise OSError(28, "No space left on device")
        if failing == "replace" and ".gguf.tmp" not in target and target.endswith("-00002-of-00003.gguf"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", counted)
    if failing == "space":
        monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=9))
    with pytest.raises(
        GGUFError, match=r"out(-00002-of-00003\.gguf)?: (cannot be written: No space|expected \d+ bytes)"
    ):
        split(inputs["crafted"], tmp_path / "out", max_tensors=3)
    assert os.listdir(tmp_path) == []


def test_interrupted(inputs, tmp_path):
    with read(inputs["crafted"]) as file:

        def interrupt(nbytes: int) -> None:
            raise KeyboardInterrupt

        groups = groups_of(watched(file.tensors, interrupt), max_tensors=3)
        with pytest.raises(KeyboardInterrupt):
            write_shards(file, str(tmp_path / "out"), groups)
    assert os.listdir(tmp_path) == []


def test_a_target_that_cannot_be(inputs, tmp_path):
    for prefix in (tmp_path / "no" / "out", tmp_path / "a\0b"):
        with pytest.raises(GGUFError) as error:
            split(inputs["crafted"], prefix, max_tensors=3)
        one_line(error)
    (tmp_path / "out-00002-of-00003.gguf").mkdir()
    with pytest.raises(GGUFError, match=r"00002-of-00003\.gguf: cannot be written"):
        split(inputs["crafted"], tmp_path / "out", max_tensors=3)
    assert os.listdir(tmp_path) == ["out-00002-of-00003.gguf"]


def test_what_is_no_shard_is_not_merged(inputs, tmp_path):
    for name in ("crafted", "merged"):
        with pytest.raises(GGUFError, match=r"split\.count: expected a shard's, at least 1, found") as error:
            merge(inputs[name], tmp_path / "m.gguf")
        one_line(error)
    paths = split(inputs["crafted"], tmp_path / "out", max_tensors=3)
    with pytest.raises(GGUFError, match="not one of the shards"):
        merge(paths[0], Path(paths[1]))
    os.unlink(paths[1])
    with pytest.raises(GGUFError, match=r"00002-of-00003\.gguf: cannot be read: No such file"):
        merge(paths[0], tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("split.tensors.count", 2), ("split.no", 1), ("split.no", "0"), ("split.tensors.count", [1]), ("split.no", None)],
)
def test_the_keys_of_a_single_shard_are_checked(key, value, tmp_path):
    keys = {"split.no": 0, "split.count": Typed(1, ValueType.U16), "split.tensors.count": 1} | {key: value}
    path = tmp_path / "m-00001-of-00001.gguf"
    write(path, {k: v for k, v in keys.items() if v is not None}, {"t": np.zeros(3, np.float32)})
    with pytest.raises(GGUFError, match=rf"{key}: expected [01], found") as error:
        merge(path, tmp_path / "m.gguf")
    one_line(error)


def test_names_of_shards():
    assert shard_paths("a/b", 2) == ["a/b-00001-of-00002.gguf", "a/b-00002-of-00002.gguf"]


def test_little_memory_is_taken(tmp_path):
    write(tmp_path / "a.gguf", {}, {f"t{i}": np.zeros((32, 1 << 17), np.float32) for i in range(4)})
    seen = []
    tracemalloc.start()
    try:
        with read(tmp_path / "a.gguf") as file:
            write_shards(file, str(tmp_path / "b"), groups_of(watched(file.tensors, seen.append), max_tensors=1))
        merge(tmp_path / "b-00001-of-00004.gguf", tmp_path / "c.gguf")
        assert tracemalloc.get_traced_memory()[1] < 12e6
    finally:
        tracemalloc.stop()
    assert sum(seen) == 4 * 32 * 4 << 17
