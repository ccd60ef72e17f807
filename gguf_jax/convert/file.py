"""`convert_folder`: a Hugging Face folder -> a GGUF file of any file type, in one pass and bounded memory.

The folder is opened as the GGUF file that it would be (`model.open_model`), and written by what quantizes files: so a
conversion straight to Q4_K_M has the bytes of one to BF16 that is quantized afterwards, and what stops it can be gone
on from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from gguf_jax.convert.model import open_model, stored_type
from gguf_jax.quantization.file import Progress, Result, quantize_file
from gguf_jax.quantization.recipe import Options

AUTO = "AUTO"


def convert_folder(
    folder: str | os.PathLike[str],
    target: str | os.PathLike[str],
    file_type: str = "F16",
    *,
    ignore: Sequence[str] = (),
    pre: str | None = None,
    name: str | None = None,
    options: Options | None = None,
    imatrix: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    max_shard_size: int | None = None,
    allow_nonfinite: bool = False,
    resume: bool = False,
    force: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
    on_warning: Callable[[str], object] | None = None,
) -> Result:
    """Converts a model. The file is written as a whole or not at all.

    Args:
        folder: with config.json, `.safetensors` and a tokenizer.
        target: the GGUF file.
        file_type: F32, F16, BF16, Q8_0 or any other of `quantize_file`; "AUTO": the type that most weights have.
        ignore, pre, name: as `open_model` has them.
        options, imatrix, workers, max_shard_size, allow_nonfinite, resume, force, on_progress, on_warning: as
            `quantize_file` has them.

    Raises:
        GGUFJaxError: as `open_model` and `quantize_file`.
    """
    with open_model(folder, ignore=ignore, pre=pre, name=name) as file:
        chosen = stored_type(file) if file_type.upper() == AUTO else file_type
        if on_warning is not None and "tokenizer.ggml.model" not in file.metadata:
            on_warning("no tokenizer.json and no tokenizer.model: the file has no tokenizer")
        settings: dict[str, Any] = dict(imatrix=imatrix, workers=workers, max_shard_size=max_shard_size)
        return quantize_file(
            file,
            target,
            chosen,
            options=options,
            allow_nonfinite=allow_nonfinite,
            resume=resume,
            force=force,
            on_progress=on_progress,
            on_warning=on_warning,
            **settings,
        )
