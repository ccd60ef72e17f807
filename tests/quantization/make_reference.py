"""What llama-quantize makes of a small model, as digests of whole files: `reference.json`.

python -m tests.quantization.make_reference LLAMA_QUANTIZE
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from gguf_jax.gguf import Typed, ValueType, read, write
from gguf_jax.gguf.split import groups_of, typed_items, write_shards
from gguf_jax.quantization.recipe import file_type_names
from tests.quantization.models import BFLOAT16, make, make_imatrix, metadata, tensors

REFERENCE = Path(__file__).resolve().parent / "reference.json"
EXPERTS, RAGGED = "blk.0.ffn_up_exps.weight", "blk.1.ffn_gate.weight"

OPTIONS = {
    "pure": ["--pure", "in.gguf", "out.gguf", "Q4_K_M"],
    "tensor types": ["--tensor-type", "ATTN_[QK]=q5_k", "--tensor-type", "ffn=iq4_nl", "in.gguf", "out.gguf", "Q3_K_M"],
    "output and embeddings": [
        *("--output-tensor-type", "q8_0", "--token-embedding-type", "bf16"),
        *("in.gguf", "out.gguf", "Q4_K_S"),
    ],
    "leave output": ["--leave-output-tensor", "in.gguf", "out.gguf", "Q5_K_M"],
    "prune": ["--prune-layers", "0", "--imatrix", "m.gguf", "in.gguf", "out.gguf", "IQ3_S"],
    "include": ["--include-weights", "attn", "--imatrix", "m.gguf", "in.gguf", "out.gguf", "Q4_0"],
    "exclude": ["--exclude-weights", "attn", "--imatrix", "m.gguf", "in.gguf", "out.gguf", "Q4_0"],
    "override": [
        *("--override-kv", "general.name=str:other", "--override-kv", "a=int:-3", "--override-kv", "b=float:0.1"),
        *("--override-kv", "c=bool:true", "in.gguf", "out.gguf", "Q8_0"),
    ],
    "keep split": ["--keep-split", "part-00001-of-00004.gguf", "out.gguf", "Q6_K"],
    "join": ["part-00001-of-00004.gguf", "out.gguf", "Q6_K"],
    "requantize": ["--allow-requantize", "q8.gguf", "out.gguf", "Q4_K_M"],
    "no requantizing": ["q8.gguf", "out.gguf", "Q4_K_M"],
    "from F32": ["f32.gguf", "out.gguf", "Q4_K_M"],
    "from BF16": ["bf16.gguf", "out.gguf", "Q4_K_M"],
    "BF16 to F16": ["bf16.gguf", "out.gguf", "F16"],
}
TYPES = [name for name in file_type_names() if name not in ("Q3_K", "Q4_K", "Q5_K")]
CASES = {
    **{name: ["in.gguf", "out.gguf", name] for name in TYPES},
    **{f"{name} imatrix": ["--imatrix", "m.gguf", "in.gguf", "out.gguf", name] for name in TYPES},
    **OPTIONS,
}
"""Arguments that both programs take."""


def make_inputs(folder: Path) -> None:
    """Small models, with experts and with rows that are no multiple of 256, and an importance matrix."""
    rng = np.random.default_rng(7)
    more = {EXPERTS: rng.standard_normal((4, 24, 256)), RAGGED: rng.standard_normal((24, 160))}
    for name, dtype in (("in", np.float16), ("f32", np.float32), ("bf16", BFLOAT16)):
        make(folder / f"{name}.gguf", dtype=dtype, extra={key: value.astype(dtype) for key, value in more.items()})
    norms = {name: value for name, value in tensors().items() if value.ndim == 1}
    with read(folder / "in.gguf") as file:
        write_shards(file, str(folder / "part"), groups_of(file.tensors, max_tensors=6))
    blocks = {key: file_of(value) for key, value in (tensors() | more).items() if value.ndim > 1}
    write(folder / "q8.gguf", metadata(), blocks | norms)
    make_imatrix(folder / "plain.gguf")
    with read(folder / "plain.gguf") as file:
        entries = {name: view.dequantize() for name, view in file.tensors.items()}
        entries[f"{EXPERTS}.in_sum2"] = np.float32(rng.uniform(0.1, 4, (4, 256)))
        entries[f"{EXPERTS}.counts"] = np.float32([[3], [5], [0], [1]])
        entries[f"{RAGGED}.in_sum2"] = np.float32(rng.uniform(0.1, 4, (1, 160)))
        entries[f"{RAGGED}.counts"] = np.float32([[2]])
        write(folder / "m.gguf", typed_items(file.metadata) | {"general.alignment": Typed(32, ValueType.U32)}, entries)


def file_of(values: np.ndarray) -> tuple[int, np.ndarray]:
    from gguf_jax.formats import GGMLType
    from tests.quantization.models import encoded

    return GGMLType.Q8_0, encoded(values, GGMLType.Q8_0)


def digests(folder: Path) -> dict[str, str]:
    """Of everything that was written; nothing where the program refused."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("out*.gguf"))}


def main() -> None:
    peer = os.path.abspath(sys.argv[1])
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder)
        inputs = hashlib.sha256(b"".join((folder / f"{n}.gguf").read_bytes() for n in ("in", "m"))).hexdigest()
        for case, arguments in CASES.items():
            done = subprocess.run([peer, *arguments], cwd=folder, capture_output=True, check=False)
            found[case] = digests(folder) if done.returncode == 0 else {}
            for path in folder.glob("out*.gguf"):
                path.unlink()
            print(case, "refused" if done.returncode else "")
    REFERENCE.write_text(json.dumps({"inputs": inputs, "outputs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
