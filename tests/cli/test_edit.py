"""The commands that write files, run in this process: what they print and write, and what they refuse in one line."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import typer

from gguf_jax.cli.app import app
from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf import ArrayOf, Typed, ValueType, read, write
from tests.gguf.craft import small_file
from tests.gguf.split_cases import make_input


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where the commands run: with `crafted.gguf`."""
    make_input("crafted", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(folder, capsys):
    def command(*arguments: object) -> str:
        """What it prints."""
        capsys.readouterr()
        app([*map(str, arguments)], standalone_mode=False)
        return capsys.readouterr().out

    return command


@pytest.fixture
def refused(command, folder):
    def refused(part: str, *arguments: object) -> None:
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(GGUFJaxError, match=part) as error:
            command(*arguments)
        assert str(error.value).isprintable()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    return refused


def test_split_and_merge(command, folder):
    before = (folder / "crafted.gguf").read_bytes()
    planned = command("split", "crafted.gguf", "out", "--max-tensors", 3, "--dry-run")
    assert [each.split("\t")[:2] for each in planned.splitlines()] == [
        [f"out-0000{n}-of-00003.gguf", f"{tensors} tensors"] for n, tensors in ((1, 3), (2, 3), (3, 2))
    ]
    assert os.listdir(folder) == ["crafted.gguf"]
    assert command("split", "crafted.gguf", "out", "--max-tensors", 3) == planned
    assert "8 tensors" in command("merge", "out-00001-of-00003.gguf", "m.gguf", "--no-split-keys", "--dry-run")
    assert not (folder / "m.gguf").exists()
    command("merge", "out-00001-of-00003.gguf", "m.gguf", "--no-split-keys")
    assert (folder / "m.gguf").read_bytes() == before
    command("merge", "out-00001-of-00003.gguf", "m.gguf", "-f")
    assert read("m.gguf").metadata["split.count"] == 0
    command("split", "crafted.gguf", "whole")
    assert (folder / "whole-00001-of-00001.gguf").exists()


def test_split_by_size_says_what_is_larger(folder, capsys):
    app(["split", "crafted.gguf", "out", "--max-size", "1M", "--no-tensor-first-split"], standalone_mode=False)
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].startswith("out-00001-of-00005.gguf\t0 tensors")
    assert printed.err.splitlines() == [
        "note: out-00004-of-00005.gguf: 1600000 bytes, more than 1M: its only tensor is larger than that"
    ]


def test_split_and_merge_refuse(command, refused, folder):
    refused(
        "expected one of --max-tensors and --max-size",
        "split",
        "crafted.gguf",
        "o",
        "--max-tensors",
        1,
        "--max-size",
        "1M",
    )
    refused("expected a whole number and K, M, G or T", "split", "crafted.gguf", "o", "--max-size", "1GB")
    refused("expected at least 1, found 0", "split", "crafted.gguf", "o", "--max-tensors", 0)
    refused("No such file", "split", "absent.gguf", "o")
    refused("No such file", "split", "crafted.gguf", "absent/o")
    refused("expected a shard's", "merge", "crafted.gguf", "m.gguf")
    command("split", "crafted.gguf", "out", "--max-tensors", 4)
    refused("out-00001-of-00002.gguf: exists already; --force", "split", "crafted.gguf", "out", "--max-tensors", 4)
    refused("crafted.gguf: exists already; --force", "merge", "out-00001-of-00002.gguf", "crafted.gguf")
    refused("not one of the shards", "merge", "out-00001-of-00002.gguf", "out-00002-of-00002.gguf", "--force")
    command("split", "crafted.gguf", "out", "--max-tensors", 4, "--force")


def test_hash_and_check(command, refused, folder, capsys):
    printed = command("hash", "crafted.gguf", "--sha256", "--sha1", "--uuid")
    assert [each.split(maxsplit=1)[0] for each in printed.splitlines()] == ["sha1", "sha256"] * 9 + ["uuid"]
    (folder / "manifest").write_text(printed)
    checked = command("hash", "crafted.gguf", "-c", "manifest")
    assert checked.splitlines()[0] == "manifest  manifest  sha256  sha1  uuid"
    assert [each.rsplit("  -  ", 1)[1] for each in checked.splitlines()[1:]] == ["Ok"] * 9
    assert command("hash", "crafted.gguf", "-c", "manifest", "--uuid").endswith("  crafted.gguf  -  Ok\n")
    assert len(command("hash", "crafted.gguf", "-c", "manifest", "--no-layer").splitlines()) == 2
    answer = json.loads(command("hash", "crafted.gguf", "-c", "manifest", "--json"))
    assert answer["check"] == {"manifest": "manifest", "ok": True, "differ": [], "not_listed": []}
    assert list(answer["tensors"]) == ["a", "b", "c", "d", "e", "f.weight", "g.weight", "h"]
    assert {f"sha256    {answer['all']['sha256']}  crafted.gguf"} < set(printed.splitlines())

    (folder / "one").write_text(printed.splitlines()[1] + "\n")  # of a single tensor
    assert command("hash", "crafted.gguf", "-c", "one").count("Not Found") == 8
    with read("crafted.gguf") as file:
        changed = dict(file.tensors) | {"h": np.zeros(3, np.float32)}
        del changed["c"]
        write("crafted.gguf", file.metadata, changed)
    part = "expected the digests of manifest, found others for crafted.gguf:h, crafted.gguf, crafted.gguf:c$"
    refused(part, "hash", "crafted.gguf", "-c", "manifest")
    capsys.readouterr()
    refused(part, "hash", "crafted.gguf", "-c", "manifest", "--json")
    assert json.loads(capsys.readouterr().out)["check"]["ok"] is False
    refused("found others for crafted.gguf$", "hash", "crafted.gguf", "-c", "manifest", "--no-per-tensor")


def test_hash_of_a_shard_alone(command, folder):
    whole = command("hash", "crafted.gguf").splitlines()
    command("split", "crafted.gguf", "out", "--max-tensors", 4)
    first = "out-00001-of-00002.gguf"
    assert command("hash", first).replace(first, "crafted.gguf").splitlines() == whole
    assert command("hash", first, "--no-shards").replace(first, "crafted.gguf").splitlines()[:-1] == whole[:4]


def test_hash_refuses(refused, folder):
    (folder / "junk").write_text("nothing\n")
    refused("found 0 entries", "hash", "crafted.gguf", "-c", "junk")
    refused("cannot be read", "hash", "crafted.gguf", "-c", "absent")
    refused("No such file", "hash", "absent.gguf")
    (folder / "junk").write_text(f"sha1 {'0' * 40} crafted.gguf:a\n")
    refused("expected digests by sha256, found none", "hash", "crafted.gguf", "-c", "junk", "--sha256")
    refused("by sha1 of all tensors, found none", "hash", "crafted.gguf", "-c", "junk", "--no-layer")


def test_set_metadata_in_place(command, folder):
    with read("crafted.gguf") as file:
        before, data = dict(file.metadata.types), {name: bytes(view.data) for name, view in file.tensors.items()}
    (folder / "crafted.gguf").chmod(0o640)
    assert command("set-metadata", "crafted.gguf", "llama.block_count", "3") == "llama.block_count: u32 2 -> u32 3\n"
    assert (folder / "crafted.gguf").stat().st_mode & 0o777 == 0o640
    printed = command(
        *("set-metadata", "crafted.gguf", "--set", "general.name=a = b", "--set", "new.key=i64:-5"),
        *(
            "--set",
            "numbers=[4]",
            "--set",
            "flags=[false]",
            "--set",
            'tokens=["x", "ö"]',
            "--delete",
            "llama.rope.freq_base",
        ),
    )
    assert printed.splitlines()[-1] == "llama.rope.freq_base: f32 10000.0 -> none"
    with read("crafted.gguf") as file:
        values = dict(file.metadata)
        assert values["general.name"] == "a = b"
        assert (values["new.key"], file.metadata.types["new.key"]) == (-5, ValueType.I64)
        assert values["numbers"].tolist() == [4]
        assert values["flags"].tolist() == [False]
        assert values["tokens"] == ["x", "ö"]
        del before["llama.rope.freq_base"]
        assert dict(file.metadata.types) == before | {"new.key": ValueType.I64}  # the place of each key is kept too
        assert list(file.metadata) == [*before, "new.key"]
        assert {name: bytes(view.data) for name, view in file.tensors.items()} == data
    assert os.listdir(folder) == ["crafted.gguf"]


SET = {
    # type: (text, value)
    "u8": ("0xff", 255),
    "i16": ("-0x10", -16),
    "u64": (str(2**64 - 1), 2**64 - 1),
    "f32": ("1e-5", float(np.float32(1e-5))),
    "f64": ("inf", float("inf")),
    "bool": ("False", False),
    "str": ("u32:7", "u32:7"),
    "string": ("", ""),
    "[u8]": ("[]", []),
    "[f32]": ("[1, 2.5]", [1.0, 2.5]),
    "[str]": ('["a"]', ["a"]),
}


@pytest.mark.parametrize("kind", SET)
def test_values_of_each_type(kind, command):
    text, value = SET[kind]
    for arguments in (("--type", kind, "--", "k", text), ("--set", f"k={kind}:{text}")):
        command("set-metadata", "crafted.gguf", "-o", "out.gguf", "--force", *arguments)
        found = read("out.gguf").metadata
        assert (found["k"].tolist() if isinstance(value, list) else found["k"]) == value
        kinds = {str(k): k for k in ValueType} | {"str": ValueType.STRING}
        expected = ArrayOf(kinds[kind[1:-1]]) if kind[0] == "[" else kinds[kind]
        assert found.types["k"] == expected


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "found nothing to change"),
        (["key"], "expected a value for key, found none"),
        (["--type", "u32", "--set", "a=1"], "--type: expected KEY and VALUE"),
        (["--set", "novalue"], "--set: expected KEY=VALUE or KEY=TYPE:VALUE, found 'novalue'"),
        (["--set", "=1"], "--set: expected"),
        (["llama.block_count", "two"], "'llama.block_count': expected u32, found 'two'"),
        (["llama.block_count", "2.0"], "expected u32, found '2.0'"),
        (["llama.block_count", "1" * 5000], "expected u32, found"),
        (["llama.block_count", str(2**32)], "'llama.block_count': expected u32, found 4294967296, which does not fit"),
        (["--set", "llama.block_count=-1"], "expected u32, found -1, which does not fit"),
        (["llama.rope.freq_base", "1e39"], "expected f32, found 1e.39, which does not fit"),
        (["flag", "2", "--type", "bool"], "expected true or false, found '2'"),
        (["numbers", "1, 2"], "expected a JSON list for .i64., found '1, 2'"),
        (["numbers", "[1.5]"], "expected i64"),
        (["numbers", "[[1]]"], "expected an array of one dimension"),
        (["numbers", "[" * 100_000], "expected a JSON list"),
        (["tokens", '["\\ud800"]'], "lone surrogate"),
        (["key", "1", "--type", "u33"], "expected a type of u8, i8, .*, found 'u33'"),
        (["key", "1"], "'key': expected a type, as the file has no such key$"),
        (["llama.block_coutn", "1"], "no such key; it has 'llama.block_count'"),
        (["--delete", "lama.block_count"], "expected a key of the file to delete; it has 'llama.block_count'"),
        (["--delete", "numbers", "--set", "numbers=[1]"], "once, found it 2 times"),
        (["k" * 65536, "1", "--type", "u8"], "1 to 65535 bytes"),
        (["general.alignment", "64", "--type", "u32"], "how the tensors lie in the file; --force"),
        (["general.alignment", "33", "--type", "u32", "--force"], "a power of two"),
        (["general.alignment", "64", "--type", "u64", "--force"], "of type u32"),
        (["split.count", "2", "--type", "u16"], "which shards belong together; --force"),
        (["--delete", "general.architecture"], "no program can load the model; --force"),
        (["general.name", "x", "-o", "crafted.gguf"], "crafted.gguf: exists already; --force"),
        (["general.name", "x", "-o", "absent/o.gguf"], "No such file"),
    ],
)
def test_set_metadata_refuses(arguments, part, refused):
    refused(part, "set-metadata", "crafted.gguf", *arguments)


def test_set_metadata_can_be_forced(command, folder):
    command("set-metadata", "crafted.gguf", "general.alignment", 256, "--type", "u32", "--force")
    with read("crafted.gguf") as file:
        assert file.alignment == 256
        assert file.tensors["h"].dequantize().tolist() == [0, 1, 2]
    command("set-metadata", "crafted.gguf", "general.name", "x", "-o", "crafted.gguf", "-f")
    assert read("crafted.gguf").metadata["general.name"] == "x"


def test_set_metadata_remarks(folder, capsys):
    app(
        [
            "set-metadata",
            "crafted.gguf",
            "--set",
            "llama.block_coutn=u32:3",
            "--set",
            "general.name=bool:true",
            "--dry-run",
        ],
        standalone_mode=False,
    )
    assert capsys.readouterr().err.splitlines() == [
        "note: 'llama.block_coutn' is a new key, and the file has 'llama.block_count'",
        "note: 'general.name' was of type string and is bool now",
    ]


def test_set_metadata_keeps_everything_else(command, folder):
    for version, order in ((1, "<"), (3, ">"), (2, "<")):
        (folder / "a.gguf").write_bytes(small_file(version, order))
        command("set-metadata", "a.gguf", "value.0", "7")
        assert (folder / "a.gguf").read_bytes() != small_file(version, order)
        command("set-metadata", "a.gguf", "value.0", "1")
        assert (folder / "a.gguf").read_bytes() == small_file(version, order)
    before = (folder / "a.gguf").read_bytes()
    assert command("set-metadata", "a.gguf", "value.0", "7", "--dry-run") == "value.0: u8 1 -> u8 7\n"
    assert (folder / "a.gguf").read_bytes() == before


def test_set_metadata_of_a_split_model(command, refused, folder):
    command("split", "crafted.gguf", "out", "--max-tensors", 4)
    refused("expected the first shard", "set-metadata", "out-00002-of-00002.gguf", "a", "1", "--type", "u8")
    command("set-metadata", "out-00001-of-00002.gguf", "general.name", "new")
    with read("out-00002-of-00002.gguf") as file:
        assert (file.metadata["general.name"], len(file.tensors)) == ("new", 8)


def test_a_split_key_of_a_strange_type_is_no_shard_number(command, folder):
    write("a.gguf", {"split.no": Typed([1, 2], ArrayOf(ValueType.U8)), "a": 1}, {})
    command("set-metadata", "a.gguf", "a", "2")
    assert read("a.gguf", shards=False).metadata["a"] == 2


def test_convert_endian(command, refused, folder):
    (folder / "small.gguf").write_bytes(small_file())
    for name in ("crafted", "small"):
        assert "big-endian" in command("convert-endian", f"{name}.gguf", "big.gguf", "--force")
        assert read("big.gguf").byte_order == "big"
        refused("expected a little-endian file, found a big-endian one", "convert-endian", "big.gguf", "b.gguf", "big")
        command("convert-endian", "big.gguf", "back.gguf", "little", "--force")
        assert (folder / "back.gguf").read_bytes() == (folder / f"{name}.gguf").read_bytes()
    assert (folder / "small.gguf").read_bytes() == small_file()
    command("convert-endian", "small.gguf", "hand.gguf")
    assert (folder / "hand.gguf").read_bytes() == small_file(order=">")
    refused("exists already; --force", "convert-endian", "small.gguf", "hand.gguf")
    command("convert-endian", "small.gguf", "small.gguf", "--force")
    assert (folder / "small.gguf").read_bytes() == small_file(order=">")
    command("convert-endian", "hand.gguf", "none.gguf", "--dry-run")
    assert not (folder / "none.gguf").exists()
    with pytest.raises(typer.BadParameter):
        command("convert-endian", "hand.gguf", "none.gguf", "middle")


@pytest.mark.parametrize("content", [b"", b"GGML" * 9, small_file()[:200]])
def test_bad_files_are_refused_by_every_command(content, refused, folder):
    (folder / "bad.gguf").write_bytes(content)
    for arguments in (
        ["split", "bad.gguf", "o"],
        ["merge", "bad.gguf", "o.gguf"],
        ["hash", "bad.gguf"],
        ["set-metadata", "bad.gguf", "a", "1", "--type", "u8"],
        ["convert-endian", "bad.gguf", "o.gguf"],
    ):
        refused("bad.gguf: ", *arguments)


def test_a_file_cut_while_it_is_copied_leaves_nothing(refused, folder, monkeypatch):
    from gguf_jax.gguf import watched

    view = watched.Watched.view

    def cut(self, offset, nbytes):
        os.truncate("cut.gguf", 1000)
        return view(self, offset, nbytes)

    (folder / "cut.gguf").write_bytes((folder / "crafted.gguf").read_bytes())
    os.truncate("crafted.gguf", 0)
    monkeypatch.setattr(watched.Watched, "view", cut)
    before = (folder / "cut.gguf").read_bytes()
    for arguments in (["split", "cut.gguf", "o"], ["convert-endian", "cut.gguf", "o.gguf"], ["hash", "cut.gguf"]):
        (folder / "cut.gguf").write_bytes(before)
        with pytest.raises(GGUFJaxError, match="as when it was opened"):
            app(arguments, standalone_mode=False)
        assert sorted(os.listdir(folder)) == ["crafted.gguf", "cut.gguf"]
