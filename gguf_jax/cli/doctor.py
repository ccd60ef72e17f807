"""`gguf-jax doctor`: what is installed, what the native kernels use here, and what the machine can do."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Annotated, Any

import typer

from gguf_jax.cli import options, output
from gguf_jax.errors import GGUFJaxError

PACKAGES = ("gguf_jax", "jax", "jaxlib", "flax", "numpy", "ml_dtypes", "tokenizers")

VARIABLES = ("GGUF_JAX_", "JAX_", "XLA_", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES")
"""Beginnings of what is shown of the environment; the rest may be secret."""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure memory bandwidth and peaks (two seconds).")
    ] = True,
    debug: options.Debug = False,
) -> None:
    """Show versions, devices, native kernels, and what this machine can do at most."""
    found = examine(measure=measure)
    if as_json:
        output.write_json(found, indent=2)
    else:
        output.write("".join(f"{line}\n" for line in lines(found)))


def examine(*, measure: bool) -> dict[str, Any]:
    """All that `doctor` shows. What is wrong stands in its place as a sentence: that is what one looks for here.

    Returns:
        versions: of packages and Python, None for what is not installed.
        machine: system, architecture, CPUs that the process may use.
        devices: JAX's, or `devices_error`.
        native: `library` (its file), and either `error` or level, levels, cpu_features, threads, ffi_version.
        limits: read_bandwidth in bytes a second, peaks in operations a second by kind; None if not measured.
        compilation_cache: `folder` and `max_bytes`, or None if there is none, or `error`.
        environment: the variables that are set, of those that matter.
    """
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "architecture": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
        **_devices(),
        "native": _native(),
        "limits": _limits() if measure else None,
        "compilation_cache": _compilation_cache(),
        "environment": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(VARIABLES)},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _native() -> dict[str, Any]:
    from gguf_jax.ops.native.library import library, path

    found: dict[str, Any] = {"library": str(path())}
    try:
        loaded = library()
    except GGUFJaxError as error:
        return found | {"error": str(error)}
    ffi = loaded.gguf_jax_ffi_version()
    return found | {
        "error": None,
        "level": loaded.gguf_jax_level().decode(),
        "levels": loaded.gguf_jax_levels().decode().split(),
        "cpu_features": loaded.gguf_jax_cpu_features().decode().split(),
        "threads": loaded.gguf_jax_threads(),
        "ffi_version": f"{ffi // 1000}.{ffi % 1000}",
    }


def _devices() -> dict[str, Any]:
    import jax

    try:
        devices = [{"platform": d.platform, "kind": d.device_kind, "id": d.id} for d in jax.devices()]
    except RuntimeError as error:
        return {"devices": [], "devices_error": str(error).splitlines()[0]}
    return {"devices": devices, "devices_error": None}


def _limits() -> dict[str, Any] | None:
    from gguf_jax.bench.limits import measure

    try:
        found = measure()
    except (GGUFJaxError, RuntimeError):  # no device, or a variable that means nothing: said elsewhere
        return None
    return {"read_bandwidth": found.bandwidth, "peaks": dict(found.peaks), "source": found.source}


def _compilation_cache() -> dict[str, Any]:
    from gguf_jax.generation import compilation_cache

    try:
        compilation_cache.enable()
    except GGUFJaxError as error:
        return {"folder": None, "max_bytes": None, "error": str(error)}
    setting = compilation_cache.setting
    folder = setting("compilation_cache_dir") if setting("enable_compilation_cache") else None
    return {"folder": folder, "max_bytes": setting("compilation_cache_max_size") if folder else None, "error": None}


def lines(found: dict[str, Any]) -> list[str]:
    from gguf_jax.gguf.text import printable

    native, limits, cache, machine = (found[part] for part in ("native", "limits", "compilation_cache", "machine"))
    rows = [(name, version or "not installed") for name, version in found["versions"].items()]
    rows += [("machine", f"{machine['system']}, {machine['architecture']}, {machine['cpus']} CPUs")]
    rows += [("device", f"{d['platform']} {d['id']}: {d['kind']}") for d in found["devices"]]
    rows += [("device", f"none: {found['devices_error']}")] if found["devices_error"] else []
    if native["error"]:
        rows += [("kernels", f"none: {native['error']}")]
    else:
        rows += [
            ("kernels", native["library"]),
            ("level", f"{native['level']} (of {', '.join(native['levels'])})"),
            ("features", " ".join(native["cpu_features"])),
            ("threads", str(native["threads"])),
        ]
    if limits:
        rows += [("bandwidth", f"{limits['read_bandwidth'] / 1e9:.1f} GB/s read")]
        rows += [(f"peak {kind}", f"{peak / 1e9:,.0f} Gop/s") for kind, peak in limits["peaks"].items()]
    rows += [("compiled", cache["error"] or cache["folder"] or "not kept between runs")]
    rows += [(name, value) for name, value in found["environment"].items()]
    width = max(len(name) for name, _ in rows)
    return [printable(f"{name:{width}}  {value}") for name, value in rows]
