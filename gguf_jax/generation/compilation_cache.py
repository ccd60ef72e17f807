"""What XLA compiled, kept between processes: JAX's persistent compilation cache, in the user's cache folder.

`GGUF_JAX_COMPILATION_CACHE` names another folder, or is `off`. A cache that the user has set up, in `jax.config` or by
JAX_COMPILATION_CACHE_DIR, stays as it is; one that cannot be had (no home, a disk that is read-only) is done without.
"""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
import jax

from gguf_jax.errors import GGUFJaxError

MAX_BYTES = 2**30
"""The folder's size, beyond which JAX takes away what was not used for longest."""

MIN_COMPILE_SECONDS = 0.0
"""Every program is kept: a model is some large ones and dozens of small ones, a tenth of a second each."""

_LOCK = ".lockfile"
"""JAX's, in the folder."""


def enable() -> Path | None:
    """Turn the cache on for this process, unless it is on or not wanted; the folder if it is ours.

    Raises:
        GGUFJaxError: GGUF_JAX_COMPILATION_CACHE means nothing, or names a folder that cannot be written.
    """
    ours = folder()
    current = setting("compilation_cache_dir")
    if ours is None or not setting("enable_compilation_cache") or current not in (None, "", str(ours)):
        return None
    if current == str(ours):
        return ours
    try:
        ours.mkdir(mode=0o700, parents=True, exist_ok=True)
        _mend(ours)
    except (OSError, NotImplementedError) as error:
        if os.environ.get("GGUF_JAX_COMPILATION_CACHE"):
            raise GGUFJaxError(f"GGUF_JAX_COMPILATION_CACHE: {ours} cannot be written: {error}") from None
        return None
    # what the user has said about any of these stays
    _default("persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS, was=1.0)
    _default("compilation_cache_max_size", MAX_BYTES, was=-1)
    jax.config.update("jax_compilation_cache_dir", str(ours))
    return ours


def setting(name: str) -> Any:
    """JAX's `jax_<name>`, as it is now."""
    return getattr(jax.config, f"jax_{name}")


def folder() -> Path | None:
    """Where the cache is or would be; None if it is switched off, or there is no home to put it in.

    Raises:
        GGUFJaxError: GGUF_JAX_COMPILATION_CACHE is neither `off` nor a path.
    """
    said = os.environ.get("GGUF_JAX_COMPILATION_CACHE")
    if said == "off":
        return None
    if said:
        base = Path(said).expanduser()
        if not base.is_absolute():
            raise GGUFJaxError(f"GGUF_JAX_COMPILATION_CACHE: expected off or an absolute path, found {said!r}")
    elif cache := os.environ.get("XDG_CACHE_HOME"):
        base = Path(cache) / "gguf_jax" / "xla"
        if not base.is_absolute():  # as if it were not set, says the specification
            return None
    else:
        try:
            base = Path.home() / ".cache" / "gguf_jax" / "xla"
        except RuntimeError:
            return None
    return base / _machine()


def _machine() -> str:
    """A name for this kind of CPU. XLA compiles for the features of the CPU that it runs on, which JAX's key does not
    hold: what one machine left in a home that several share could be illegal instructions for the next."""
    features = platform.machine() + platform.processor()
    with suppress(OSError, UnicodeDecodeError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        features += "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return hashlib.sha256(features.encode()).hexdigest()[:12]


def _mend(ours: Path) -> None:
    """Take away entries that a process was killed while writing. JAX writes an entry in place and then its time, would
    warn of half an entry in each process from then on, and could evict nothing while a time is missing.

    Raises:
        OSError: the folder cannot be written, or its lock not be had.
    """
    with filelock.FileLock(ours / _LOCK).acquire(timeout=5):
        for entry in ours.glob("*-cache"):
            if not entry.with_name(entry.name.removesuffix("-cache") + "-atime").exists():
                entry.unlink()


def _default(name: str, value: float, *, was: float) -> None:
    if setting(name) == was and f"JAX_{name.upper()}" not in os.environ:
        jax.config.update(f"jax_{name}", value)
