"""How the native library is found, refused and required. Each case is a process, since a library is loaded once."""

import shutil
import subprocess
import sys

import pytest

from gguf_jax.errors import GGUFJaxError, Unsupported
from gguf_jax.ops import native
from gguf_jax.ops.implementation import run
from gguf_jax.ops.native.library import FILE, _cpu_share, path

needed = pytest.mark.skipif(not native.available(), reason="native kernels cannot be used here")


def outcome(monkeypatch, **variables):
    """`level threads` of the library, or the class and message of the error."""
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    code = """
from gguf_jax.ops.native import library
try:
    found = library()
    print(found.gguf_jax_level().decode(), found.gguf_jax_threads())
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_importing_an_op_loads_nothing():
    code = "import sys, gguf_jax.ops; assert sys.modules['gguf_jax.ops.native.library']._loaded is None"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@needed
@pytest.mark.parametrize("level", ["portable", "avx2", "avx512", "amx", "neon", "mmx"])
def test_a_level_is_used_or_refused_by_name(monkeypatch, level):
    got = outcome(monkeypatch, GGUF_JAX_NATIVE_LEVEL=level, GGUF_JAX_NATIVE="auto")
    if level in native.library().gguf_jax_levels().decode().split():
        assert got.split()[0] == level
    else:
        assert got.startswith(f"Unsupported native kernels: GGUF_JAX_NATIVE_LEVEL={level}: ")


@needed
def test_threads(monkeypatch):
    assert outcome(monkeypatch, GGUF_JAX_THREADS=3).split()[1] == "3"


@needed
@pytest.mark.parametrize("value", ["0", "-1", "many", "99999"])
def test_a_number_of_threads_that_is_none(monkeypatch, value):
    assert outcome(monkeypatch, GGUF_JAX_THREADS=value).startswith("GGUFJaxError GGUF_JAX_THREADS: expected a number")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("off", "Unsupported native kernels: switched off by GGUF_JAX_NATIVE=off"),
        ("auto", "Unsupported native kernels: not built, there is no /nowhere.so"),
        ("require", "GGUFJaxError GGUF_JAX_NATIVE=require: native kernels: not built, there is no /nowhere.so"),
        ("on", "GGUFJaxError GGUF_JAX_NATIVE: expected auto, off or require, found 'on'"),
    ],
)
def test_modes(monkeypatch, mode, expected):
    assert outcome(monkeypatch, GGUF_JAX_NATIVE=mode, GGUF_JAX_NATIVE_LIBRARY="/nowhere.so").startswith(expected)


def test_what_is_no_library_is_refused(monkeypatch, tmp_path):
    (tmp_path / "text.so").write_text("no library")
    got = outcome(monkeypatch, GGUF_JAX_NATIVE="auto", GGUF_JAX_NATIVE_LIBRARY=tmp_path / "text.so")
    assert got.startswith(f"Unsupported native kernels: cannot load {tmp_path}/text.so")


@needed
def test_a_library_can_be_named(monkeypatch, tmp_path):
    copy = shutil.copy2(path(), tmp_path / "copy.so")
    assert outcome(monkeypatch, GGUF_JAX_NATIVE="require", GGUF_JAX_NATIVE_LIBRARY=copy)[0].islower()


def test_a_required_library_is_not_done_without(monkeypatch):
    def refuses():
        raise Unsupported("native kernels: not built")

    monkeypatch.setenv("GGUF_JAX_NATIVE", "nonsense")
    with pytest.raises(GGUFJaxError, match="GGUF_JAX_NATIVE") as error:
        run("op", {"native": native.library, "xla": lambda: "silently"}, None)
    assert not isinstance(error.value, Unsupported)
    assert run("op", {"native": refuses, "xla": lambda: "other"}, None) == "other"


@needed
def test_a_target_is_registered_once_and_one_that_is_missing_said(monkeypatch):
    monkeypatch.setenv("GGUF_JAX_NATIVE", "auto")
    target = native.ffi_target("gguf_jax_linear")
    assert target == native.ffi_target("gguf_jax_linear") == "gguf_jax_linear"
    with pytest.raises(Unsupported, match="gguf_jax_nothing"):
        native.ffi_target("gguf_jax_nothing")


def test_it_lies_beside_its_module():
    assert FILE.parent.name == "native"


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "nonsense"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "0\n"}, None),
    ],
)
def test_a_container_s_share_of_the_cpus(tmp_path, files, share):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _cpu_share(tmp_path) == share
