"""A small random model of every architecture in llama.cpp and here: the logits of a text.

    python benchmarks/compare_families.py PEER_BIN [NAME ...]

PEER_BIN is a folder with llama.cpp's programs. Models are those of `tests/models/families.py`, in F32 and with the
bundled model's vocabulary. Logits are compared as log-probabilities, as llama-perplexity writes them to a file: to
steps of `range / 65535`, which stand beside the differences. llama.cpp keeps keys and values as F32 here and uses no
flash attention. Its gelu is a table of half-precision numbers, which shows in the models that use it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import gguf_jax as gj
from gguf_jax.evals.logits_file import LogitsFile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.models.families import FAMILIES, Family
from tests.models.mamba_families import MAMBAS, MambaFamily, small_mamba
from tests.support import small_model

EVERY: dict[str, Family | MambaFamily] = FAMILIES | MAMBAS

CTX_SIZE = 128
TEXT = "It was a cold evening in November, and the old house stood as it had stood for a hundred years. " * 24


def written(family: Family | MambaFamily, path: str, bundled: gj.GGUFFile) -> Any:
    """The family's model with the bundled vocabulary, as a file and as it is read back."""
    tokens = len(bundled.metadata["tokenizer.ggml.tokens"])
    config: Any = family.make(vocab_size=tokens)
    model: Any = small_mamba(config) if isinstance(family, MambaFamily) else small_model(**vars(config))
    metadata: dict[str, Any] = dict(family.metadata(config))
    metadata |= {key: value for key, value in bundled.metadata.items() if key.startswith("tokenizer.")}
    gj.save(model, path, metadata)
    return gj.load(path)


def difference(path: str, logits: str, model: Any) -> tuple[float, float, float]:
    """The largest difference of log-probabilities, their largest size, and the coarsest step of the file."""
    worst = size = step = 0.0
    with LogitsFile(logits) as file:
        bos = model.tokenizer.bos_id if model.tokenizer.add_bos else None
        for number in range(len(file.windows)):
            tokens = file.windows.cut(number, number + 1)
            if bos is not None:
                tokens[:, 0] = bos
            ours = np.asarray(model(tokens), np.float64)[0, file.windows.first : -1]
            shifted = ours - ours.max(-1, keepdims=True)
            ours = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
            theirs = file.window(number)
            found = theirs.codes * theirs.scale[:, None].astype(np.float64) + theirs.low[:, None]
            known = theirs.codes > 0  # what lies further below is cut
            worst = max(worst, float(np.abs(ours - found)[known].max()))
            size, step = max(size, float(np.abs(ours).max())), max(step, float(theirs.scale.max()))
    return worst, size, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    environment = os.environ | {"LD_LIBRARY_PATH": str(arguments.peer)}
    print("| model | largest difference | largest log-probability | step of the file | relative |")
    print("|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder, gj.read(gj.bundled_model()) as bundled:
        text = f"{folder}/text.txt"
        Path(text).write_text(TEXT)
        for name in arguments.names or EVERY:
            path, logits = f"{folder}/model.gguf", f"{folder}/logits"
            model = written(EVERY[name], path, bundled)
            command = [
                str(arguments.peer / "llama-perplexity"),
                "-m",
                path,
                "-f",
                text,
                "-c",
                str(CTX_SIZE),
                "-b",
                "128",
            ]
            command += ["--kl-divergence-base", logits, "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--chunks", "2"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                print(f"| {name} | llama-perplexity: {done.stderr.strip().splitlines()[-1]} |")
                continue
            worst, size, step = difference(path, logits, model)
            print(f"| {name} | {worst:.2e} | {size:.3g} | {step:.2e} | {worst / size:.1e} |", flush=True)


if __name__ == "__main__":
    main()
