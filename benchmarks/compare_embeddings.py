"""Embeddings of small random models of every encoder architecture, and of a decoder, by llama.cpp and here.

    python benchmarks/compare_embeddings.py PEER_BIN [NAME ...]

PEER_BIN is a folder with llama.cpp's programs, of which llama-server is asked. Models are those of
`tests/models/encoder_families.py`, in F32; texts are token ids, so that tokenizers have no part in it. llama.cpp's gelu
is a table of half-precision numbers, and an approximation by a hyperbolic tangent where BERT has the exact one, which
shows in the models that use it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import gguf_jax as gj
from gguf_jax.embeddings import Pooling

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.models.encoder_families import ENCODERS, small_encoder
from tests.models.families import FAMILIES
from tests.support import small_model
from tests.tokenizers.vocabularies import metadata

DECODER = "qwen3"
POOLINGS: tuple[Pooling, ...] = ("mean", "cls", "last")
LENGTHS = (3, 17, 39, 29)


def written(name: str, path: str) -> None:
    """A random model as a file, with a tiny vocabulary of its kind."""
    if name == DECODER:
        family, vocabulary = FAMILIES[name], metadata("tiny_bpe", pre="gpt-2")
        config = family.make(vocab_size=len(vocabulary["tokenizer.ggml.tokens"]))
        model: Any = small_model(**vars(config))
    else:
        family = ENCODERS[name]
        vocabulary = metadata("tiny_t5" if family.architecture == "t5encoder" else "tiny_bert")
        vocabulary["tokenizer.ggml.token_type_count"] = 2
        config = family.make(vocab_size=len(vocabulary["tokenizer.ggml.tokens"]))
        model = small_encoder(config)
    gj.save(model, path, dict(family.metadata(config)) | vocabulary)


@contextmanager
def server(peer: Path, path: str, pooling: str) -> Iterator[str]:
    """The address of a llama-server with this model, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(peer / "llama-server"), "-m", path, "--embedding", "--pooling", pooling, "--port", str(port)]
    command += ["-c", "512", "-ub", "512", "-b", "512", "-np", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off"]
    environment = os.environ | {"LD_LIBRARY_PATH": str(peer)}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            for _ in range(300):
                if process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"llama-server: {log.read().strip().splitlines()[-1]}")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def of_peer(address: str, ids: list[int]) -> np.ndarray:
    body = json.dumps({"content": ids, "embd_normalize": -1}).encode()
    request = urllib.request.Request(f"{address}/embedding", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return np.array(json.load(answer)[0]["embedding"], np.float64)[0]
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"llama-server: {error.read().decode()}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    print("| model | pooling | smallest cosine | largest difference | largest number | relative |")
    print("|---|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names or (*ENCODERS, DECODER):
            path = f"{folder}/model.gguf"
            written(name, path)
            model = gj.load(path)
            random = np.random.default_rng(0)
            texts = [random.integers(5, model.config.vocab_size, n).tolist() for n in LENGTHS]
            scored: tuple[Pooling, ...] = ("rank",) if model.head is not None and model.config.labels else ()
            for pooling in (*POOLINGS, *scored):
                ours = np.asarray(gj.embed(model, texts, pooling=pooling, normalize=False), np.float64)
                try:
                    with server(arguments.peer, path, pooling) as address:
                        theirs = np.stack([of_peer(address, text)[: ours.shape[1]] for text in texts])
                except (RuntimeError, OSError) as error:
                    print(f"| {name} | {pooling} | {error} |", flush=True)
                    continue
                cosines = (ours * theirs).sum(-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(theirs, axis=-1)
                worst, size = np.abs(ours - theirs).max(), np.abs(ours).max()
                row = f"{cosines.min():.7f} | {worst:.2e} | {size:.3g} | {worst / size:.1e}"
                print(f"| {name} | {pooling} | {row} |", flush=True)


if __name__ == "__main__":
    main()
