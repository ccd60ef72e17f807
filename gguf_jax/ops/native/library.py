"""Finds and loads the native library, once, when an op first asks for it.

| variable | meaning |
|---|---|
| `GGUF_JAX_NATIVE` | `auto` (default): used where it is there; `off`: never; `require`: an error if it cannot be used |
| `GGUF_JAX_NATIVE_LEVEL` | a lower instruction set than the best: `portable`, `avx2`, `avx512`, `amx` or `neon` |
| `GGUF_JAX_NATIVE_LIBRARY` | another library, for development |
| `GGUF_JAX_THREADS` | threads that kernels run on; default: the CPUs that the process may use, or its share of them |
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gguf_jax.errors import GGUFJaxError, Unsupported
from gguf_jax.ops.native.codebooks import hand_over

FILE = Path(__file__).resolve().parent / "gguf_jax_kernels.so"
"""Where builds and installs put it."""

MOST_THREADS = 4096

_lock = threading.RLock()
_loaded: ctypes.CDLL | None = None
_targets: set[str] = set()


def library() -> ctypes.CDLL:
    """The loaded library.

    Raises:
        Unsupported: it is switched off, was not built, or cannot be used on this machine; the message says which.
        GGUFJaxError: the same, but GGUF_JAX_NATIVE=require; or a variable has a value that means nothing.
    """
    global _loaded
    with _required():
        if _mode() == "off":
            raise Unsupported("native kernels: switched off by GGUF_JAX_NATIVE=off")
        with _lock:
            if _loaded is None:
                _loaded = _load(path())
            return _loaded


def available() -> bool:
    """Whether native kernels can be used here.

    Raises:
        GGUFJaxError: see `library`.
    """
    try:
        library()
    except Unsupported:
        return False
    return True


def ffi_target(symbol: str) -> str:
    """Make the library's handler `symbol` known to JAX, once; the name that `jax.ffi.ffi_call` takes.

    Raises:
        Unsupported, GGUFJaxError: see `library`.
    """
    handlers = library()
    with _lock, _required():
        if symbol not in _targets:
            import jax.ffi

            try:
                handler = jax.ffi.pycapsule(getattr(handlers, symbol))
            except AttributeError as error:
                raise Unsupported(f"native kernels: {error}; `make native` builds the library anew") from None
            jax.ffi.register_ffi_target(symbol, handler, platform="cpu")
            _targets.add(symbol)
    return symbol


def path() -> Path:
    """Where the library is looked for."""
    named = os.environ.get("GGUF_JAX_NATIVE_LIBRARY")
    return Path(named) if named else FILE


def _mode() -> str:
    mode = os.environ.get("GGUF_JAX_NATIVE") or "auto"
    if mode not in ("auto", "off", "require"):
        raise GGUFJaxError(f"GGUF_JAX_NATIVE: expected auto, off or require, found {mode!r}")
    return mode


@contextmanager
def _required() -> Iterator[None]:
    """Within, what is refused is an error if the kernels are required: `Unsupported` would be done without."""
    try:
        yield
    except Unsupported as refusal:
        if _mode() != "require":
            raise
        raise GGUFJaxError(f"GGUF_JAX_NATIVE=require: {refusal}") from None


def _load(file: Path) -> ctypes.CDLL:
    if not file.is_file():
        raise Unsupported(
            f"native kernels: not built, there is no {file} "
            "(`make native` builds it, as does pip where there is a C++ compiler)"
        )
    threads = _threads()
    try:
        found = ctypes.CDLL(str(file))
        _declare(found)
    except (OSError, AttributeError) as error:
        raise Unsupported(f"native kernels: cannot load {file}: {error}") from None
    _check_ffi(file, found.gguf_jax_ffi_version())
    if error := found.gguf_jax_level_error():
        raise Unsupported(f"native kernels: {error.decode()}")
    hand_over(found)
    if threads is not None:
        found.gguf_jax_set_threads(threads)
    return found


def _check_ffi(file: Path, built: int) -> None:
    """XLA refuses a handler compiled for a newer FFI than its own only when it starts, and then has no CPU at all."""
    spec = importlib.util.find_spec("jaxlib")  # not imported: this module is, where JAX is not
    for place in (spec and spec.submodule_search_locations) or []:
        header = Path(place) / "include/xla/ffi/api/c_api.h"
        if header.is_file():
            found = re.findall(r"#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", header.read_text("utf-8"))
            major, minor = map(int, found)
            if built // 1000 != major or built % 1000 > minor:
                raise Unsupported(
                    f"native kernels: {file} was built for XLA's FFI {built // 1000}.{built % 1000}, the installed "
                    f"jaxlib has {major}.{minor} (`make native` builds it anew)"
                )


def usable_cpus() -> int:
    """CPUs that work of this process may keep busy: what GGUF_JAX_THREADS says, else those that it may run on, or a
    container's share of them; GGUFJaxError where the variable means nothing."""
    threads = _threads()
    if threads is not None:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int | None:
    """None: as many as the process may run on, which the library finds out by itself."""
    value = os.environ.get("GGUF_JAX_THREADS")
    if not value:
        share, allowed = _cpu_share(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        return None if share is None or share >= allowed else max(1, math.ceil(share))
    if not value.isdecimal() or not 1 <= int(value) <= MOST_THREADS:
        raise GGUFJaxError(f"GGUF_JAX_THREADS: expected a number from 1 to {MOST_THREADS}, found {value!r}")
    return int(value)


def _cpu_share(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs' worth of time that a container may use (a quota of its control group, version 2 or 1); None: no limit.
    Threads beyond it would be stopped all together when it is used up."""
    with suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text("ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (int((root / "cpu" / f"cpu.cfs_{name}_us").read_text("ascii")) for name in ("quota", "period"))
        return quota / period if quota > 0 else None
    return None


def _declare(found: ctypes.CDLL) -> None:
    """What `src/cpu.cpp` and `src/limits.cpp` export."""
    for name in ("gguf_jax_level_error", "gguf_jax_level", "gguf_jax_levels", "gguf_jax_cpu_features"):
        getattr(found, name).restype = ctypes.c_char_p
        getattr(found, name).argtypes = []
    found.gguf_jax_ffi_version.restype = ctypes.c_int
    found.gguf_jax_ffi_version.argtypes = []
    found.gguf_jax_threads.restype = ctypes.c_int
    found.gguf_jax_threads.argtypes = []
    found.gguf_jax_set_threads.restype = None
    found.gguf_jax_set_threads.argtypes = [ctypes.c_int]
    found.gguf_jax_read_bandwidth.restype = ctypes.c_double
    found.gguf_jax_read_bandwidth.argtypes = [ctypes.c_double, ctypes.c_double]  # bytes, seconds
    found.gguf_jax_peak.restype = ctypes.c_double
    found.gguf_jax_peak.argtypes = [ctypes.c_char_p, ctypes.c_double]  # kind, seconds
