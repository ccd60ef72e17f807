"""Fixtures of the tests that quantize files."""

from pathlib import Path

import pytest

from gguf_jax.quantization import file
from tests.quantization.models import encoded, make


@pytest.fixture
def numpy_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are quantized by the formats in NumPy: no library, nothing to compile."""
    monkeypatch.setattr(file, "encode", encoded)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small file."""
    return make(tmp_path / "in.gguf")
