"""Makes tests/data/hf_encoders.json and hf_encoder_states.npz: small encoders of transformers, and what it computes.

Needs the extra `peer` (transformers, torch). Weights are not stored: they follow from their names
(`tests/convert/weights.py`).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
from safetensors.numpy import load_file, save_file  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.convert.weights import PROMPT, tokens, weight  # noqa: E402

DATA = ROOT / "tests" / "data"
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
VOCAB = 53
BERT: dict[str, Any] = dict(
    vocab_size=VOCAB,
    hidden_size=36,
    intermediate_size=50,
    num_hidden_layers=2,
    num_attention_heads=6,
    max_position_embeddings=70,
    type_vocab_size=2,
)
T5: dict[str, Any] = dict(
    vocab_size=VOCAB, d_model=36, d_kv=10, d_ff=50, num_layers=2, num_heads=6, relative_attention_num_buckets=16
)

# Name -> class of the model, of its configuration, and what that is given.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertModel", "BertConfig", BERT),
    "bert, scores": ("BertForSequenceClassification", "BertConfig", BERT | dict(num_labels=3)),
    "xlm-roberta": ("XLMRobertaModel", "XLMRobertaConfig", BERT | dict(type_vocab_size=1)),
    "roberta, scores": ("RobertaForSequenceClassification", "RobertaConfig", BERT | dict(num_labels=1)),
    "nomic-bert": ("NomicBertModel", "NomicBertConfig", BERT),
    "t5": ("T5EncoderModel", "T5Config", T5),
    "t5, gated": ("T5EncoderModel", "T5Config", T5 | dict(feed_forward_proj="gated-gelu")),
}


def made(name: str) -> tuple[dict[str, Any], np.ndarray]:
    """What is stored of a case: its config.json and shapes, and states `[T, E]` or scores `[labels]`, of a text whose
    second half is of the second type."""
    kind, config_kind, values = CASES[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config_kind)(**values))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = json.loads((Path(folder) / "config.json").read_text())
        file = Path(folder) / "model.safetensors"
        shapes = {key: list(value.shape) for key, value in load_file(file).items()}
        save_file({key: weight(key, shape) for key, shape in shapes.items()}, file, {"format": "pt"})
        model = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    # RoBERTa counts no positions at padding, whose id is 0 or 1
    ids = torch.from_numpy(np.maximum(tokens(PROMPT, VOCAB), 2).astype(np.int64))[None]
    second = (torch.arange(PROMPT) >= PROMPT // 2).long()[None] * (values.get("type_vocab_size", 1) - 1)
    types = {} if name.startswith("t5") else {"token_type_ids": second}
    with torch.no_grad():
        found = model(ids, **types)
    states = found.logits[0] if "scores" in name else found.last_hidden_state[0, ::9]
    return {"config": saved, "shapes": shapes}, states.numpy().astype(np.float32)


def main() -> None:
    models, arrays = {}, {}
    for name in CASES:
        models[name], arrays[name] = made(name)
        print(name, arrays[name].shape, float(np.abs(arrays[name]).max()))
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in models.items())
    (DATA / "hf_encoders.json").write_text("{\n" + lines + "\n}\n")
    np.savez_compressed(DATA / "hf_encoder_states.npz", allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
