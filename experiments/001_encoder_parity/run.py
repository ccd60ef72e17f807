"""Are the encoders the C reference's, and what does each type cost? See README.md.

    python experiments/001_encoder_parity/run.py configs/001_encoder_parity.toml [--types Q4_K,IQ2_XS]

The vectors hold, for sets of rows, what the reference made of them with and without importance (`S/x`, `S/imatrix`,
`S/TYPE/plain`, `S/TYPE/imatrix`); the project's tests read the same file. The status is 1 if fewer blocks are equal
than the config expects.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from gguf_jax.formats import FORMATS, BlockFormat, dequantize
from gguf_jax.ops.native.library import available
from gguf_jax.quantization.encoder import encode_rows

# so that labels do not cover each other
LABELS_LEFT = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS", "TQ1_0"}
KINDS = {"plain": "without", "imatrix": "with"}


def compared(form: BlockFormat, golden: Any, source: str, kind: str, implementations: list[str]) -> dict[str, Any]:
    values = golden[f"{source}/x"]
    weights = golden[f"{source}/imatrix"]
    importance = weights if kind == "imatrix" else None
    reference = golden[f"{source}/{form.name}/{kind}"]
    row: dict[str, Any] = {"type": form.name, "bits": form.bits_per_weight, "set": source, "importance": KINDS[kind]}
    for way in implementations:
        found = encode_rows(values, form.type, importance, implementation=way)
        same = (found == reference).reshape(-1, form.bytes_per_block).all(1)
        row |= {"blocks": len(same), f"equal_{way}": int(same.sum())}
        row[f"error_{way}"] = error(dequantize(found, form), values, weights)
    row["error_reference"] = error(dequantize(reference, form), values, weights)
    return row


def error(decoded: np.ndarray, values: np.ndarray, weights: np.ndarray) -> float:
    """Importance-weighted squared error over the weighted square of the values, its root."""
    exact, found, w = (a.astype(np.float64) for a in (values, decoded, weights))
    signal = (w * exact**2).sum()
    return float(np.sqrt((w * (found - exact) ** 2).sum() / signal)) if signal else 0.0


def table(rows: list[dict[str, Any]], implementations: list[str]) -> str:
    """A line for each type and kind, all sets together."""
    lines = ["| type | bits per weight | importance | blocks | " + " | ".join(f"equal, {w}" for w in implementations)]
    lines[0] += " | weighted error, real | reference's |"
    lines.append("|---|--:|---|--:|" + "--:|" * (len(implementations) + 2))
    for name in dict.fromkeys(row["type"] for row in rows):
        for kind in KINDS.values():
            of = [row for row in rows if row["type"] == name and row["importance"] == kind]
            if not of:
                continue
            blocks = sum(row["blocks"] for row in of)
            equal = [f"{100 * sum(row[f'equal_{w}'] for row in of) / blocks:.4g} %" for w in implementations]
            real = next(row for row in of if row["set"] == "real")
            found, expected = real[f"error_{implementations[0]}"], real["error_reference"]
            cells = [name, f"{of[0]['bits']:.4g}", kind, str(blocks), *equal, f"{found:.5f}", f"{expected:.5f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], way: str, path: Path) -> None:
    matplotlib.use("Agg")
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for kind, color, marker in (("without", "tab:gray", "o"), ("with", "tab:blue", "s")):
        real = [row for row in rows if row["set"] == "real" and row["importance"] == kind]
        bits, found = [row["bits"] for row in real], [row[f"error_{way}"] for row in real]
        axes.scatter(bits, found, s=26, color=color, marker=marker, label=f"gguf_jax, {kind} importance", zorder=3)
        reference = [row["error_reference"] for row in real]
        axes.scatter(bits, reference, s=110, facecolors="none", edgecolors=color, marker=marker, label=f"ggml, {kind}")
        if kind == "with":
            for row in real:
                axes.annotate(
                    row["type"],
                    (row["bits"], row[f"error_{way}"]),
                    xytext=(-7, -3) if row["type"] in LABELS_LEFT else (7, -3),
                    ha="right" if row["type"] in LABELS_LEFT else "left",
                    textcoords="offset points",
                    fontsize=7,
                )
    axes.set_yscale("log")
    axes.set_xlabel("bits per weight")
    axes.set_ylabel("relative importance-weighted error")
    axes.set_title("Rows of a real model: the error of every type, ours inside the reference's ring")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, metavar="CONFIG.toml")
    parser.add_argument("--types", help="names, with commas between them (default: all)")
    options = parser.parse_args()
    config = tomllib.loads(options.config.read_text())
    out = Path(config["results"])
    implementations = ["native", "jax"] if available() else ["jax"]
    wanted = options.types.upper().split(",") if options.types else None
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with np.load(config["vectors"]) as golden:
        for form in FORMATS.values():
            if form.encode is None or not form.is_quantized or (wanted and form.name not in wanted):
                continue
            for source in config["sets"]:
                rows += [
                    compared(form, golden, source, kind, implementations)
                    for kind in KINDS
                    if f"{source}/{form.name}/{kind}" in golden
                ]
            print(form.name, flush=True)
    text = table(rows, implementations)
    (out / "table.md").write_text(text)
    (out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    plot(rows, implementations[0], out / "error.png")
    print(text)
    for way in implementations:
        share = sum(row[f"equal_{way}"] for row in rows) / sum(row["blocks"] for row in rows)
        if share < config["expected"]["equal_blocks"]:
            sys.exit(
                f"error: {way}: expected {config['expected']['equal_blocks']} of the blocks to be equal, found {share}"
            )


if __name__ == "__main__":
    main()
