"""Contract: any one shard stands for the model, and a set that does not fit together is refused."""

from pathlib import Path

import numpy as np
import pytest

from gguf_jax.errors import GGUFError
from gguf_jax.gguf import Typed, ValueType, read, write
from tests.gguf.checks import one_line

TENSORS = {f"blk.{i}.weight": np.arange(i, i + 8, dtype=np.float32) for i in range(5)}


def split_keys(number: int, count: int, tensors: int) -> dict[str, Typed]:
    """The types are those that llama-gguf-split writes."""
    return {
        "split.no": Typed(number, ValueType.U16),
        "split.count": Typed(count, ValueType.U16),
        "split.tensors.count": Typed(tensors, ValueType.I32),
    }


def write_shards(folder: Path, groups: list[list[int]], **changes: object) -> list[Path]:
    """One file per group of tensors; the first also has the model's metadata. `changes` go to the last one."""
    paths = []
    for number, group in enumerate(groups):
        metadata: dict[str, object] = {"general.name": "split", "n": 1} if number == 0 else {}
        metadata |= split_keys(number, len(groups), sum(map(len, groups)))
        if number == len(groups) - 1:
            metadata |= changes
        names = list(TENSORS)
        paths.append(folder / f"model-{number + 1:05d}-of-{len(groups):05d}.gguf")
        write(paths[-1], metadata, {names[i]: TENSORS[names[i]] for i in group})
    return paths


@pytest.mark.parametrize("groups", [[[0, 1], [2], [3, 4]], [[], [0, 1, 2, 3, 4]]])
def test_any_shard_opens_all(groups, tmp_path):
    paths = write_shards(tmp_path, groups)
    for path in paths:
        with read(path) as file:
            assert list(file.tensors) == list(TENSORS)
            assert all(np.array_equal(file.tensors[name].dequantize(), array) for name, array in TENSORS.items())
            assert dict(file.metadata) == {"general.name": "split", "n": 1}
            assert file.paths == tuple(map(str, paths))
            assert file.path == str(paths[0])
            assert file.size == sum(path.stat().st_size for path in paths)
            write(tmp_path / "whole.gguf", file.metadata, file.tensors)
        with read(tmp_path / "whole.gguf") as whole:
            assert len(whole.tensors) == 5


def test_one_shard_alone(tmp_path):
    path = write_shards(tmp_path, [[0, 1], [2, 3, 4]])[1]
    with read(path, shards=False) as file:
        assert list(file.tensors) == list(TENSORS)[2:]
        assert file.metadata["split.no"] == 1


def test_a_name_like_a_shard_is_just_a_name(tmp_path):
    path = tmp_path / "model-00002-of-00003.gguf"
    write(path, {}, TENSORS)
    assert len(read(path).tensors) == 5


def refused(path: Path, part: str) -> None:
    with pytest.raises(GGUFError, match=part) as error:
        read(path)
    one_line(error)


def test_a_missing_shard_is_named(tmp_path):
    paths = write_shards(tmp_path, [[0], [1], [2]])
    paths[1].unlink()
    refused(paths[2], "model-00002-of-00003.gguf.*No such file")


def test_a_bad_shard_is_named(tmp_path):
    paths = write_shards(tmp_path, [[0], [1], [2]])
    paths[2].write_bytes(b"GGML")
    refused(paths[0], "model-00003-of-00003.gguf: magic")


@pytest.mark.parametrize(
    ("key", "value"),
    [("split.no", 0), ("split.no", "1"), ("split.no", -1), ("split.count", 3), ("split.tensors.count", 4)],
)
def test_a_shard_that_does_not_fit(key, value, tmp_path):
    paths = write_shards(tmp_path, [[0, 1], [2, 3, 4]], **{key: value})
    refused(paths[0], f"00002-of-00002.gguf: {key}")


def test_a_shard_without_its_keys(tmp_path):
    paths = write_shards(tmp_path, [[0, 1], [2, 3, 4]])
    write(paths[1], {}, {"x": TENSORS["blk.0.weight"]})
    refused(paths[0], "00002-of-00002.gguf: split.no.*none")


def test_a_tensor_in_two_shards(tmp_path):
    refused(write_shards(tmp_path, [[0, 1], [1, 2]])[0], "'blk.1.weight'")


def test_a_shard_under_another_name(tmp_path):
    path = write_shards(tmp_path, [[0], [1]])[0]
    refused(path.rename(tmp_path / "renamed.gguf"), "one of 2 shards")


def test_a_count_of_shards_opens_no_more_than_exist(tmp_path):
    path = tmp_path / "model-00001-of-99999.gguf"
    write(path, split_keys(0, 60000, 1) | {"split.count": 99999}, {})
    refused(path, "00002-of-99999.gguf")
