"""Measuring: files are made in a temporary folder, one at a time, the base runs once over each text."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from experiments import machine
from experiments.experiment import Tell
from experiments.models.cases import OTHERS, Case
from experiments.models.settings import Calibration, Settings
from experiments.reader import Location
from experiments.results import Row, file_digest, rounded
from gguf_jax.bundled import bundled_model
from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf import GGUFFile, read
from gguf_jax.gguf.hash import digests
from gguf_jax.gguf.text import printable
from gguf_jax.quantization import recipe
from gguf_jax.quantization.step import Options, TensorSpec

OPTIONS = Options(allow_requantize=True)
TENSOR_DIGITS = 4

KEPT = re.compile(
    r"tokens|windows|same_top.*|(base_)?perplexity(_stderr)?|log_perplexity_.*|delta_p_(mean|rms)(_stderr)?|delta_p_p(99|1)|"
    r"kld_(mean|mean_stderr|max|p99_9|p99|p95|p90|median)"
)
"""What of a divergence goes into a row; beside it there are the means of every window, for comparing pairs."""

File = tuple[str, str | None]


@contextmanager
def bench(settings: Settings, rows: Mapping[str, Row]) -> Iterator[ModelBench]:
    with tempfile.TemporaryDirectory(prefix="experiment-") as folder, ExitStack() as stack:
        yield ModelBench(settings, rows, Path(folder), stack)


class ModelBench:
    """See `experiment.Bench`. Nothing is loaded before it is needed."""

    def __init__(self, settings: Settings, rows: Mapping[str, Row], folder: Path, stack: ExitStack) -> None:
        self._settings, self._rows, self._folder = settings, rows, folder
        self._base_path = bundled_model() if settings.base is None else settings.base.resolve()
        for path in (*settings.imatrices.values(), *settings.files.values()):
            if isinstance(path, Location):
                path.resolve()  # a file that is not there is said now
        self._opened = stack.enter_context(read(self._base_path))
        self._texts = {name: read_text(text.path, text.part) for name, text in settings.texts.items()}
        self._made: tuple[File, Path] | None = None
        self._imatrices: dict[str, Path] = {}
        self._loaded: tuple[File, Any] | None = None

    # what determines a result

    def refused(self, case: Case) -> str | None:
        if case.imatrix == OTHERS:
            return None
        return self._refusal(case.type, case.imatrix is not None)

    @cache  # noqa: B019 - a bench lives as long as a run
    def _refusal(self, type: str, has_imatrix: bool) -> str | None:
        tensors = [TensorSpec(view.name, view.shape, view.type) for view in self._opened.tensors.values()]
        name, options = self._asked(type)
        asked = recipe.file_type(name), self._opened.metadata, tensors
        try:
            steps = recipe.draft(*asked, has_imatrix=has_imatrix, options=options)
            if not has_imatrix and any(step.needs_imatrix for step in steps):
                return "cannot be made without an importance matrix"
            recipe.plan(*asked, has_imatrix=has_imatrix, options=options)
        except GGUFJaxError as error:
            return str(error)
        return None

    def _asked(self, type: str) -> tuple[str, Options]:
        """The file type, and the options, that a type means."""
        own = self._settings.recipes.get(type)
        return (type, OPTIONS) if own is None else (own.file_type, replace(OPTIONS, tensor_types=own.tensors))

    def identity(self, case: Case) -> dict[str, Any]:
        found: dict[str, Any] = {"base": self._base_digest, "made": self._made_of(case)}
        if case.measure == "file":
            weigh_by = self._settings.weigh_by
            return found | {
                "errors": self._settings.errors,
                "weighed_by": None if weigh_by is None else self._imatrix_identity(weigh_by),
            }
        assert case.text is not None
        return found | {
            "text": digest(self._texts[case.text]),
            "ctx_size": self._settings.ctx_size,
            "chunks": self._settings.chunks,
            "kernels": machine.kernels() if case.precision == "fast" else None,
        }

    def _made_of(self, case: Case) -> dict[str, Any]:
        if case.imatrix == OTHERS:
            return {"file": file_digest(self._settings.files[case.type].resolve())}
        own = self._settings.recipes.get(case.type)
        made: dict[str, Any] = {"imatrix": None if case.imatrix is None else self._imatrix_identity(case.imatrix)}
        if own is not None:
            made["recipe"] = [own.file_type, *(f"{pattern}={type.name}" for pattern, type in own.tensors)]
        return made

    @cache  # noqa: B019
    def _imatrix_identity(self, name: str) -> dict[str, Any]:
        made = self._settings.imatrices[name]
        if isinstance(made, Location):
            return {"file": file_digest(made.resolve())}
        return {"text": digest(self._texts[made.text]), "chunks": made.chunks, "seed": made.seed}

    @cached_property
    def _base_digest(self) -> str:
        return file_digest(self._base_path)

    # measuring

    def measure(self, case: Case, tell: Tell) -> dict[str, Any]:
        return self._file(case) if case.measure == "file" else self._divergence(case, tell)

    def summary(self, case: Case, found: dict[str, Any]) -> str:
        equal = f", the same bytes as {found['same_as']}" if found.get("same_as") else ""
        if case.measure == "file":
            error = "" if found["relative_rmse"] is None else f", relative error {found['relative_rmse']:.4g}"
            return f"{found['bits_per_weight']:.3f} bits per weight{error}{equal}"
        return f"KLD {found['kld_mean']:.6f} +/- {found['kld_mean_stderr']:.6f}, PPL {found['perplexity']:.4f}{equal}"

    def _file(self, case: Case) -> dict[str, Any]:
        from gguf_jax.quantization.compare import compare_files
        from gguf_jax.quantization.imatrix import read_imatrix

        path = self._path(case.file)
        with read(path) as file:
            nbytes, weights = sizes(file)
            contents = contents_digest(file)
        found: dict[str, Any] = {
            "contents": contents,
            "same_as": self._same_file(case, contents),
            "bytes": nbytes,
            "bits_per_weight": 8 * nbytes / weights,
            **dict.fromkeys(("relative_rmse", "weighted_rmse", "sqnr_db")),
        }
        if not self._settings.errors:
            return found
        weigh_by = self._settings.weigh_by
        importances = None if weigh_by is None else read_imatrix(self._imatrix(weigh_by))
        compared = compare_files(self._base_path, path, importances=importances)
        total = compared.total
        errors = [(each.name, each.types[1].name, each.error.relative_rmse) for each in compared.tensors]
        tensors = {name: [type, rounded(error, TENSOR_DIGITS)] for name, type, error in errors if error}
        if found["same_as"]:
            tensors = {}  # they stand in the other row
        return found | {
            "relative_rmse": total.relative_rmse,
            "weighted_rmse": total.weighted_rmse,
            "sqnr_db": total.sqnr_db,
            "tensors": tensors,
        }

    def _same_file(self, case: Case, contents: str) -> str | None:
        """Another file with these contents."""
        for row in self._rows.values():
            other = Case(**row.of["case"])
            if other.measure == "file" and other != case and row.found["contents"] == contents:
                return str(other)
        return None

    def _divergence(self, case: Case, tell: Tell) -> dict[str, Any]:
        assert case.text is not None
        contents = self._contents(case)
        same = self._same_divergence(case, contents)
        if same is not None:
            return same.found | {"same_as": str(Case(**same.of["case"]))}
        from gguf_jax.evals.base import ModelBase
        from gguf_jax.evals.kl_divergence import kl_divergences

        model = self._model(case.file)
        base = ModelBase(model) if case.against == "itself" else self._base
        found = None
        for (found,) in kl_divergences(
            base,
            model,
            self._texts[case.text],
            ctx_size=self._settings.ctx_size,
            chunks=self._settings.chunks,
            precision=case.precision,  # pyright: ignore[reportArgumentType]
        ):
            tell(found.windows / found.planned)
        assert found is not None
        figures = {name: value for name, value in found.as_dict().items() if KEPT.fullmatch(name)}
        by_window = found.klds.reshape(found.windows, -1).astype(np.float64).mean(1)
        return {"contents": contents, "same_as": None} | figures | {"kld_windows": by_window.tolist()}

    def _same_divergence(self, case: Case, contents: str) -> Row | None:
        """A row of a file with these contents, everything else being equal."""
        identity = self.identity(case)
        for row in self._rows.values():
            other = Case(**row.of["case"])
            if other.measure != "kld" or row.found["contents"] != contents:
                continue
            alike = (other.text, other.precision, other.against) == (case.text, case.precision, case.against)
            if alike and all(row.of[name] == identity[name] for name in identity if name != "made"):
                return row
        return None

    def _contents(self, case: Case) -> str:
        """Of the file of a case, from its row if there is one: then it need not be made."""
        for row in self._rows.values():
            other = Case(**row.of["case"])
            made = other.file == case.file and row.of["made"] == self._made_of(case)
            if other.measure == "file" and made and row.of["base"] == self._base_digest:
                return row.found["contents"]
        with read(self._path(case.file)) as file:
            return contents_digest(file)

    # files and models

    def _path(self, file: File) -> Path:
        type, imatrix = file
        if imatrix == OTHERS:
            return self._settings.files[type].resolve()
        if self._made is not None and self._made[0] == file:
            return self._made[1]
        from gguf_jax.quantization.file import quantize_file

        if self._made is not None:
            self._made[1].unlink()
            self._made = None
        path = self._folder / f"{type}.gguf"
        using = None if imatrix is None else self._imatrix(imatrix)
        name, options = self._asked(type)
        quantize_file(self._base_path, path, name, imatrix=using, options=options, force=True)
        self._made = file, path
        return path

    def _model(self, file: File) -> Any:
        if self._loaded is None or self._loaded[0] != file:
            from gguf_jax.api import load

            self._loaded = None  # its memory
            self._loaded = file, load(self._path(file))
        return self._loaded[1]

    @cached_property
    def _base(self) -> Any:
        from gguf_jax.api import load
        from gguf_jax.evals.base import ModelBase

        return ModelBase(load(self._base_path), keep=True)

    def _imatrix(self, name: str) -> Path:
        made = self._settings.imatrices[name]
        if isinstance(made, Location):
            return made.resolve()
        if name not in self._imatrices:
            path = self._folder / f"imatrix-{len(self._imatrices)}.gguf"
            self._collect(name, made, path)
            self._imatrices[name] = path
        return self._imatrices[name]

    def _collect(self, name: str, made: Calibration, path: Path) -> None:
        from gguf_jax.evals.imatrix import collect_imatrix, cut
        from gguf_jax.quantization.imatrix_file import write_imatrix

        model = self._base.model
        windows = drawn(cut(model, self._texts[made.text], self._settings.ctx_size), made, name)
        write_imatrix(path, collect_imatrix(model, windows, datasets=[made.text]))


def drawn(windows: np.ndarray, made: Calibration, name: str) -> np.ndarray:
    """The windows `[windows, T]` of a text that an importance matrix is made of."""
    wanted = len(windows) if made.chunks is None else made.chunks
    if wanted > len(windows):
        raise GGUFJaxError(f"imatrices {name}: chunks: expected at most {len(windows)}, as many as {made.text} has, "
                           f"found {wanted}")  # fmt: skip
    if made.seed is None:
        return windows[:wanted]
    return windows[np.sort(np.random.default_rng(made.seed).permutation(len(windows))[:wanted])]


def read_text(location: Location, part: tuple[float, float]) -> str:
    path = location.resolve()
    try:
        text = path.read_text("utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise GGUFJaxError(f"{location.where}: expected a text in UTF-8, found {printable(str(error))}") from error
    return text[int(part[0] * len(text)) : int(part[1] * len(text))]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def contents_digest(file: GGUFFile) -> str:
    """Of names, types, shapes and bytes of all tensors: two files of one model with the same one compute the same. The
    metadata are left out, in which the importance matrix's path stands."""
    whole = hashlib.sha256()
    for found in digests(file.tensors, ["sha256"]):
        if found.tensor is not None:
            view = file.tensors[found.tensor]
            whole.update(f"{view.name} {view.type.name} {view.shape} {found.hex}\n".encode())
    return whole.hexdigest()


def sizes(file: GGUFFile) -> tuple[int, int]:
    """Bytes of all tensors, and how many weights they are."""
    return sum(view.nbytes for view in file.tensors.values()), sum(view.n_elements for view in file.tensors.values())
