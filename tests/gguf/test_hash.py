"""Exact: digests are those that llama.cpp's gguf-hash prints. Contract: a bad manifest is refused in a line."""

import hashlib
import importlib.util
import json
import uuid
from pathlib import Path

import numpy as np
import pytest

from gguf_jax.errors import GGUFError, Unsupported
from gguf_jax.gguf import read, write
from gguf_jax.gguf.hash import NAMESPACE, digests, hasher, line, read_manifest
from gguf_jax.gguf.split import groups_of, write_shards
from tests.conftest import DATA
from tests.gguf.checks import one_line
from tests.gguf.split_cases import make_input

EXPECTED = json.loads((DATA / "llama_cpp_files.json").read_text("utf-8"))["hash"]
HAS_XXHASH = importlib.util.find_spec("xxhash") is not None
INSTALLED = ("sha256", "sha1", "uuid", *(["xxh64"] if HAS_XXHASH else []))


def lines(path: Path, algorithms=INSTALLED, **options: bool) -> list[str]:
    with read(path) as file:
        return [line(digest, path.name) for digest in digests(file.tensors, algorithms, **options)]


@pytest.mark.parametrize("name", EXPECTED)
def test_lines_are_those_of_gguf_hash(name, tmp_path):
    path = make_input(name, tmp_path)
    expected = [each for each in EXPECTED[name] if HAS_XXHASH or not each.startswith("xxh64")]
    assert lines(path) == expected
    assert lines(path, per_tensor=False) == [each for each in expected if each.endswith(f"  {path.name}")]


@pytest.mark.skipif(HAS_XXHASH, reason="xxhash is installed")
def test_without_xxhash_one_line_says_so():
    with pytest.raises(Unsupported, match="xxh64: expected the package xxhash"):
        hasher("xxh64")


def test_an_unknown_hash():
    with pytest.raises(GGUFError, match="expected one of xxh64, sha1, sha256, uuid, found 'md5'"):
        hasher("md5")


def test_the_namespace():
    assert uuid.uuid5(uuid.NAMESPACE_URL, "en.wikipedia.org/wiki/Llama.cpp") == NAMESPACE


def test_digests_see_data_only_and_shards_are_one_model(tmp_path):
    path = make_input("crafted", tmp_path)
    expected = lines(path)
    with read(path) as file:
        write(path, {"general.name": "other"}, file.tensors, alignment=256)
        shards = write_shards(file, str(tmp_path / "s"), groups_of(file.tensors, max_tensors=3))
    assert lines(path) == expected
    with read(shards[0]) as whole:
        assert [line(d, path.name) for d in digests(whole.tensors, INSTALLED)] == expected


def test_a_tensor_is_read_in_pieces_and_empty_ones_have_digests(tmp_path):
    data = np.arange(3 << 20, dtype=np.uint32).astype(np.int32)
    write(tmp_path / "a.gguf", {}, {"big": data, "none": np.zeros(0, np.float32)})
    with read(tmp_path / "a.gguf") as file:
        found = {digest.tensor: digest.hex for digest in digests(file.tensors, ["sha256"])}
    big = hashlib.sha256(data.tobytes()).hexdigest()
    assert found == {"big": big, "none": hashlib.sha256().hexdigest(), None: big}


def test_a_name_cannot_forge_a_line(tmp_path):
    write(tmp_path / "a.gguf", {}, {"t\nsha256  0": np.zeros(1, np.float32)})
    assert all("\n" not in each for each in lines(tmp_path / "a.gguf"))


HEX = "ab" * 32


@pytest.fixture
def manifest(tmp_path):
    def manifest(content: str | bytes, file: str = "m.gguf"):
        path = tmp_path / "manifest"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_manifest(str(path), file)

    return manifest


def test_a_manifest(manifest):
    content = (
        "manifest  x  sha256\n\n"
        f"sha256    {HEX}  m.gguf:a\nsha256    {HEX.upper()}  m.gguf:b:c\r\nsha1      {'0' * 40}  m.gguf\n"
        f"sha256    {HEX}  n.gguf:d\nmd5  0  m.gguf:e\n"
    )
    found = manifest(content)
    assert found.algorithms == ("sha256", "sha1")
    assert found.of(["sha256"]) == {("sha256", "a"): {HEX}, ("sha256", "b:c"): {HEX}}
    assert found.of(["sha256", "sha1"], per_tensor=False) == {("sha1", None): {"0" * 40}}


def test_a_manifest_from_another_folder(manifest):
    content = f"sha256  {HEX}  models/m.gguf:a\nsha256  {HEX}  C:\\x\\m.gguf:b\nsha256  {HEX}  models/xm.gguf:c\n"
    assert {tensor for _, tensor in manifest(content).digests} == {"a", "b"}
    assert {tensor for _, tensor in manifest(content, "elsewhere/m.gguf").digests} == {"a", "b"}
    content += f"sha256  {HEX}  m.gguf:d\n"  # the very name comes first
    assert {tensor for _, tensor in manifest(content).digests} == {"d"}


def test_entries_that_contradict_each_other_are_both_kept(manifest):
    assert manifest(f"sha256 {HEX} m.gguf\nsha256 {'0' * 64} m.gguf").digests == {("sha256", None): {HEX, "0" * 64}}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "found 0 entries"),
        (f"sha256 {HEX} other.gguf:a", "found 1 entries and none of it"),
        ("sha256", "line 1: expected 'sha256  DIGEST  NAME'"),
        (f"\nsha256 {HEX}", "line 2"),
        (f"sha256 {HEX}0 m.gguf", "line 1"),
        (f"sha1 {HEX} m.gguf", "line 1"),
        (f"sha256 {'x' * 64} m.gguf", "line 1"),
        ("uuid ef001206dadc5f6da15f3359e577d4e5 m.gguf", "line 1"),
        (b"sha256 \xff\x1b[31m\n", "line 1"),
    ],
)
def test_refused_manifests(content, part, manifest):
    with pytest.raises(GGUFError, match=part) as error:
        manifest(content)
    one_line(error)


def test_manifests_that_cannot_be_read(tmp_path, monkeypatch):
    for path in (tmp_path / "no", tmp_path, "a\0b"):
        with pytest.raises(GGUFError, match="cannot be read") as error:
            read_manifest(str(path), "m.gguf")
        one_line(error)
    monkeypatch.setattr("gguf_jax.gguf.hash.MAX_MANIFEST", 10)
    (tmp_path / "long").write_text("sha256 " * 3)
    with pytest.raises(GGUFError, match="at most 10 bytes"):
        read_manifest(str(tmp_path / "long"), "m.gguf")
