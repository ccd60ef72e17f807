"""Tests of a model's speed: what they run, their least times, and their reports in every format."""

import csv
import io
import json
import sqlite3

import pytest

import gguf_jax as gj
from gguf_jax import gguf
from gguf_jax.bench import limits
from gguf_jax.bench.limits import Limits
from gguf_jax.bench.model import Case, Facts, Result, Setting, cases, context_for, make_engine, samples
from gguf_jax.bench.report import REPORTS
from gguf_jax.checkpoint import tensors_of
from gguf_jax.errors import GGUFJaxError
from tests.models.families import FAMILIES
from tests.support import small_model

BUILD = {"build_commit": "abc1234", "build_number": 0, "version": "0.1.0", "jax_version": "0"}
PEER_FIELDS = {
    "build_commit", "build_number", "cpu_info", "gpu_info", "backends", "model_filename", "model_type", "model_size",
    "model_n_params", "n_batch", "n_ubatch", "n_threads", "type_k", "type_v", "n_prompt", "n_gen", "n_depth",
    "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(bundled):
    return gj.load(bundled)


@pytest.fixture(scope="module")
def facts(bundled, model):
    with gguf.read(bundled) as file:
        return Facts.of(file, model.config)


def test_names_are_those_of_llama_bench():
    names = [case.name for case in cases([Setting()], [512], [128], [(512, 128)], [0, 4096])]
    assert names == ["pp512", "tg128", "pp512+tg128", "pp512 @ d4096", "tg128 @ d4096", "pp512+tg128 @ d4096"]
    assert cases([Setting()], [0], [0], [], [0]) == []


@pytest.mark.parametrize(
    ("case", "prefill", "decode", "reused"),
    [
        (Case(40, 0), 40, 0, 0),
        (Case(0, 3), 1, 3, 0),
        (Case(40, 3), 40, 3, 0),
        (Case(40, 0, 50), 40, 0, 50),
        (Case(0, 3, 50), 1, 3, 49),
        (Case(5, 3, 50), 5, 3, 50),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else "",
)
def test_a_repetition_runs_what_its_name_says(model, monkeypatch, case, prefill, decode, reused):
    engine = make_engine(model, case.setting, context_for([case]))
    seen, generate = [], engine.generate

    def spied(*args, timings, **kwargs):
        seen.append(timings)
        return generate(*args, timings=timings, **kwargs)

    monkeypatch.setattr(engine, "generate", spied)
    times = list(samples(engine, case, repetitions=2))
    assert len(times) == 2
    assert all(0 < ns < 60e9 for ns in times)
    last = seen[-1]
    assert (last.prefill_tokens, last.decode_tokens, last.reused_tokens) == (prefill, decode, reused)
    spent = last.prefill_s * bool(case.n_prompt) + last.decode_s * bool(case.n_gen)
    assert times[-1] == round(1e9 * spent)
    assert last.compile_s == 0


def test_a_context_that_is_too_short_is_an_error(model):
    engine = make_engine(model, Setting(), 256)
    with pytest.raises(GGUFJaxError, match="pp400: expected a context of at least 402, found 256"):
        list(samples(engine, Case(400, 0), repetitions=1))


def test_a_prompt_is_cut_by_both_batch_sizes(model):
    assert make_engine(model, Setting(n_batch=64, n_ubatch=512), 256).batch_size == 64
    assert make_engine(model, Setting(n_batch=2048, n_ubatch=32), 256).batch_size == 32


def test_facts(facts, bundled):
    with gguf.read(bundled) as file:
        tied = "output.weight" not in file.tensors
        assert facts.size == sum(view.nbytes for view in file.tensors.values())
        table = file.tensors["token_embd.weight"].nbytes
    assert facts.read_bytes == facts.size - (0 if tied else table)
    assert facts.description.startswith("llama 23.08M Q4_K_M")


def test_a_token_reads_its_experts_and_a_prompt_nearly_all(tmp_path):
    family = FAMILIES["qwen3moe"]
    config = family.make()
    tensors = tensors_of(small_model(**vars(config)))
    gj.write(tmp_path / "moe.gguf", dict(family.metadata(config)), tensors)
    with gguf.read(tmp_path / "moe.gguf") as file:
        facts = Facts.of(file, config)
    expert = 3 * 24 * 32  # of two blocks, five of which a token goes to two
    table = 97 * 32
    assert facts.expert_bytes == 4 * 2 * 5 * expert
    assert facts.read_bytes == facts.size - 4 * (table + 2 * 3 * expert)
    dense = sum(value.size for name, value in tensors.items() if value.ndim == 2) - 2 * table
    assert facts.products == dense + 2 * 2 * expert
    assert facts.weight_bytes(1) == pytest.approx(facts.read_bytes)
    seen = 1 - (3 / 5) ** 4  # of an expert, by one of four tokens
    assert facts.weight_bytes(4) == pytest.approx(facts.size - 4 * table - facts.expert_bytes * (1 - seen))


def test_least_time_of_a_generated_token_is_that_of_reading_weights_and_cache(facts):
    slow_memory = Limits(1e6, {"f32": 1e15, "i8": 1e15}, "native")
    c = facts.config
    position = 2 * c.block_count * c.head_count_kv * (c.key_length + c.value_length)  # float16
    least = facts.least_seconds(Case(0, 1, 100), slow_memory)
    assert least == pytest.approx((facts.read_bytes + 101 * position) / 1e6)
    q8_0 = facts.least_seconds(Case(0, 1, 100, Setting(type_k="q8_0", type_v="q8_0")), slow_memory)
    assert q8_0 == pytest.approx((facts.read_bytes + 101 * position * 34 / 64) / 1e6)


def test_least_time_of_a_prompt_is_that_of_multiplying(facts):
    slow_arithmetic = Limits(1e15, {"f32": 1e6, "i8": 4e6}, "native")
    c = facts.config
    pairs = 30 * 31 // 2 + 30 * 20
    operations = 2 * (30 * facts.products + pairs * c.block_count * c.head_count * (c.key_length + c.value_length))
    assert facts.least_seconds(Case(30, 0, 20), slow_arithmetic) == pytest.approx(operations / 4e6)
    exact = Case(30, 0, 20, Setting(precision="exact"))
    assert facts.least_seconds(exact, slow_arithmetic) == pytest.approx(operations / 1e6)


@pytest.mark.parametrize("native", [True, False])
def test_limits_are_of_this_planet(monkeypatch, native):
    if not native:
        monkeypatch.setenv("GGUF_JAX_NATIVE", "off")
    found = limits.measure(0.01)
    assert found.source == "xla" or native
    assert 1e8 < found.bandwidth < 1e14
    assert 1e8 < found.peak("exact") <= found.peak("fast") < 1e17
    assert found.least_seconds(0, found.peak("fast"), "fast") == 1
    assert limits.threads() >= 1


def test_threads_need_native_kernels(monkeypatch):
    monkeypatch.setenv("GGUF_JAX_NATIVE", "off")
    with pytest.raises(GGUFJaxError, match="threads: only native kernels"):
        limits.set_threads(1)


def result_of(facts, case, limits=None):
    return Result(case, facts, 2, "2026-11-24T12:00:00Z", [10_000_000, 30_000_000, 20_000_000], limits)


def written(kind, results):
    report = REPORTS[kind](BUILD, [result.case for result in results])
    return report.header() + "".join(report.row(result) for result in results) + report.footer()


@pytest.fixture
def results(facts):
    measured = Limits(1e10, {"f32": 1e12}, "native")
    return [result_of(facts, Case(64, 0)), result_of(facts, Case(0, 8, 16, Setting(type_k="q8_0")), measured)]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_json(results, kind):
    text = written(kind, results)
    first, second = json.loads(text) if kind == "json" else map(json.loads, text.splitlines())
    assert set(first) >= PEER_FIELDS
    assert first["avg_ns"] == 20_000_000
    assert first["stddev_ns"] == 10_000_000
    assert first["samples_ts"] == pytest.approx([6400, 64 / 0.03, 3200])
    assert first["avg_ts"] == pytest.approx(sum(first["samples_ts"]) / 3)
    assert (first["limit_ts"], first["share_of_limit"]) == (None, None)
    assert (second["type_k"], second["n_depth"], second["read_bandwidth"]) == ("q8_0", 16, 1e10)
    assert second["share_of_limit"] == pytest.approx(second["avg_ts"] / second["limit_ts"], rel=1e-5)


def test_json_of_no_results_is_an_empty_list():
    assert json.loads(written("json", [])) == []


def test_csv(results):
    first, second = csv.DictReader(io.StringIO(written("csv", results)))
    assert set(first) >= PEER_FIELDS - {"samples_ns", "samples_ts"}
    assert (first["n_prompt"], first["limit_ts"], second["n_gen"]) == ("64", "", "8")


def test_sql(results):
    with sqlite3.connect(":memory:") as database:
        database.executescript(written("sql", results))
        rows = database.execute("SELECT n_prompt, n_gen, avg_ns, limit_ts FROM gguf_jax_bench").fetchall()
    assert rows[0] == (64, 0, 20_000_000, None)
    assert rows[1][3] > 0


def test_sql_quotes_names(facts):
    report = REPORTS["sql"]({**BUILD, "build_commit": "o'clock"}, [])
    with sqlite3.connect(":memory:") as database:
        database.executescript(report.row(result_of(facts, Case(1, 0))))
        assert database.execute("SELECT build_commit FROM gguf_jax_bench").fetchone() == ("o'clock",)


def test_markdown(results):
    header, rule, first, second, _, build = written("md", results).splitlines()
    assert [cell.strip() for cell in header.split("|")][1:-1] == [
        "model", "size", "params", "backend", "threads", "type_k", "test", "t/s", "limit t/s", "share"
    ]  # fmt: skip
    assert len({len(line) for line in (header, rule, first, second)}) == 1
    assert "pp64" in first
    assert "tg8 @ d16" in second
    assert build == "build: abc1234 (0)"
