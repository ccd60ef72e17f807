"""With GGUF_JAX_TEST_EMULATOR, the native implementations' handlers run in that program (see emulated.py)."""

import os
from collections.abc import Iterator
from functools import partial

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def emulator() -> Iterator[None]:
    command = os.environ.get("GGUF_JAX_TEST_EMULATOR")
    if not command:
        yield
        return
    from tests.ops import emulated

    runner = emulated.Runner(command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.ffi, "ffi_call", partial(emulated.ffi_call, runner))
        yield
    runner.close()


@pytest.fixture(autouse=True)
def _small_programs_are_kept() -> Iterator[None]:
    """Where CI keeps what is compiled, it runs these tests once more for each level: of a thousand programs that take a
    few hundredths of a second each."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        yield
        return
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0.0)
    yield
    jax.config.update(name, before)
