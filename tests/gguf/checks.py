"""What the tests here ask of a file and of a message."""

from pathlib import Path

import numpy as np
import pytest

from gguf_jax.errors import GGUFError
from gguf_jax.gguf import read


def touch(path: Path) -> None:
    """Reads all of a file: every value, every tensor."""
    with read(path) as file:
        for key, value in file.metadata.items():
            assert file.metadata.types[key] is not None
            if hasattr(value, "tolist"):
                value.tolist()
        for view in file.tensors.values():
            assert view.blocks().nbytes == view.nbytes == len(view.data)
            with np.errstate(all="ignore"):
                assert view.dequantize().shape == view.shape


def one_line(error: pytest.ExceptionInfo[GGUFError]) -> str:
    message = str(error.value)
    assert message.isprintable(), message
    assert len(message) < 600
    return message
