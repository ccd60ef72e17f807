"""The runner with a kind that measures nothing: what is measured, what is kept, and what restarts."""

import json
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from experiments import machine, runner
from experiments.experiment import Experiment
from experiments.results import Results, Row, key_of, read_rows, rounded
from gguf_jax.errors import GGUFJaxError


@dataclass(frozen=True)
class Case:
    number: int

    def __str__(self):
        return f"case {self.number}"


class Squares:
    """A kind and its bench: squares of numbers; some are refused, one can be interrupted."""

    def __init__(self, refuse=(), interrupt=None):
        self.refuse, self.interrupt, self.measured, self.scale = set(refuse), interrupt, [], 1

    @contextmanager
    def bench(self, settings, rows):
        yield self

    def refused(self, case):
        return "cannot be squared" if case.number in self.refuse else None

    def identity(self, case):
        return {"scale": self.scale}

    def measure(self, case, tell):
        if case.number == self.interrupt:
            raise KeyboardInterrupt
        tell(0.5)
        self.measured.append(case.number)
        return {"square": case.number**2 / 3}

    def summary(self, case, found):
        return str(found["square"])

    def report(self, settings, rows, folder):
        (folder / "table.md").write_text("".join(f"{row.found['square']}\n" for row in rows))
        return [folder / "table.md"]


@pytest.fixture
def squares(tmp_path):
    def make(count=5, **options):
        kind = Squares(**options)
        cases = tuple(map(Case, range(count)))
        path = tmp_path / "squares.toml"
        return kind, Experiment("squares", "?", path, kind, None, cases, tmp_path / "results" / "squares")

    return make


def numbers(experiment):
    return [row.of["case"]["number"] for row in read_rows(experiment.results)[0]]


def test_every_case_has_a_row_and_a_second_run_measures_nothing(squares, tmp_path):
    kind, experiment = squares()
    runner.run(experiment)
    first = experiment.results.read_bytes()
    assert kind.measured == numbers(experiment) == [0, 1, 2, 3, 4]
    runner.run(experiment)
    assert kind.measured == [0, 1, 2, 3, 4]
    assert experiment.results.read_bytes() == first
    for line in first.splitlines():
        row = Row(**json.loads(line))
        assert row.key == key_of(row.of)
        assert row.of["gguf_jax"] == machine.code_version()
        assert row.by["command"] == "python -m experiments run squares.toml"
        assert {"commit", "python", "jax", "numpy", "machine", "date", "seconds"} <= row.by.keys()
    assert str(tmp_path).encode() not in first
    assert experiment.results.with_name("table.md").read_text().split() == [str(rounded(n**2 / 3)) for n in range(5)]


def test_ctrl_c_leaves_what_there_is_and_the_next_run_goes_on(squares):
    kind, experiment = squares(interrupt=3)
    with pytest.raises(KeyboardInterrupt):
        runner.run(experiment)
    assert numbers(experiment) == [0, 1, 2]
    kind, experiment = squares()
    runner.run(experiment)
    assert kind.measured == [3, 4]
    assert numbers(experiment) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("lost", [1, 2, 40])
def test_a_half_written_row_is_measured_again(squares, capsys, lost):
    _, experiment = squares()
    runner.run(experiment)
    whole = experiment.results.read_bytes()
    experiment.results.write_bytes(whole[:-lost])
    capsys.readouterr()
    kind, experiment = squares()
    runner.run(experiment)
    assert kind.measured == [4]
    assert numbers(experiment) == [0, 1, 2, 3, 4]
    last = len(whole.splitlines()[-1]) + 1
    assert f"the last row was only half written, {last - lost} bytes of it" in capsys.readouterr().err


def test_whatever_determines_a_result_is_in_its_key(squares):
    kind, experiment = squares(2)
    runner.run(experiment)
    kind.scale = 2
    runner.run(experiment)
    assert kind.measured == numbers(experiment) == [0, 1, 0, 1]
    assert len({row.key for row in read_rows(experiment.results)[0]}) == 4
    chosen = experiment.chosen(read_rows(experiment.results)[0])
    assert [row.of["scale"] for row in chosen] == [2, 2]


def test_refused_cases_are_left_out_with_the_reason(squares, capsys):
    kind, experiment = squares(refuse=[1, 2])
    runner.run(experiment)
    assert kind.measured == [0, 3, 4]
    assert "left out: (case 1), (case 2): cannot be squared" in capsys.readouterr().err


def test_only_again_most_and_dry_run(squares, capsys):
    kind, experiment = squares()
    runner.run(experiment, dry_run=True)
    assert kind.measured == []
    assert capsys.readouterr().out == "".join(f"case {i}\n" for i in range(5))
    runner.run(experiment, only="[13]$")
    assert kind.measured == [1, 3]
    runner.run(experiment, only="1", again=True)
    assert kind.measured == [1, 3, 1]
    runner.run(experiment, most=1)
    assert kind.measured == [1, 3, 1, 0]


@pytest.mark.parametrize(
    ("only", "message"), [("[", "regular expression"), ("cube", "found in a case such as 'case 0'")]
)
def test_only_must_find_something(squares, only, message):
    with pytest.raises(GGUFJaxError, match=message):
        runner.run(squares()[1], only=only)


def test_two_runs_do_not_write_to_one_file(squares):
    kind, experiment = squares()
    with runner.alone(experiment), pytest.raises(GGUFJaxError, match="found one that is under way"):
        runner.run(experiment)
    assert kind.measured == []
    runner.run(experiment)
    assert kind.measured == [0, 1, 2, 3, 4]


def test_a_report_needs_rows(squares):
    _, experiment = squares()
    with pytest.raises(GGUFJaxError, match="expected results, found none"):
        runner.report(experiment)


def test_a_line_that_is_no_row_is_said(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"key": "a", "of": {}, "found": {}, "by": {}}\n[1]\n')
    with pytest.raises(GGUFJaxError, match="line 2: expected a JSON object with key, of, found and by"):
        Results(path)


def test_a_row_that_cannot_be_written_is_said(tmp_path):
    results = Results(tmp_path / "results.jsonl")
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(GGUFJaxError, match="cannot be written"):
        results.append(Row("k", {}, {}, {}))


def test_rounding_keeps_what_float32_has():
    assert rounded({"a": [1 / 3, float("nan"), 12345678.9], "b": 3, "c": (True, None)}) == {
        "a": [0.3333333, None, 12345680.0],
        "b": 3,
        "c": [True, None],
    }


def test_time_that_is_left():
    assert runner.remaining(10, 0.5, 4) == runner.remaining(10, 4, 4) == ""
    assert runner.remaining(10, 1, 4) == ", 30 s left"
    assert runner.remaining(100, 1, 4) == ", 5 min left"
