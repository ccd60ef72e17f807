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
