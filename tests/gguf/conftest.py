"""A file with the given bytes."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def stored(tmp_path) -> Callable[[bytes], Path]:
    def stored(content: bytes) -> Path:
        path = tmp_path / "file.gguf"
        path.write_bytes(content)
        return path

    return stored
