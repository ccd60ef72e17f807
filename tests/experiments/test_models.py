"""Kind "models" on a model of one block: rows, configs that are not as they must be, tables and plots."""

import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gguf_jax as gj
from experiments import plots, runner
from experiments.__main__ import app
from experiments.experiment import CONFIGS, read_experiment
from experiments.models.bench import contents_digest
from experiments.models.cases import Case
from experiments.models.found import measured, paired, rank_correlation, ranks
from experiments.reader import ROOT
from experiments.results import read_rows, rounded
from gguf_jax.errors import GGUFJaxError
from gguf_jax.quantization.recipe import file_type_names
from tests.experiments.conftest import CONFIG, TEXT


@pytest.fixture(scope="module")
def ran(small, tmp_path_factory):
    """The config's results, measured once."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "small.toml").write_text(CONFIG, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPERIMENT_DATA", os.fspath(small))
        runner.run(read_experiment(folder / "small.toml", folder / "results"))
    return folder / "results"


def rows_of(results):
    return {Case(**row.of["case"]): row for row in read_rows(results / "small" / "results.jsonl")[0]}


def test_rows_are_what_the_library_finds(ran, small, tmp_path):
    rows = rows_of(ran)
    gj.quantize_file(small / "small.gguf", tmp_path / "Q4_0.gguf", "Q4_0")
    model, base = gj.load(tmp_path / "Q4_0.gguf"), gj.load(small / "small.gguf")
    (expected,) = gj.kl_divergence(base, model, TEXT[len(TEXT) // 2 :], ctx_size=32, chunks=3)
    row = rows[Case("kld", "Q4_0", None, "story", "exact", "base")]
    for name in ("kld_mean", "kld_p99", "perplexity", "base_perplexity", "same_top", "delta_p_rms"):
        assert row.found[name] == rounded(expected.as_dict()[name])
    assert np.mean(row.found["kld_windows"]) == pytest.approx(row.found["kld_mean"], rel=1e-6)  # seven digits are kept
    assert row.of["text"] == hashlib.sha256(TEXT[len(TEXT) // 2 :].encode()).hexdigest()
    assert row.of["base"] == hashlib.sha256((small / "small.gguf").read_bytes()).hexdigest()
    file = rows[Case("file", "Q4_0", None)]
    with gj.read(tmp_path / "Q4_0.gguf") as read:
        assert file.found["bytes"] == sum(view.nbytes for view in read.tensors.values())
        assert file.found["contents"] == contents_digest(read) == row.found["contents"]


def test_the_same_bytes_are_measured_once(ran):
    rows = rows_of(ran)
    with_imatrix = rows[Case("kld", "Q8_0", "own 2 #1", "story", "exact", "base")]
    without = rows[Case("kld", "Q8_0", None, "story", "exact", "base")]
    assert with_imatrix.found == without.found | {"same_as": "Q8_0, no imatrix, story, exact"}
    assert rows[Case("file", "Q8_0", "own 2 #1")].found["same_as"] == "Q8_0, no imatrix"
    assert rows[Case("file", "Q4_0", "own 2 #1")].found["same_as"] is None


def test_an_importance_matrix_is_drawn_by_its_seed(ran):
    row = rows_of(ran)[Case("file", "Q4_0", "own 2 #1")]
    text = TEXT[: len(TEXT) // 2]
    made = {"text": hashlib.sha256(text.encode()).hexdigest(), "chunks": 2, "seed": 1}
    assert row.of["made"] == {"imatrix": made}


def test_table_and_plots(ran):
    folder = ran / "small"
    table = (folder / "table.md").read_text()
    assert re.search(r"^\| Q4_0 \| none \| ", table, re.MULTILINE)
    assert re.search(r"^\| Q8_0 \| own 2 #1 \| .* \| Q8_0, no imatrix \|$", table, re.MULTILINE)
    for name in ("kld", "perplexity", "surrogate", "error", "heat_map_Q4_0"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (folder / f"{name}.svg").read_text()


def test_a_report_needs_no_model_and_is_the_same_each_time(ran, config, monkeypatch):
    results = config.parent / "results"
    shutil.copytree(ran, results)
    before = {path.name: path.read_bytes() for path in (results / "small").iterdir()}
    for path in (results / "small").iterdir():
        if path.name != "results.jsonl":
            path.unlink()
    monkeypatch.delenv("EXPERIMENT_DATA")
    app(["report", str(config), "--results", str(results)], standalone_mode=False)
    assert {path.name: path.read_bytes() for path in (results / "small").iterdir()} == before


def test_another_length_is_measured_anew(ran, config):
    results = config.parent / "results"
    shutil.copytree(ran, results)
    config.write_text(
        CONFIG.replace("chunks = 3", "chunks = 2").replace("[imatrices.own]", "[imatrices.other]"), "utf-8"
    )
    experiment = read_experiment(config, results)
    with experiment.kind.bench(experiment.settings, runner.opened(experiment).by_key) as bench:
        todo, _ = runner.planned(bench, experiment.cases)
    keys = runner.opened(experiment).by_key
    missing = [each.case for each in todo if each.key not in keys]
    assert Case("file", "Q4_0", None) not in missing
    assert Case("kld", "Q4_0", None, "story", "exact", "base") in missing


def test_what_int8_costs_is_measured_against_the_model_itself(config):
    view = 'view = "precision"\nprecisions = ["exact", "fast"]\nagainst = ["base", "itself"]'
    text = CONFIG.replace('view = "types"', view).replace('types = ["Q8_0", "Q4_0"]', 'types = "Q8_0"')
    config.write_text(text[: text.index("[imatrices.own]")], "utf-8")
    results = config.parent / "results"
    runner.run(read_experiment(config, results))
    found = measured(read_rows(results / "small" / "results.jsonl")[0])
    assert len(found) == 1
    assert set(found[0].klds) == {("story", "exact", "base"), ("story", "fast", "base"), ("story", "fast", "itself")}
    assert "| Q8_0 | none |" in (results / "small" / "table.md").read_text()
    assert (results / "small" / "precision.png").exists()


def test_calibrating_texts_have_a_table_and_a_plot(config):
    text = CONFIG.replace('view = "types"', 'view = "calibration"').replace('"Q8_0", ', "").replace("errors = true", "")
    config.write_text(text.replace("chunks = 2", "chunks = [1, 2]").replace("seeds = 1", "seeds = [1, 2]"), "utf-8")
    results = config.parent / "results"
    runner.run(read_experiment(config, results))
    table = (results / "small" / "table.md").read_text()
    for line in (
        "| none | ",
        "| beginning: 1 chunks | ",
        "| beginning: 2 chunks | ",
        "| Q4_0 | beginning: 2 chunks | ",
    ):
        assert line in table
    assert (results / "small" / "calibration.svg").exists()


BAD = {
    "unknown key": ('view = "types"', 'view = "types"\ntypo = 1', "keys among kind, question, .*; found 'typo'"),
    "unknown key of a text": ("part = [0.5, 1]", "parts = 1", "texts.story: .*keys among part, file; found 'parts'"),
    "unknown type": ('"Q4_0"]', '"Q4_9"]', "types: expected one of all, F32, .*, found 'Q4_9'"),
    "unknown kind": ('kind = "models"', 'kind = "model"', "kind: expected one of models, encoders, found 'model'"),
    "no view": ('view = "types"', "", "view: expected a text, found no such key"),
    "a text that is a number": ('measured = "story"', "measured = 1", "measured: expected a text, found 1"),
    "an unknown text": ('measured = "story"', 'measured = "tale"', "measured: expected one of .*, found 'tale'"),
    "part": ("part = [0.5, 1]", "part = [1, 0.5]", "texts.story: part: expected two shares"),
    "chunks": ("chunks = 3", "chunks = 0", "chunks: expected at least 1, found 0"),
    "no TOML": ('view = "types"', "view =", "small.toml: expected TOML, found "),
    "missing file": (
        "/story.txt",
        "/tale.txt",
        r"texts.story: file: expected a file, found none at \$\{EXPERIMENT_DATA",
    ),
    "missing variable": ("EXPERIMENT_DATA", "NO_SUCH", "base: expected the environment variable NO_SUCH to be set"),
    "no text": ("/story.txt", "/small.gguf", "texts.story: file: expected a text in UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_config_that_is_wrong_is_one_line(config, name):
    before, after, message = BAD[name]
    assert before in CONFIG
    config.write_text(CONFIG.replace(before, after), "utf-8")
    with pytest.raises(GGUFJaxError, match=message) as error:
        runner.run(read_experiment(config, config.parent / "results"))
    assert "\n" not in str(error.value)
    assert not (config.parent / "results").exists()


def test_too_many_chunks_are_said(config):
    config.write_text(CONFIG.replace("chunks = 2", "chunks = 2000"), "utf-8")
    with pytest.raises(
        GGUFJaxError, match=r"imatrices own 2000 #1: chunks: expected at most \d+, as many as beginning has"
    ):
        runner.run(read_experiment(config, config.parent / "results"), only="Q4_0, imatrix")


def test_the_program_fails_in_one_line():
    command = [sys.executable, "-m", "experiments", "run", "configs/no_such.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: configs/no_such.toml: cannot be read: No such file or directory\n"


def test_every_config_of_the_repository_is_listed(capsys):
    app(["list"], standalone_mode=False)
    listed = capsys.readouterr().out
    for path in CONFIGS.glob("*.toml"):
        assert re.search(rf"^{path.stem}: .*\?\n    \d+ of \d+ cases measured$", listed, re.MULTILINE)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_tables_of_the_repository_are_those_of_its_results(path, tmp_path, monkeypatch):
    def touched(figure, folder, name):  # drawing takes seconds
        for file in plots.named(folder, name):
            file.touch()
        return plots.named(folder, name)

    monkeypatch.setattr(plots, "save", touched)
    monkeypatch.setattr("gguf_jax.quantization.heat_map.write_heat_map", lambda path, *_: Path(path).touch())
    experiment = read_experiment(path)
    (tmp_path / path.stem).mkdir()
    shutil.copy(experiment.results, tmp_path / path.stem)
    copied = read_experiment(path, tmp_path)
    runner.report(copied)
    assert (copied.folder / "table.md").read_text() == (experiment.folder / "table.md").read_text()
    assert {each.name for each in copied.folder.iterdir()} == {each.name for each in experiment.folder.iterdir()}


def test_every_file_type_has_a_family_with_a_colour():
    found = {name: plots.family(name) for name in file_type_names()}
    assert set(found.values()) <= set(plots.FAMILIES)
    assert [found[name] for name in ("Q4_0", "Q4_K_M", "IQ3_S", "TQ1_0", "BF16", "MXFP4_MOE")] == [
        "legacy", "K", "IQ", "ternary, binary", "floats", "FP4",
    ]  # fmt: skip


def test_labels_do_not_cover_each_other():
    figure, axes = plots.new_figure(6, 4)
    points = [(x, x % 3, f"label {x}", "black") for x in range(12)]
    axes.scatter(*zip(*((x, y) for x, y, _, _ in points), strict=True))
    plots.label_points(axes, points)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [text for _, _, text, _ in points]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_ranks_and_pairs():
    assert ranks([3.0, 1.0, 3.0, 7.0]).tolist() == [1.5, 0.0, 1.5, 3.0]
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 1000]) == 1.0
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == -1.0
    difference, error = paired({"kld_windows": [1.0, 2.0, 4.0]}, {"kld_windows": [0.0, 2.0, 2.0]})
    assert difference == 1.0
    assert error == pytest.approx(math.sqrt(1.0 / 3))
