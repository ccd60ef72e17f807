"""Results of tests as text, in the formats and with the field names of llama-bench, so that what reads those reads
these; fields that mean nothing here are left out, and ours stand at the end."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gguf_jax.bench.model import Case, Result, cpu_name, gpu_name


def fields(result: Result, build: Mapping[str, Any]) -> dict[str, Any]:
    """A result as JSON has it. Times are nanoseconds; `limit_ts` are the tokens a second that the limits measured in
    the same run allow, `read_bandwidth` bytes a second, `peak_ops` operations a second."""
    import jax

    case, facts, limits = result.case, result.facts, result.limits
    s = case.setting
    return {
        **build,
        "cpu_info": cpu_name(),
        "gpu_info": gpu_name(),
        "backends": jax.default_backend().upper(),
        "model_filename": facts.filename,
        "model_type": facts.description,
        "model_size": facts.size,
        "model_n_params": facts.parameters,
        "n_batch": s.n_batch,
        "n_ubatch": s.n_ubatch,
        "n_threads": result.n_threads,
        "type_k": s.type_k,
        "type_v": s.type_v,
        "n_prompt": case.n_prompt,
        "n_gen": case.n_gen,
        "n_depth": case.n_depth,
        "test_time": result.test_time,
        "avg_ns": round(result.avg_ns),
        "stddev_ns": round(result.stddev_ns),
        "avg_ts": round(result.avg_ts, 6),
        "stddev_ts": round(result.stddev_ts, 6),
        "precision": s.precision,
        "read_bandwidth": None if limits is None else round(limits.bandwidth),
        "peak_ops": None if limits is None else round(limits.peak(s.precision)),
        "limits_source": None if limits is None else limits.source,
        "limit_ts": None if result.limit_ts is None else round(result.limit_ts, 6),
        "share_of_limit": None if result.share_of_limit is None else round(result.share_of_limit, 6),
    }


def with_samples(result: Result, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON has it, which can hold lists."""
    return {**row, "samples_ns": result.samples_ns, "samples_ts": [round(each, 6) for each in result.samples_ts]}


class Report:
    """Text before, for each and after all results. `fields` decides what is in it, a subclass how it looks."""

    def __init__(self, build: Mapping[str, Any], cases: Sequence[Case]) -> None:
        """`cases` are the tests to come: what is the same for all of them may be left out."""
        self.build, self.cases = build, cases
        self.first = True

    def header(self) -> str:
        return ""

    def row(self, result: Result) -> str:
        raise NotImplementedError

    def footer(self) -> str:
        return ""


class Json(Report):
    def header(self) -> str:
        return "[\n"

    def row(self, result: Result) -> str:
        text = json.dumps(with_samples(result, fields(result, self.build)), indent=2)
        before, self.first = ("" if self.first else ",\n"), False
        return before + text

    def footer(self) -> str:
        return "\n]\n"


class JsonLines(Report):
    def row(self, result: Result) -> str:
        return json.dumps(with_samples(result, fields(result, self.build))) + "\n"


class Csv(Report):
    def row(self, result: Result) -> str:
        text = io.StringIO()
        row = fields(result, self.build)
        writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
        if self.first:
            text.write(",".join(row) + "\n")
            self.first = False
        writer.writerow(["" if value is None else value for value in row.values()])
        return text.getvalue()


class Sql(Report):
    TABLE = "gguf_jax_bench"

    def row(self, result: Result) -> str:
        row, text = fields(result, self.build), ""
        if self.first:
            columns = ",\n".join(f"  {name} {self._type(name, value)}" for name, value in row.items())
            text, self.first = f"CREATE TABLE IF NOT EXISTS {self.TABLE} (\n{columns}\n);\n\n", False
        values = ", ".join(self._literal(value) for value in row.values())
        return f"{text}INSERT INTO {self.TABLE} ({', '.join(row)}) VALUES ({values});\n"

    @staticmethod
    def _type(name: str, value: Any) -> str:
        if name in ("read_bandwidth", "peak_ops", "limit_ts", "share_of_limit"):  # which may be null
            return "REAL"
        return {int: "INTEGER", float: "REAL"}.get(type(value), "TEXT")

    @staticmethod
    def _literal(value: Any) -> str:
        if value is None:
            return "NULL"
        return str(value) if isinstance(value, (int, float)) else "'" + str(value).replace("'", "''") + "'"


class Markdown(Report):
    """A table for people: with columns for what differs between tests."""

    VARIED: Mapping[str, Callable[[Result], Any]] = {
        "n_batch": lambda r: r.case.setting.n_batch,
        "n_ubatch": lambda r: r.case.setting.n_ubatch,
        "type_k": lambda r: r.case.setting.type_k,
        "type_v": lambda r: r.case.setting.type_v,
        "precision": lambda r: r.case.setting.precision,
    }
    COLUMNS: Mapping[str, tuple[int, Callable[[Result], str]]] = {  # a negative width stands left
        "model": (-30, lambda r: r.facts.description.replace("|", "\\|")),
        "size": (10, lambda r: _size(r.facts.size)),
        "params": (10, lambda r: _count(r.facts.parameters)),
        "backend": (-10, lambda r: _backend()),
        "threads": (7, lambda r: str(r.n_threads)),
        "test": (15, lambda r: r.case.name),
        "t/s": (20, lambda r: f"{r.avg_ts:.2f} ± {r.stddev_ts:.2f}"),
        "limit t/s": (10, lambda r: "" if r.limit_ts is None else f"{r.limit_ts:.2f}"),
        "share": (7, lambda r: "" if r.share_of_limit is None else f"{100 * r.share_of_limit:.1f} %"),
    }

    def __init__(self, build: Mapping[str, Any], cases: Sequence[Case]) -> None:
        super().__init__(build, cases)
        varied = [name for name in self.VARIED if len({getattr(case.setting, name) for case in cases}) > 1]
        self.columns: dict[str, tuple[int, Callable[[Result], str]]] = {}
        for name, column in self.COLUMNS.items():
            if name == "test":
                self.columns |= {each: (max(len(each), 7), self._shown(each)) for each in varied}
            self.columns[name] = column

    def _shown(self, name: str) -> Callable[[Result], str]:
        return lambda result: str(self.VARIED[name](result))

    def header(self) -> str:
        names = [self._padded(name, width) for name, (width, _) in self.columns.items()]
        rules = ["-" * (abs(width) - 1) + (":" if width > 0 else "-") for width, _ in self.columns.values()]
        return "".join("| " + " | ".join(line) + " |\n" for line in (names, rules))

    def row(self, result: Result) -> str:
        cells = [self._padded(show(result), width) for width, show in self.columns.values()]
        return "| " + " | ".join(cells) + " |\n"

    def footer(self) -> str:
        return f"\nbuild: {self.build['build_commit']} ({self.build['build_number']})\n"

    @staticmethod
    def _padded(text: str, width: int) -> str:
        return text.rjust(width) if width > 0 else text.ljust(-width)


REPORTS: Mapping[str, type[Report]] = {"md": Markdown, "csv": Csv, "json": Json, "jsonl": JsonLines, "sql": Sql}


def _backend() -> str:
    import jax

    return jax.default_backend().upper()


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.2f} MiB"


def _count(n: int) -> str:
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.2f} M"
