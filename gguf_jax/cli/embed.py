"""`gguf-jax embed`: embeddings and scores of texts, printed as llama-embedding prints them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.cli import options
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import write, write_json
from gguf_jax.cli.perplexity import PrecisionOption, known_precision, read_text
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("table", "array", "json", "json+", "raw", "npy")


def embed(
    model: options.Model = None,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="Text, or texts on lines; repeatable.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="File of texts, one a line; - is stdin. Default: stdin.")
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option("--pooling", help="none, mean, cls, last, or rank (scores). Default: as the file says."),
    ] = None,
    order: Annotated[
        int,
        typer.Option(
            "--embd-normalize",
            "--normalize",
            help="-1: not; 0: largest magnitude 32760; 1: taxicab; 2: Euclidean; p: p-norm.",
        ),
    ] = 2,
    form: Annotated[
        str,
        typer.Option(
            "--output-format",
            "--embd-output-format",
            help="table (with cosines of every two), array, json, json+ (with cosines), raw (a line each) or npy.",
        ),
    ] = "table",
    out: Annotated[Path | None, typer.Option("--output", "-o", help="File for npy.")] = None,
    separator: Annotated[str, typer.Option("--embd-separator", help="What stands between texts.")] = "\n",
    cls_separator: Annotated[
        str, typer.Option("--cls-separator", help="With scores: what stands between the two texts of a pair.")
    ] = "\t",
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut texts that are longer than the model's context.")
    ] = False,
    batch_tokens: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Tokens computed at once.")] = 512,
    precision: PrecisionOption = "exact",
    lora: options.Lora = None,
    lora_scaled: options.LoraScaled = None,
    debug: options.Debug = False,
) -> None:
    """Turn texts into vectors, or score them."""
    if form not in FORMATS:
        raise GGUFJaxError(f"--output-format: expected one of {', '.join(FORMATS)}, found {form!r}")
    if (form == "npy") != (out is not None):
        found = "it is missing" if out is None else f"the format is {form}"
        raise GGUFJaxError(f"--output: expected a file with --output-format npy, and only with it, but {found}")
    if order < -1:
        raise GGUFJaxError(f"--embd-normalize: expected -1 or above, found {order}")
    if not separator or not cls_separator:
        raise GGUFJaxError("--embd-separator, --cls-separator: expected at least one character, found none")
    exactness = known_precision(precision)
    adapters = options.adapters(lora, lora_scaled)
    write("")  # fails now, not after the last text
    texts = [text for given in _given(prompts, file) for text in given.split(separator)]
    with opened(model) as opened_file:
        loaded = options.load_model(opened_file, adapters)

    from gguf_jax import embeddings

    kind = embeddings.pooling_for(loaded, pooling)
    made = embeddings.embed(
        loaded,
        list(_pairs(texts, cls_separator)) if kind == "rank" else texts,
        pooling=kind,
        normalize=False,
        truncate=truncate,
        parse_special=True,
        batch_tokens=batch_tokens,
        precision=exactness,
    )
    import numpy as np

    rows = np.concatenate(made) if kind == "none" else np.asarray(made)
    rows = rows if kind == "rank" else embeddings.normalized(rows, order)
    if out is not None:
        _save(out, rows)
    elif form == "table":
        write(_scores(rows) if kind == "rank" else _table(rows, [] if kind == "none" else texts, order))
    elif form == "raw":
        write("".join(" ".join(_numbers(row, order, 7)) + "\n" for row in rows))
    else:
        _write_json(rows, texts, form, order)


def _given(prompts: list[str] | None, file: Path | None) -> Iterator[str]:
    yield from prompts or ()
    if file is not None or not prompts:
        yield read_text(file or Path("-"))


def _pairs(texts: Sequence[str], separator: str) -> Iterator[str | tuple[str, str]]:
    for number, text in enumerate(texts):
        parts = text.split(separator)
        if len(parts) > 2:
            raise GGUFJaxError(
                f"text {number}: expected one text or two with --cls-separator between, found {len(parts)}"
            )
        yield (parts[0], parts[1]) if len(parts) == 2 else text


def _numbers(row: np.ndarray, order: int, digits: int, width: int = 0) -> Iterator[str]:
    """In the range of int16 (order 0) whole ones."""
    return (f"{x:{width}.{0 if order == 0 else digits}f}" for x in row.tolist())


def _table(rows: np.ndarray, texts: Sequence[str], order: int) -> str:
    """The beginning of every vector (of one alone, all of it), and the cosines of every two texts. Without `texts` the
    rows are tokens."""
    from gguf_jax.embeddings import similarities

    lines = []
    for i, row in enumerate(rows):
        if texts:
            numbers = " ".join(_numbers(row if len(rows) == 1 else row[:16], order, 6, 9))
        else:
            numbers = " ".join((*_numbers(row[:3], order, 6, 9), " ... ", *_numbers(row[-3:], order, 6, 9)))
        lines.append(f"embedding {i}: {numbers}")
    if len(texts) > 1:
        lines += ["", "cosine similarity matrix:", "", " ".join(f"{text[:6]:>6}" for text in texts)]
        lines += [
            " ".join(f"{x:6.2f}" for x in row) + f" {text[:10]}"
            for row, text in zip(similarities(rows).tolist(), texts, strict=True)
        ]
    return "\n".join(lines) + "\n"


def _scores(rows: np.ndarray) -> str:
    several = rows.shape[1] > 1
    return "".join(
        f"rerank score {i}: {score:8.3f}" + (f" [{label}]" if several else "") + "\n"
        for i, row in enumerate(rows.tolist())
        for label, score in enumerate(row)
    )


def _write_json(rows: np.ndarray, texts: Sequence[str], form: str, order: int) -> None:
    from gguf_jax.embeddings import similarities

    vectors = [[float(number) for number in _numbers(row, order, 7)] for row in rows]
    if form == "array":
        write_json(vectors)
        return
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    found: dict[str, Any] = {"object": "list", "data": data}
    if form == "json+" and len(rows) == len(texts) > 1:
        found["cosineSimilarity"] = [[round(x, 2) for x in row] for row in similarities(rows).tolist()]
    write_json(found, indent=2)


def _save(path: Path, rows: np.ndarray) -> None:
    import numpy as np

    from gguf_jax.gguf.atomic import replacing

    buffer = io.BytesIO()
    np.save(buffer, rows)
    with replacing(str(path), buffer.tell()) as file:
        file.write(buffer.getbuffer())
