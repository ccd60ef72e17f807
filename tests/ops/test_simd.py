"""Exact: the operations of each instruction set (`gguf_jax/ops/native/src/simd_*.h`) do what the portable ones do.

The test is a C++ program, compiled for each of them; `native/simd.cpp` says what it compares.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gguf_jax.ops import native
from tools import build_native

ARM_COMPILER = "aarch64-linux-gnu-g++"
ARM = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")


def build(folder: Path, level: str, *options: str) -> Path:
    program = f"simd_{level}"
    try:
        build_native.build(folder, targets=[program], options=list(options))
    except build_native.NotBuilt as reason:
        if str(reason).startswith("there is no"):
            pytest.skip(str(reason))
        raise
    return folder / program


def check(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "0 failures\n", "")


@pytest.mark.parametrize("level", ["avx2", "avx512", "amx", "neon"])
def test_operations_are_those_of_the_portable_level(level, tmp_path_factory):
    if not native.available():
        pytest.skip("native kernels cannot be used here")
    if level not in native.library().gguf_jax_levels().decode().split():
        pytest.skip(f"this CPU, or the compiler, lacks {level}")
    check(str(build(tmp_path_factory.getbasetemp() / "simd", level)))


@pytest.mark.skipif(sys.platform != "linux", reason="qemu-user is of Linux")
def test_operations_of_neon_emulated(tmp_path):
    for tool in (ARM_COMPILER, ARM[0]):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}")
    system = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={ARM_COMPILER}")
    check(*ARM, str(build(tmp_path, "neon", *system)))
