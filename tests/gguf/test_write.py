"""Contract: a file is replaced as a whole or not at all; what cannot be written is refused before the first byte."""

import os
import stat
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.errors import GGUFError
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.gguf import Metadata, Typed, ValueType, read, write
from tests.gguf.checks import one_line

ARRAY = np.arange(64, dtype=np.float32)


class Failing:
    """A packed tensor that raises when its turn comes."""

    type = GGMLType.Q8_0
    shape = (32,)

    def __init__(self, error: BaseException):
        self.error = error

    def to_blocks(self) -> np.ndarray:
        raise self.error


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), GGUFError("no"), SystemExit(1)], ids=repr)
def test_an_error_in_the_middle_leaves_no_trace(error, existing, tmp_path):
    path = tmp_path / "a.gguf"
    if existing:
        path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write(path, {"a": 1}, {"big": np.zeros(1 << 20, np.float32), "bad": Failing(error)})
    assert os.listdir(tmp_path) == (["a.gguf"] if existing else [])
    if existing:
        assert path.read_bytes() == b"old"


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_an_error_of_the_system_leaves_no_trace(call, tmp_path, monkeypatch):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"old")

    def failing(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(GGUFError, match=r"a\.gguf: cannot be written: No space left on device") as error:
        write(path, {"a": 1}, {"t": ARRAY})
    one_line(error)
    assert os.listdir(tmp_path) == ["a.gguf"]
    assert path.read_bytes() == b"old"


def test_the_disk_is_asked_first(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(GGUFError, match="bytes of free disk space, found 1000"):
        write(tmp_path / "a.gguf", {}, {"t": np.zeros(1000, np.float32)})
    write(tmp_path / "a.gguf", {}, {"t": ARRAY})
    assert os.listdir(tmp_path) == ["a.gguf"]


def test_files_and_folder_are_synced(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)) or fsync(fd))
    write(tmp_path / "a.gguf", {}, {"t": ARRAY})
    assert synced == [False, True]


def test_permissions_and_links_stay(tmp_path):
    real = tmp_path / "real.gguf"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link = tmp_path / "link.gguf"
    link.symlink_to(real)
    write(link, {}, {"t": ARRAY})
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert len(read(real).tensors) == 1
    umask = os.umask(0o027)
    try:
        write(tmp_path / "new.gguf", {}, {"t": ARRAY})
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new.gguf").stat().st_mode) == 0o640


REFUSED = {
    "name of 64 bytes": ({}, {"t" * 64: ARRAY}, {}, "63 bytes"),
    "name of no str": ({}, {1: ARRAY}, {}, "str"),
    "name of bytes": ({}, {b"t": ARRAY}, {}, "a name of type str, found bytes"),
    "name of lone surrogate": ({}, {"\ud800": ARRAY}, {}, "surrogate"),
    "variable of nothing": ({}, {"t": SimpleNamespace(get_value=lambda: None)}, {}, "NoneType"),
    "five dimensions": ({}, {"t": np.zeros((1, 1, 1, 1, 1), np.float32)}, {}, "4 dimensions"),
    "dtype": ({}, {"t": np.zeros(4, np.uint8)}, {}, "uint8"),
    "complex": ({}, {"t": np.zeros(4, np.complex64)}, {}, "complex64"),
    "nothing": ({}, {"t": None}, {}, "NoneType"),
    "blocks of floats": ({}, {"t": (8, ARRAY)}, {}, "uint8 blocks of 34 bytes"),
    "half a block": ({}, {"t": (8, np.zeros(33, np.uint8))}, {}, "uint8 blocks of 34 bytes"),
    "unknown type": ({}, {"t": (99, np.zeros(34, np.uint8))}, {}, "type id 99"),
    "no type": ({}, {"t": (None, np.zeros(34, np.uint8))}, {}, "'t'"),
    "activation type": ({}, {"t": (9, np.zeros(36, np.uint8))}, {}, "Q8_1"),
    "shape of half a block": ({}, {"t": SimpleNamespace(type=8, shape=(33,), to_blocks=None)}, {}, "33"),
    "empty key": ({"": 1}, {}, {}, "1 to 65535 bytes"),
    "long key": ({"k" * 65536: 1}, {}, {}, "1 to 65535 bytes"),
    "key of no str": ({1: 1}, {}, {}, "metadata key 1: expected a key of type str, found int"),
    "key of bytes": ({b"key": 1}, {}, {}, "a key of type str, found bytes"),
    "key of lone surrogate": ({"\ud800": 1}, {}, {}, r"metadata key.*ud800.*: expected UTF-8, found a lone surrogate"),
    "value": ({"key": None}, {}, {}, "NoneType"),
    "alignment": ({}, {}, {"alignment": 13}, "power of two"),
    "alignment 0": ({}, {}, {"alignment": 0}, "power of two"),
    "alignment too big": ({}, {}, {"alignment": 2**32}, "u32"),
    "alignment in metadata": ({"general.alignment": 13}, {}, {}, "power of two"),
    "alignment of another type": ({"general.alignment": Typed(32, ValueType.U64)}, {}, {}, "type u32"),
    "byte order": ({}, {}, {"byte_order": "middle"}, "little or big"),
    "version": ({}, {}, {"version": 4}, "1, 2 or 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_written(case, tmp_path):
    metadata, tensors, options, part = REFUSED[case]
    with pytest.raises(GGUFError, match=part) as error:
        write(tmp_path / "a.gguf", metadata, tensors, **options)
    assert one_line(error).startswith(f"{tmp_path / 'a.gguf'}: ")
    assert os.listdir(tmp_path) == []


def test_refused_targets(tmp_path):
    for target, part in ((tmp_path, "regular file"), ("/dev/null", "regular file"), (tmp_path / "no" / "a", "No such")):
        with pytest.raises(GGUFError, match=part) as error:
            write(target, {}, {})
        one_line(error)


@pytest.mark.parametrize("path", ["a\0b.gguf", "no\0/b.gguf", "\0"])
def test_a_path_with_nul_is_refused(path, tmp_path):
    with pytest.raises(GGUFError, match="expected a path without NUL") as error:
        write(tmp_path / path, {}, {"t": ARRAY})
    assert "\\x00" in one_line(error)
    assert os.listdir(tmp_path) == []


def test_keys_and_names_that_stand_for_bytes_are_written(tmp_path):
    # What `surrogateescape` makes of bytes that are no UTF-8 goes back to them.
    write(tmp_path / "a.gguf", {"key\udcff": 1}, {"t\udcff": ARRAY})
    with read(tmp_path / "a.gguf") as file:
        assert list(file.metadata) == ["key\udcff"]
        assert list(file.tensors) == ["t\udcff"]


class Variable:
    """As flax has them: the value comes from `get_value`, and whatever else is asked for, from the value."""

    def __init__(self, value: object):
        self.value = value

    def get_value(self) -> object:
        return self.value

    def __getattr__(self, name: str) -> object:
        return getattr(self.value, name)


def test_variables_are_written_by_their_value(tmp_path):
    blocks = np.arange(68, dtype=np.uint8).reshape(2, 34)
    packed = SimpleNamespace(type=GGMLType.Q8_0, shape=(2, 32), to_blocks=lambda: blocks)
    write(tmp_path / "a.gguf", {}, {"a": Variable(ARRAY), "b": Variable((8, blocks)), "c": Variable(packed)})
    with read(tmp_path / "a.gguf") as file:
        assert file.tensors["a"].dequantize().tolist() == ARRAY.tolist()
        for name in "bc":
            assert (file.tensors[name].type, file.tensors[name].shape) == (GGMLType.Q8_0, (2, 32))
            assert file.tensors[name].blocks().tolist() == blocks.tolist()


def test_variables_of_flax_are_written_by_their_value(tmp_path):
    from gguf_jax.nn.param import variable
    from gguf_jax.quantized_array import QuantizedArray

    blocks = np.arange(68, dtype=np.uint8).reshape(2, 34)
    packed, plain = variable(QuantizedArray.from_blocks(blocks, GGMLType.Q8_0)), variable(jnp.asarray(ARRAY))
    write(tmp_path / "a.gguf", {}, {"packed": packed, "plain": plain})
    with read(tmp_path / "a.gguf") as file:
        assert file.tensors["packed"].type == GGMLType.Q8_0
        assert file.tensors["packed"].blocks().tolist() == blocks.tolist()
        assert file.tensors["plain"].dequantize().tolist() == ARRAY.tolist()


def test_temporaries_are_not_for_git(tmp_path, monkeypatch):
    names = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: names.append(os.path.basename(old)) or replace(old, new))
    write(tmp_path / "a.gguf", {}, {"t": ARRAY})
    ignored = (Path(__file__).resolve().parents[2] / ".gitignore").read_text().split()
    assert any(fnmatch(names[0], pattern) for pattern in ignored)


def test_alignment(tmp_path):
    path = tmp_path / "a.gguf"
    for metadata, option, expected in (
        ({}, None, 32),
        ({}, 32, 32),
        ({}, 4096, 4096),
        ({"general.alignment": 64}, None, 64),
        ({"general.alignment": 64}, 32, 32),
        (Metadata({"general.alignment": 64}), 1, 1),
    ):
        write(path, metadata, {"a": ARRAY[:3], "b": ARRAY}, alignment=option)
        with read(path) as file:
            assert file.alignment == expected == file.metadata.get("general.alignment", 32)
            assert all(view.offset % expected == 0 for view in file.tensors.values())
            assert file.tensors["b"].dequantize().tolist() == ARRAY.tolist()


def test_little_memory_is_taken(tmp_path):
    import tracemalloc

    write(tmp_path / "a.gguf", {}, {"t": np.zeros((64, 1 << 18), np.float32)})
    with read(tmp_path / "a.gguf") as file:
        for order in ("little", "big"):
            tracemalloc.start()
            try:
                write(tmp_path / "b.gguf", file.metadata, file.tensors, byte_order=order)
                assert tracemalloc.get_traced_memory()[1] < 12e6
            finally:
                tracemalloc.stop()
