"""The model that comes with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def bundled_model() -> Path:
    """Path of prose-23m in Q4_K_M: a Llama of 23 M parameters, trained on public-domain English prose."""
    return Path(str(resources.files("gguf_jax") / "data" / "prose-23m-Q4_K_M.gguf"))
