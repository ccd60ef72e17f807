"""`gguf-jax bench`: how fast models run here, in the manner of llama-bench; with `--kernels`, how fast single ops."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.cli import options
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import say, write
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.bench.model import Case, Result, Setting
    from gguf_jax.bench.report import Report

_LISTS = "Tests: N,M or FIRST-LAST, FIRST-LAST+STEP, FIRST-LAST*FACTOR; options may be repeated"
_KERNELS = "Kernels (with --kernels)"
FORMATS = ("md", "csv", "json", "jsonl", "sql")
PRECISIONS = ("exact", "fast")


def _list(*names: str, help: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_LISTS)


def _kernel(*names: str, help: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_KERNELS)


Texts = list[str] | None


def bench(
    model: Annotated[Texts, _list("-m", "--model", help="GGUF files. Default: the bundled model.")] = None,
    n_prompt: Annotated[Texts, _list("-p", "--n-prompt", help="Tokens of a prompt to run; 0: none. [512]")] = None,
    n_gen: Annotated[Texts, _list("-n", "--n-gen", help="Tokens to generate; 0: none. [128]")] = None,
    n_pg: Annotated[Texts, _list("-pg", help="PP,TG: a prompt, then tokens to generate.")] = None,
    n_depth: Annotated[Texts, _list("-d", "--n-depth", help="Tokens that the cache holds before. [0]")] = None,
    n_batch: Annotated[Texts, _list("-b", "--batch-size", help="At most so many tokens of a prompt. [2048]")] = None,
    n_ubatch: Annotated[Texts, _list("-ub", "--ubatch-size", help="... and so many in one program. [512]")] = None,
    type_k: Annotated[Texts, _list("-ctk", "--cache-type-k", help="Type of cached keys. [f16]")] = None,
    type_v: Annotated[Texts, _list("-ctv", "--cache-type-v", help="Type of cached values. [f16]")] = None,
    n_threads: Annotated[Texts, _list("-t", "--threads", help="Threads of the native kernels. [all CPUs]")] = None,
    precision: Annotated[Texts, _list("--precision", help="exact or fast (what generation uses). [fast]")] = None,
    repetitions: Annotated[int, typer.Option("-r", "--repetitions", help="Of each test.")] = 5,
    output: Annotated[str, typer.Option("-o", "--output", help=f"On stdout: {', '.join(FORMATS)}.")] = "md",
    output_err: Annotated[str | None, typer.Option("-oe", "--output-err", help="The same on stderr.")] = None,
    delay: Annotated[float, typer.Option("--delay", help="Seconds to wait before each test.")] = 0.0,
    warmup: Annotated[bool, typer.Option("--warmup/--no-warmup", help="Run each test once before it counts.")] = True,
    limits: Annotated[
        bool, typer.Option("--limits/--no-limits", help="Measure what the machine can do beside each test.")
    ] = True,
    progress: Annotated[bool, typer.Option("--progress", help="A line on stderr for each step.")] = False,
    kernels: Annotated[bool, _kernel("--kernels", help="Time ops instead of models.")] = False,
    ops: Annotated[
        Texts,
        _kernel(
            "--op",
            help="linear, linears, gated_linear, grouped_linear, attention, take_rows, rms_norm, rotate, encode. [all]",
        ),
    ] = None,
    types: Annotated[Texts, _kernel("--type", help="ggml types of weights and caches. [all]")] = None,
    shapes: Annotated[Texts, _kernel("--shape", help="Names or patterns, such as 'qwen2-1.5b.*'. [all]")] = None,
    rows: Annotated[Texts, _kernel("--rows", help="Rows of x, or of queries. [each shape's own]")] = None,
    implementations: Annotated[Texts, _kernel("--implementation", help="[each that takes the case]")] = None,
    seconds: Annotated[float, _kernel("--seconds", help="To time each case for.")] = 0.3,
    debug: options.Debug = False,
) -> None:
    """Measure tokens per second, and how near that is to what the machine can do. Compilation does not count."""
    for name in (output, *([output_err] if output_err else [])):
        if name not in FORMATS:
            raise GGUFJaxError(f"-o: expected one of {', '.join(FORMATS)}, found {name!r}")
    if repetitions < 1:
        raise GGUFJaxError(f"-r: expected at least 1, found {repetitions}")
    if not 0 <= delay < 1e6:
        raise GGUFJaxError(f"--delay: expected seconds, found {delay}")
    if not 0 < seconds < 1e6:
        raise GGUFJaxError(f"--seconds: expected seconds, found {seconds}")
    precisions = one_of("--precision", split(precision), PRECISIONS)
    threads = integers("-t", n_threads, least=1)
    if kernels:
        if len(threads) > 1:
            raise GGUFJaxError(f"-t: expected one number with --kernels, found {', '.join(map(str, threads))}")
        if output == "sql" or output_err is not None:
            raise GGUFJaxError("--kernels: expected -o md, csv, json or jsonl, and no -oe")
        from gguf_jax.cli.bench_kernels import bench_kernels

        bench_kernels(
            ops=split(ops),
            types=split(types),
            shapes=split(shapes),
            rows=integers("--rows", rows, least=1),
            implementations=split(implementations),
            precisions=precisions or list(PRECISIONS),
            threads=threads[0] if threads else None,
            seconds=seconds,
            output=output,
        )
        return
    counts = {
        "n_prompt": integers("-p", n_prompt) or [512],
        "n_gen": integers("-n", n_gen) or [128],
        "n_pg": pairs("-pg", n_pg),
        "n_depth": integers("-d", n_depth) or [0],
    }
    batches = integers("-b", n_batch, least=1) or [2048]
    ubatches = integers("-ub", n_ubatch, least=1) or [512]
    models: list[str | None] = list(split(model)) or [None]
    write("")  # fails now, not after the first test

    from gguf_jax.bench.model import Setting, cases
    from gguf_jax.nn.kv_cache import CACHE_TYPES

    keys = one_of("-ctk", split(type_k), CACHE_TYPES) or ["f16"]
    values = one_of("-ctv", split(type_v), CACHE_TYPES) or ["f16"]
    axes = batches, ubatches, keys, values, threads or [None], precisions or ["fast"]
    settings = [Setting(*each) for each in product(*axes)]
    tests = cases(settings, **counts)
    if not tests:
        raise GGUFJaxError("bench: expected something to run, found -p 0 and -n 0")
    build = build_of()
    reports = Reports(build, tests, output, output_err)
    with reports:
        for result in results(models, tests, repetitions, warmup, delay, limits, progress):
            reports.put(result)


class Reports:
    """Writes what there is of a report, and its end however the tests end: after Ctrl-C, too, JSON is whole."""

    def __init__(self, build: dict[str, Any], tests: Sequence[Case], output: str, output_err: str | None) -> None:
        from gguf_jax.bench.report import REPORTS

        self._sinks: list[tuple[Report, Any]] = [(REPORTS[output](build, tests), write)]
        if output_err is not None:
            self._sinks.append((REPORTS[output_err](build, tests), lambda text: say(text.removesuffix("\n"))))

    def __enter__(self) -> None:
        for report, put in self._sinks:
            if text := report.header():
                put(text)

    def put(self, result: Result) -> None:
        for report, put in self._sinks:
            put(report.row(result))

    def __exit__(self, *_: object) -> None:
        for report, put in self._sinks:
            if text := report.footer():
                put(text)


def results(
    models: Sequence[str | None],
    tests: Sequence[Case],
    repetitions: int,
    warmup: bool,
    delay: float,
    with_limits: bool,
    progress: bool,
) -> Iterator[Result]:
    """Run every test on every model."""
    from gguf_jax.bench import limits
    from gguf_jax.bench.model import Facts, Result, context_for, make_engine, samples
    from gguf_jax.cli.activity import Activity

    number, count = 0, len(models) * len(tests)
    for address in models:
        with opened(address) as file:
            decoder = options.load_model(file)
            facts = Facts.of(file, decoder.config)
        engine, of = None, None
        for case in tests:
            number += 1
            if delay:
                time.sleep(delay)
            if case.setting.n_threads is not None:
                limits.set_threads(case.setting.n_threads)
            name = f"{number}/{count} {case.name}"
            with Activity(name) as activity:

                def step(what: str, name: str = name, activity: Activity = activity) -> None:
                    if progress:
                        say(f"gguf-jax bench: {name}: {what}")
                    activity.describe(f"{name}: {what}")

                measured = None
                if with_limits:
                    step("measuring the machine")
                    measured = limits.measure()
                if engine is None or of != _same_engine(case.setting):
                    engine, of = None, None  # the old one's cache goes first
                    engine, of = make_engine(decoder, case.setting, context_for(tests)), _same_engine(case.setting)
                test_time = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                times = list(samples(engine, case, repetitions=repetitions, warmup=warmup, on_step=step))
            yield Result(case, facts, limits.threads(), test_time, times, measured)


def _same_engine(setting: Setting) -> tuple[Any, ...]:
    return setting.n_batch, setting.n_ubatch, setting.type_k, setting.type_v, setting.precision


def split(texts: Texts) -> list[str]:
    """`["a,b", "c"]` -> `["a", "b", "c"]`."""
    return [part for text in texts or () for part in text.split(",")]


def one_of(option: str, values: Sequence[str], known: Any) -> list[Any]:
    for value in values:
        if value not in known:
            raise GGUFJaxError(f"{option}: expected one of {', '.join(known)}, found {value!r}")
    return list(values)


MOST = 2**31 - 1


def integers(option: str, texts: Texts, least: int = 0) -> list[int]:
    """Numbers and ranges of them, ends included: `8,16`, `1-4`, `0-1024+256`, `128-1024*2`."""
    found: list[int] = []
    for part in split(texts):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?:([+*])(\d+))?)?", part, re.ASCII)
        if not match or max(len(each or "") for each in match.groups()) > 10:
            expected = "numbers such as 512, 1-4, 0-1024+256 or 128-1024*2"
            raise GGUFJaxError(f"{option}: expected {expected}, found {part!r}")
        first = int(match[1])
        last, step = int(match[2] or first), int(match[4] or 1)
        if not least <= first <= last <= MOST:
            raise GGUFJaxError(f"{option}: expected from {least} to {MOST}, in ascending order, found {part!r}")
        if last > first and (step == 0 or (match[3] == "*" and (step == 1 or first == 0))):
            raise GGUFJaxError(f"{option}: expected a range that comes to its end, found {part!r}")
        while first <= last:
            found.append(first)
            if len(found) > 1000:
                raise GGUFJaxError(f"{option}: expected at most 1000 numbers, found {part!r}")
            following = first * step if match[3] == "*" else first + step
            first = following if following > first else last + 1
    return found


def pairs(option: str, texts: Texts) -> list[tuple[int, int]]:
    """`["512,128"]` -> `[(512, 128)]`."""
    found = []
    for text in texts or ():
        match = re.fullmatch(r"(\d{1,9}),(\d{1,9})", text, re.ASCII)
        if not match:
            raise GGUFJaxError(f"{option}: expected two numbers such as 512,128, found {text!r}")
        found.append((int(match[1]), int(match[2])))
    return found


def build_of() -> dict[str, Any]:
    """What ran: the commit where the package lies in a checkout, else its version."""
    import gguf_jax

    commit = ""
    root = Path(gguf_jax.__file__).resolve().parent.parent
    if (root / ".git").exists():
        import subprocess

        try:
            asked = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
            commit = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    jax = sys.modules.get("jax")
    versions = {"version": gguf_jax.__version__, "jax_version": getattr(jax, "__version__", "")}
    return {"build_commit": commit or gguf_jax.__version__, "build_number": 0, **versions}
