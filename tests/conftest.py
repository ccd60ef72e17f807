"""What tests share: the platform JAX runs on, and the data.

| variable | meaning |
|---|---|
| `GGUF_JAX_TEST_PLATFORM` | JAX platform to test on; `cpu` unless set |
| `GGUF_JAX_SHARED` | folder of test data too big to commit; unset or `none`: the tests that need it are skipped |
| `GGUF_JAX_REQUIRE_SHARED` | `1`: they fail instead, so that a machine meant to run them cannot pass without |
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gguf_jax.bundled import bundled_model  # imports no JAX

# JAX reads these on import, and subprocesses inherit them.
os.environ["JAX_PLATFORMS"] = os.environ.get("GGUF_JAX_TEST_PLATFORM", "cpu")
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
# A test leaves nothing in the user's cache, and none finds there what another left.
os.environ["GGUF_JAX_COMPILATION_CACHE"] = "off"

DATA = Path(__file__).resolve().parent / "data"


LONG = ("test_notebooks.py", "test_kernels.py", "test_page.py", "test_sensitivity.py", "test_bench.py", "test_cli.py")
"""Files of few tests that take long. Workers take a file at a time: one of these at the end makes others wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test data."""
    value = os.environ.get("GGUF_JAX_SHARED", "none")
    if value != "none":
        folder = Path(value).resolve()
        if not folder.is_dir():
            pytest.fail(f"GGUF_JAX_SHARED={value}: expected a folder")
        return folder
    if os.environ.get("GGUF_JAX_REQUIRE_SHARED") == "1":
        pytest.fail("GGUF_JAX_REQUIRE_SHARED=1, and GGUF_JAX_SHARED names no folder")
    pytest.skip("GGUF_JAX_SHARED names no folder of shared test data")


@pytest.fixture(scope="session")
def bundled() -> Path:
    """The model in the package."""
    return bundled_model()


@pytest.fixture(scope="session")
def golden() -> Iterator[np.lib.npyio.NpzFile]:
    """The C reference's encoders and decoders, byte for byte; an array is read when it is asked for."""
    with np.load(DATA / "quants.npz") as arrays:
        yield arrays
