"""`HFFolder`: a model as Hugging Face keeps it, its tensors mapped and its settings read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from gguf_jax.convert.safetensors import StoredTensor, read_safetensors
from gguf_jax.errors import GGUFError
from gguf_jax.gguf.text import listed, printable, shown

MAX_JSON = 1 << 28
"""Bytes of a JSON file: the largest tokenizer.json are some tens of megabytes."""

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"


def read_json(path: str, required: bool = True) -> dict[str, Any] | None:
    """The object of a JSON file; None where there is no such file and it need not be.

    Raises:
        GGUFError: the file cannot be read, is no JSON object, or larger than `MAX_JSON`.
    """
    found = _read_any_json(path, required)
    if found is not None and not isinstance(found, dict):
        raise GGUFError(f"{printable(path)}: expected a JSON object, found {type(found).__name__}")
    return found


def _read_any_json(path: str, required: bool) -> Any:
    text = read_text(path, required)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GGUFError(f"{printable(path)}: expected JSON, found {shown(str(error))}") from None


def read_text(path: str, required: bool = True) -> str | None:
    """The text of a file, or None as in `read_json`."""
    data = read_bytes(path, required)
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError as error:
        raise GGUFError(f"{printable(path)}: expected UTF-8, found {error.reason} at byte {error.start}") from None


def read_bytes(path: str, required: bool = True) -> bytes | None:
    name = printable(path)
    if not required and not os.path.lexists(path):
        return None
    try:
        if not os.path.isfile(path):
            found = "a folder or a device" if os.path.exists(path) else "no such file"
            raise GGUFError(f"{name}: expected a file, found {found}")
        with open(path, "rb") as file:
            data = file.read(MAX_JSON + 1)
    except OSError as error:
        raise GGUFError(f"{name}: cannot be read: {printable(error.strerror or str(error))}") from error
    if len(data) > MAX_JSON:
        raise GGUFError(f"{name}: expected at most {MAX_JSON} bytes, found more")
    return data


@dataclass(frozen=True, eq=False)
class HFFolder:
    """An open folder. A context manager; closing it takes nothing from arrays already made.

    Attributes:
        path: the folder.
        config: config.json.
        tensors: by name, of all its `.safetensors` files.
        paths: the files that tensors are in.
    """

    path: str
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    paths: tuple[str, ...]

    @property
    def model_id(self) -> str:
        """What the model is called: `user/name` in the cache of huggingface_hub, elsewhere the folder's name."""
        path = os.path.abspath(self.path)
        cached = re.search(r"models--([^/\\]+)--([^/\\]+)[/\\]snapshots[/\\][^/\\]+$", path)
        return f"{cached[1]}/{cached[2]}" if cached else os.path.basename(path)

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder, or None where there is none."""
        return read_json(self.file(name), required=False)

    def json_objects(self, name: str) -> list[dict[str, Any]] | None:
        """The list of objects of a JSON file, or None where there is none."""
        found = _read_any_json(self.file(name), required=False)
        if found is not None and (not isinstance(found, list) or not all(isinstance(each, dict) for each in found)):
            raise GGUFError(f"{printable(self.file(name))}: expected a JSON list of objects, found {shown(found)}")
        return found

    def text(self, name: str) -> str | None:
        return read_text(self.file(name), required=False)

    def close(self) -> None:
        for source in {id(tensor.source): tensor.source for tensor in self.tensors.values()}.values():
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_folder(path: str | os.PathLike[str]) -> HFFolder:
    """Opens a folder of config.json and `.safetensors` files: `model.safetensors`, or the shards of an index.

    Raises:
        GGUFError: there is no such folder or file, or one of them is malformed.
    """
    folder = os.fsdecode(path)
    if not os.path.isdir(folder):
        found = "a file" if os.path.exists(folder) else "no such folder"
        raise GGUFError(f"{printable(folder)}: expected a folder with {CONFIG} and .safetensors files, found {found}")
    config = read_json(os.path.join(folder, CONFIG))
    assert config is not None
    tensors: dict[str, StoredTensor] = {}
    paths = tuple(_files(folder))
    try:
        for name in paths:
            for tensor in read_safetensors(name).values():
                if tensor.name in tensors:
                    where = tensors[tensor.name].source.name
                    tensor.source.close()
                    raise GGUFError(
                        f"{printable(name)}: tensor {shown(tensor.name)}: expected it once, found it in {where} too"
                    )
                tensors[tensor.name] = tensor
        _check_index(folder, tensors)
    except BaseException:
        HFFolder(folder, config, tensors, paths).close()
        raise
    return HFFolder(folder, config, tensors, paths)


def _files(folder: str) -> Iterator[str]:
    """The files that tensors are in. Names from an index stay in the folder."""
    index = read_json(os.path.join(folder, INDEX), required=False)
    if index is None:
        single = os.path.join(folder, SINGLE)
        if os.path.exists(single):
            yield single
            return
        found = sorted(name for name in os.listdir(folder) if name.endswith((".safetensors", ".bin", ".pt", ".gguf")))
        what = listed(found) if found else "no weights"
        raise GGUFError(f"{printable(folder)}: expected {SINGLE} or {INDEX}, found {what}")
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise GGUFError(f"{printable(folder)}: {INDEX}: weight_map: expected names of files, found {shown(names)}")
    for name in sorted(set(names.values())):
        if os.path.basename(name) != name or not name.endswith(".safetensors"):
            raise GGUFError(
                f"{printable(folder)}: {INDEX}: expected names of .safetensors files beside it, found {shown(name)}"
            )
        yield os.path.join(folder, name)


def _check_index(folder: str, tensors: Mapping[str, StoredTensor]) -> None:
    index = read_json(os.path.join(folder, INDEX), required=False)
    missing = [name for name in (index or {}).get("weight_map", {}) if name not in tensors]
    if missing:
        raise GGUFError(f"{printable(folder)}: {INDEX}: expected tensors that its files hold, found {listed(missing)}")
