"""What a row says of the program and the machine that measured it."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from experiments.reader import ROOT

PACKAGES = ("jax", "flax", "numpy")


@cache
def described() -> dict[str, Any]:
    """Versions and machine, without names of hosts, users or folders."""
    from gguf_jax.bench.model import cpu_name, gpu_name
    from gguf_jax.ops.native.library import usable_cpus

    return {
        "gguf_jax": code_version(),
        "commit": commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "machine": f"{gpu_name() or cpu_name()}, {usable_cpus()} CPUs, kernels: {kernels()}",
    }


@cache
def code_version() -> str:
    """Of the package. A result is known by this and not by a commit: from one commit to the next nothing that is
    measured here changes but by an error, which the tests are for; `run --again` measures anew."""
    return _version("gguf_jax") or "0+unknown"


@cache
def kernels() -> str:
    """The level of the native kernels, which `precision="fast"` depends on, or xla."""
    from gguf_jax.errors import Unsupported
    from gguf_jax.ops.native.library import library

    try:
        return library().gguf_jax_level().decode()
    except Unsupported:
        return "xla"


@cache
def commit() -> str | None:
    """The commit that is checked out, with a + where the code differs from it; None outside of a repository."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "gguf_jax", "experiments")
    return f"{head}+" if changed else head


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", os.fspath(ROOT), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
