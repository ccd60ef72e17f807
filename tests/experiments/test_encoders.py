"""Kind "encoders" on one type of the reference's vectors."""

import json

import pytest

from experiments import runner
from experiments.experiment import read_experiment
from experiments.reader import ROOT
from experiments.results import read_rows
from gguf_jax.errors import GGUFJaxError

CONFIG = f"""
kind = "encoders"
question = "Are blocks equal?"
vectors = "{ROOT.as_posix()}/tests/data/quants.npz"
sets = ["gauss", "real"]
plotted = "real"
types = "Q8_0"
equal_blocks = 1.0
"""


@pytest.fixture
def experiment(tmp_path):
    (tmp_path / "blocks.toml").write_text(CONFIG, "utf-8")
    return read_experiment(tmp_path / "blocks.toml", tmp_path / "results")


def test_every_block_is_equal(experiment):
    runner.run(experiment)
    rows, _ = read_rows(experiment.results)
    assert [row.of["case"]["importance"] for row in rows] == ["without", "with"]
    for row in rows:
        for found in row.found["sets"].values():
            assert all(equal == found["blocks"] > 0 for equal in found["equal"].values())
            assert len({*found["error"].values()}) == 1
    lines = (experiment.folder / "table.md").read_text().splitlines()[2:]
    assert [" 100 % |" in line for line in lines] == [True, True]
    assert (experiment.folder / "error.png").exists()


def test_a_block_that_differs_is_an_error_and_is_in_the_table(experiment):
    runner.run(experiment)
    *others, last = [json.loads(line) for line in experiment.results.read_text().splitlines()]
    last["found"]["sets"]["real"]["equal"]["jax"] -= 1
    experiment.results.write_text("".join(json.dumps(row) + "\n" for row in (*others, last)))
    with pytest.raises(GGUFJaxError, match=r"jax: expected a share of 1.0 of the blocks to be equal, found \d+ of \d+"):
        runner.report(experiment)
    blocks = last["found"]["sets"]["gauss"]["blocks"] + last["found"]["sets"]["real"]["blocks"]
    assert f" {100 * (1 - 1 / blocks):.4g} % |" in (experiment.folder / "table.md").read_text().splitlines()[-1]


def test_vectors_that_are_none_are_said(tmp_path):
    (tmp_path / "blocks.toml").write_text(CONFIG.replace("tests/data/quants.npz", "README.md"), "utf-8")
    with pytest.raises(GGUFJaxError, match=r"vectors: expected arrays in an \.npz file, found none") as error:
        runner.run(read_experiment(tmp_path / "blocks.toml", tmp_path / "results"))
    assert "\n" not in str(error.value)
