"""Files of the Hugging Face Hub, by patterns of their names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.gguf.text import listed, printable, shown


def download(
    repo_id: str, filename: str | None, additional: Sequence[str], local_dir: str | None, cache_dir: str | None
) -> str:
    """The path of a repository's file; `additional` ones are there as well.

    Raises:
        GGUFError: no file of the repository has such a name, or several have.
        GGUFJaxError: the repository cannot be read.
    """
    import huggingface_hub

    if filename is None:
        raise GGUFError("filename: expected a name or a pattern, found None")
    try:
        files = huggingface_hub.HfApi().list_repo_files(repo_id)
        wanted = [one_of(files, pattern, repo_id) for pattern in (filename, *additional)]
        places: dict[str, Any] = {"local_dir": local_dir, "cache_dir": cache_dir}
        paths = [huggingface_hub.hf_hub_download(repo_id, name, **places) for name in wanted]
    except GGUFJaxError:
        raise
    except Exception as error:  # of the network and of the hub, of many classes
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GGUFJaxError(f"{printable(repo_id)}: cannot be downloaded: {shown(line, 200)}") from None
    return paths[0]


def one_of(files: Sequence[str], pattern: str, repo_id: str) -> str:
    """The one file that a pattern means; of a split model's shards the first."""
    found = [name for name in files if fnmatch(name, pattern)]
    if len(found) != 1:
        what = listed(sorted(found or files)) or "no files"
        expected = f"one file that matches {shown(pattern)}"
        raise GGUFError(f"{printable(repo_id)}: expected {expected}, found {len(found)}: {what}")
    return found[0]
