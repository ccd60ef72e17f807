"""How fast single ops are: every op, type, shape, implementation and precision, beside the machine's limits."""

from __future__ import annotations

import fnmatch
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax import ops
from gguf_jax.bench.limits import Limits
from gguf_jax.bench.timed import TINY, blocks_of, limits_now, lookup_seconds, normal, seconds_of, weight_of
from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FORMATS
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.nn import kv_cache
from gguf_jax.ops.attention import shapes as attention_shapes
from gguf_jax.ops.attention.api import IMPLEMENTATIONS as ATTENTION
from gguf_jax.ops.encode import shapes as encode_shapes
from gguf_jax.ops.encode.api import IMPLEMENTATIONS as ENCODE
from gguf_jax.ops.grouped_linear import shapes as grouped_shapes
from gguf_jax.ops.grouped_linear.api import IMPLEMENTATIONS as GROUPED_LINEAR
from gguf_jax.ops.linear import shapes as linear_shapes
from gguf_jax.ops.linear.api import IMPLEMENTATIONS as LINEAR
from gguf_jax.ops.rms_norm import shapes as rms_norm_shapes
from gguf_jax.ops.rms_norm.api import IMPLEMENTATIONS as RMS_NORM
from gguf_jax.ops.rotate import shapes as rotate_shapes
from gguf_jax.ops.rotate.api import IMPLEMENTATIONS as ROTATE
from gguf_jax.ops.take_rows import shapes as take_rows_shapes
from gguf_jax.ops.take_rows.api import IMPLEMENTATIONS as TAKE_ROWS
from gguf_jax.quantized_array import FLOATS, Weight


@dataclass(frozen=True)
class Timing:
    """One measured case. `seconds` is the median of a call; `nbytes` and `operations` are what it has to read (as a
    file holds it, whatever the layout in memory) and to compute."""

    op: str
    type: str
    shape: str
    rows: int
    implementation: str
    precision: str
    seconds: float
    nbytes: float
    operations: float
    limits: Limits

    @property
    def share_of_limit(self) -> float:
        return self.limits.least_seconds(self.nbytes, self.operations, self.precision) / self.seconds

    def as_dict(self) -> dict[str, Any]:
        return {
            "op": self.op,
            "type": self.type,
            "shape": self.shape,
            "rows": self.rows,
            "implementation": self.implementation,
            "precision": self.precision,
            "median_us": round(1e6 * self.seconds, 3),
            "gb_per_s": round(self.nbytes / self.seconds / 1e9, 3),
            "gflop_per_s": round(self.operations / self.seconds / 1e9, 3),
            "share_of_limit": round(self.share_of_limit, 6),
            "read_bandwidth": round(self.limits.bandwidth),
            "peak_ops": round(self.limits.peak(self.precision)),
        }


@dataclass(frozen=True)
class Chosen:
    """Which cases to run; an empty list means all there are. `shapes` are patterns; the small shapes, which are there
    for tests, must be asked for."""

    ops: Sequence[str] = ()
    types: Sequence[str] = ()
    shapes: Sequence[str] = ()
    rows: Sequence[int] = ()
    implementations: Sequence[str] = ()
    precisions: Sequence[str] = ("exact", "fast")
    seconds: float = 0.3

    def check(self) -> None:
        """
        Raises:
            GGUFJaxError: something is named that there is not.
        """
        implementations = {*LINEAR, *GROUPED_LINEAR, *ATTENTION, *TAKE_ROWS, *RMS_NORM, *ROTATE, *ENCODE}
        types = [type.name for type in GGMLType if type in FORMATS]
        for option, values, known in (
            ("--op", self.ops, list(OPS)),
            ("--type", [each.upper() for each in self.types], types),
            ("--implementation", self.implementations, sorted(implementations)),
        ):
            for value in values:
                if value not in known:
                    raise GGUFJaxError(f"{option}: expected one of {', '.join(known)}, found {value!r}")
        for pattern in self.shapes:
            if not fnmatch.filter(SHAPES, pattern):
                raise GGUFJaxError(f"--shape: expected a pattern of {', '.join(sorted(SHAPES))}, found {pattern!r}")

    def of_shapes(self, shapes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for name, shape in shapes.items():
            wanted = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.shapes)
            if wanted or (not self.shapes and not name.startswith("small.")):
                yield name, shape

    def of_types(self, known: Sequence[GGMLType]) -> list[GGMLType]:
        return [type for type in known if not self.types or type.name in {each.upper() for each in self.types}]

    def of_implementations(self, known: Sequence[str]) -> list[str]:
        return [name for name in known if not self.implementations or name in self.implementations]


def timings(chosen: Chosen, on_case: Callable[[str], None] = lambda what: None) -> Iterator[Timing]:
    """Run the cases that are `chosen`; an implementation that does not take a case is passed over. `on_case` is told
    what comes.

    Raises:
        GGUFJaxError: as `Chosen.check`.
    """
    chosen.check()
    for op in chosen.ops or OPS:
        yield from OPS[op](chosen, on_case)


def _linear(
    op: str, call_of: Callable[..., jax.Array], shapes: dict[str, Any], chosen: Chosen, on_case: Callable[[str], None]
) -> Iterator[Timing]:
    """`call_of(x, weights, precision=..., implementation=...)` with every type and shape."""
    for shape_name, shape in chosen.of_shapes(shapes):
        for type in chosen.of_types(WEIGHT_TYPES):
            if shape.inputs % FORMATS[type].block_size:
                continue
            on_case(f"{op} {type.name} {shape_name}: making weights")
            blocks = [blocks_of(type, outputs, columns=shape.inputs) for outputs in shape.outputs]
            nbytes = sum(each.nbytes for each in blocks)
            for name in chosen.of_implementations(list(LINEAR)):
                weights = [weight_of(each, type, name) for each in blocks]
                for precision in chosen.precisions:
                    call = partial(call_of, precision=precision, implementation=name)
                    for rows in chosen.rows or shape.rows:
                        on_case(f"{op} {type.name} {shape_name} rows {rows} {name} {precision}")
                        seconds = seconds_of(call, normal(rows, shape.inputs), weights, nbytes, chosen.seconds)
                        if seconds is not None:
                            operations = 2.0 * rows * sum(shape.outputs) * shape.inputs
                            case = op, type.name, shape_name, rows, name, precision
                            yield Timing(*case, seconds, nbytes, operations, limits_now())


def _linears(x: jax.Array, weights: list[Weight], **options: Any) -> jax.Array:
    return jnp.concatenate(ops.linears(x, weights, **options), axis=-1)


def _gated_linear(x: jax.Array, weights: list[Weight], **options: Any) -> jax.Array:
    return ops.gated_linear(x, *weights, **options)


def grouped_linear(chosen: Chosen, on_case: Callable[[str], None]) -> Iterator[Timing]:
    """Call after call with other experts, until all have had their turn."""
    for shape_name, s in chosen.of_shapes(grouped_shapes.SHAPES):
        for type in chosen.of_types(WEIGHT_TYPES):
            if s.inputs % FORMATS[type].block_size:
                continue
            on_case(f"grouped_linear {type.name} {shape_name}: making weights")
            blocks = blocks_of(type, s.n_expert, s.outputs, columns=s.inputs)
            turns = -(-s.n_expert // s.used)
            cases = product(chosen.of_implementations(list(GROUPED_LINEAR)), chosen.precisions, chosen.rows or s.rows)
            for name, precision, rows in cases:
                on_case(f"grouped_linear {type.name} {shape_name} rows {rows} {name} {precision}")
                rng = np.random.default_rng(0)
                experts = np.array([[rng.permutation(s.n_expert)[: s.used] for _ in range(rows)] for _ in range(turns)])

                def call(x: jax.Array, each: Any, options: Any = (name, precision)) -> jax.Array:
                    w, experts = each
                    y = jnp.float32(0)
                    for one in experts:
                        x = x.at[0, 0].add(TINY * jnp.ravel(y)[0])
                        y = ops.grouped_linear(x, w, one, implementation=options[0], precision=options[1])
                    return y

                weight = weight_of(blocks, type, name), jnp.asarray(experts, jnp.int32)
                seconds = seconds_of(call, normal(rows, s.inputs), weight, blocks.nbytes, chosen.seconds)
                if seconds is not None:
                    met = statistics.fmean(len(np.unique(each)) for each in experts)
                    operations = 2.0 * rows * s.used * s.outputs * s.inputs
                    case = "grouped_linear", type.name, shape_name, rows, name, precision
                    yield Timing(*case, seconds / turns, blocks.nbytes * met / s.n_expert, operations, limits_now())


linear = partial(_linear, "linear", _linears, linear_shapes.SHAPES)
linears = partial(_linear, "linears", _linears, linear_shapes.TOGETHER)
gated_linear = partial(_linear, "gated_linear", _gated_linear, linear_shapes.GATED)


def attention(chosen: Chosen, on_case: Callable[[str], None]) -> Iterator[Timing]:
    for shape_name, s in chosen.of_shapes(attention_shapes.SHAPES):
        for type in chosen.of_types(list(kv_cache.CACHE_TYPES.values())):
            if s.depth % FORMATS[type].block_size:
                continue
            rows = [normal(1, s.span, s.groups, s.depth, seed=seed) for seed in (1, 2)]
            filled = jnp.arange(s.span, dtype=jnp.int32)[None]
            cache = [kv_cache.write(kv_cache.buffer(type, 1, s.groups, s.span, s.depth), each, filled) for each in rows]
            nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
            positions = filled[:, -s.queries :]
            seen = s.queries * s.span - s.queries * (s.queries - 1) // 2
            for name, precision in product(chosen.of_implementations(list(ATTENTION)), chosen.precisions):
                on_case(f"attention {type.name} {shape_name} {name} {precision}")

                def call(q: jax.Array, kv: Any, s: Any = s, positions: Any = positions, **options: Any) -> jax.Array:
                    return ops.attention(q, kv[0], kv[1], positions, scale=s.depth**-0.5, span=s.span, **options)

                q = normal(1, s.queries, s.heads, s.depth)
                chosen_call = partial(call, precision=precision, implementation=name)
                seconds = seconds_of(chosen_call, q, cache, nbytes, chosen.seconds)
                if seconds is not None:
                    operations = 4.0 * s.heads * s.depth * seen
                    case = "attention", type.name, shape_name, s.queries, name, precision
                    yield Timing(*case, seconds, nbytes, operations, limits_now())


def take_rows(chosen: Chosen, on_case: Callable[[str], None]) -> Iterator[Timing]:
    for shape_name, shape in chosen.of_shapes(take_rows_shapes.SHAPES):
        for type in chosen.of_types(WEIGHT_TYPES):
            form = FORMATS[type]
            if shape.width % form.block_size:
                continue
            on_case(f"take_rows {type.name} {shape_name}: making a table")
            w = weight_of(blocks_of(type, shape.entries, columns=shape.width), type, "xla")  # tables are not prepared
            for name in chosen.of_implementations(list(TAKE_ROWS)):
                for rows in chosen.rows or shape.rows:
                    on_case(f"take_rows {type.name} {shape_name} rows {rows} {name}")
                    seconds = lookup_seconds(w, rows, name, chosen.seconds)
                    if seconds is not None:
                        nbytes = rows * form.row_bytes(shape.width)
                        case = "take_rows", type.name, shape_name, rows, name, "exact"
                        yield Timing(*case, seconds, nbytes, 0.0, limits_now())


def rms_norm(chosen: Chosen, on_case: Callable[[str], None]) -> Iterator[Timing]:
    for shape_name, shape in chosen.of_shapes(rms_norm_shapes.SHAPES):
        weight = normal(shape.features)
        for name, rows in product(chosen.of_implementations(list(RMS_NORM)), chosen.rows or shape.rows):
            on_case(f"rms_norm {shape_name} rows {rows} {name}")
            x = normal(rows, shape.features)
            seconds = seconds_of(
                partial(ops.rms_norm, eps=1e-6, implementation=name), x, weight, x.nbytes, chosen.seconds
            )
            if seconds is not None:  # read and written; a square and its sum, two products
                case = "rms_norm", "F32", shape_name, rows, name, "exact"
                yield Timing(*case, seconds, 2 * x.nbytes, 4.0 * x.size, limits_now())


def rotate(chosen: Chosen, on_case: Callable[[str], None]) -> Iterator[Timing]:
    for shape_name, shape in chosen.of_shapes(rotate_shapes.SHAPES):
        for name, rows in product(chosen.of_implementations(list(ROTATE)), chosen.rows or shape.rows):
            on_case(f"rotate {shape_name} rows {rows} {name}")
            query_heads, heads = shape.heads
            x = normal(1, rows, query_heads + heads, shape.depth)
            angles = [normal(1, rows, shape.depth // 2, seed=seed) for seed in (1, 2)]

            def call(x: jax.Array, angles: Any, split: int = query_heads, name: str = name) -> jax.Array:
                both = [x[:, :, :split], x[:, :, split:]]
                turned = ops.rotate(both, *angles, interleaved=False, implementation=name)
                return jnp.concatenate(turned, axis=2)

            seconds = seconds_of(call, x, angles, x.nbytes, chosen.seconds)
            if seconds is not None:
                case = "rotate", "F32", shape_name, rows, name, "exact"
                yield Timing(*case, seconds, 2 * x.nbytes, 3.0 * x.size, limits_now())


def encode(chosen: Chosen, on_case: Callable[[str], None]) -> Iterator[Timing]:
    """With importance, which every type takes; its cost is the search, of which no limit is known but reading x."""
    for shape_name, shape in chosen.of_shapes(encode_shapes.SHAPES):
        for type in chosen.of_types([type for type, form in FORMATS.items() if form.encode and form.is_quantized]):
            if shape.columns % FORMATS[type].block_size:
                continue
            importance = jnp.square(normal(shape.columns, seed=1))
            for name, rows in product(chosen.of_implementations(list(ENCODE)), chosen.rows or shape.rows):
                on_case(f"encode {type.name} {shape_name} rows {rows} {name}")

                def call(x: jax.Array, weights: jax.Array, type: GGMLType = type, name: str = name) -> jax.Array:
                    planes = ops.encode(x, type, weights, implementation=name).planes
                    return jnp.concatenate([plane.astype(jnp.float32) for plane in planes.values()], axis=-1)

                x = normal(rows, shape.columns)
                seconds = seconds_of(call, x, importance, x.nbytes, chosen.seconds)
                if seconds is not None:
                    case = "encode", type.name, shape_name, rows, name, "exact"
                    yield Timing(*case, seconds, x.nbytes, 0.0, limits_now())


OPS = {
    "linear": linear,
    "linears": linears,
    "gated_linear": gated_linear,
    "grouped_linear": grouped_linear,
    "attention": attention,
    "take_rows": take_rows,
    "rms_norm": rms_norm,
    "rotate": rotate,
    "encode": encode,
}
SHAPES = {
    **linear_shapes.SHAPES,
    **linear_shapes.TOGETHER,
    **linear_shapes.GATED,
    **grouped_shapes.SHAPES,
    **attention_shapes.SHAPES,
    **take_rows_shapes.SHAPES,
    **rms_norm_shapes.SHAPES,
    **rotate_shapes.SHAPES,
    **encode_shapes.SHAPES,
}
WEIGHT_TYPES = [type for type, form in FORMATS.items() if form.is_quantized or type in FLOATS]
