"""`from_pretrained`: the model of a Hugging Face folder or repository, as `load` gives that of a file."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from typing import Any

from filelock import FileLock

from gguf_jax.api import load
from gguf_jax.convert.file import convert_folder
from gguf_jax.convert.model import open_model
from gguf_jax.convert.source import CONFIG
from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import printable, shown
from gguf_jax.models import Decoder

FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "README.md")
"""Of a repository; code and weights in other forms stay there."""

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def from_pretrained(
    name: str | os.PathLike[str],
    *,
    type: str | None = None,
    revision: str | None = None,
    ignore: Sequence[str] = (),
    pre: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Decoder:
    """The model of a Hugging Face folder, with `.config`, `.metadata` and `.tokenizer`.

    Args:
        name: a folder with config.json, or a repository `user/name`, which is downloaded once.
        type: a file type such as "Q4_K_M": converted once, into `cache`. Default: the weights as they are stored,
            without a file in between.
        revision: of a repository: a branch, tag or commit.
        ignore, pre: as `gguf_jax.convert.open_model` has them.
        cache: a folder; default: `gguf_jax/converted` in the user's cache folder.
        options: as `gguf_jax.load` has them.

    Raises:
        GGUFJaxError: there is no such folder or repository, or it cannot be downloaded.
        GGUFError: as `open_model` and `load`.
    """
    folder = folder_of(name, revision)
    if type is None:
        with open_model(folder, ignore=ignore, pre=pre) as file:
            return load(file, **options)
    place = default_cache() if cache is None else os.fsdecode(cache)
    target = os.path.join(place, f"{fingerprint(folder, type, ignore, pre)}.gguf")
    try:
        os.makedirs(place, exist_ok=True)
    except OSError as error:
        raise GGUFJaxError(f"{printable(place)}: cannot be made: {printable(error.strerror or str(error))}") from None
    with FileLock(f"{target}.lock"):
        if not os.path.exists(target):
            convert_folder(folder, target, type, ignore=ignore, pre=pre, force=True)
    return load(target, **options)


def folder_of(name: str | os.PathLike[str], revision: str | None = None) -> str:
    """The folder itself, or that of a repository in the cache of huggingface_hub, downloaded if it is not there.

    Raises:
        GGUFJaxError: it is neither, or cannot be downloaded.
    """
    name = os.fsdecode(name)
    if os.path.isdir(name):
        return name
    if not REPOSITORY.fullmatch(name):
        raise GGUFJaxError(f"{printable(name)}: expected a folder with {CONFIG}, or user/name, found neither")
    import huggingface_hub

    try:
        return huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES))
    except Exception as error:  # of the network and of the hub, of many classes
        line = str(error).strip().splitlines()[0] if str(error).strip() else error.__class__.__name__
        raise GGUFJaxError(f"{printable(name)}: cannot be downloaded: {shown(line, 200)}") from None


def default_cache() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "gguf_jax", "converted")


def fingerprint(folder: str, type: str, ignore: Sequence[str], pre: str | None) -> str:
    """What a conversion is known by: its files' names, sizes and times, and what is asked of it."""
    facts = [type.upper(), *ignore, str(pre)]
    for name in sorted(os.listdir(folder)):
        found = os.stat(os.path.join(folder, name))
        facts.append(f"{name} {found.st_size} {found.st_mtime_ns}")
    text = "\n".join([os.path.realpath(folder), *facts])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
