"""`Family`: what one class of transformers' models is in GGUF, as data; and `Mapping`s of its tensors, both ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gguf_jax.convert.config import Config
from gguf_jax.convert.transforms import Chain, Same, Split, Stack, Transform
from gguf_jax.errors import GGUFError
from gguf_jax.gguf import TensorView
from gguf_jax.gguf.text import shown

Modules = Mapping[str, "str | tuple[str, ...]"]
"""Module in transformers -> module in GGUF, or several that its rows are split among. `{}` stands for the number of a
block; `{e}` for the number of an expert or a head, whose tensors are stacked. A tensor is a module and `.weight`,
`.bias` or nothing (which is a weight); a name that ends so stands for itself."""

BUFFERS = (
    "*.rotary_emb.inv_freq", "*.attn.bias", "*.attn.masked_bias", "*.attention.bias", "*.attention.masked_bias",
    "*.attention.rotary_emb.inv_freq", "*position_ids",
)  # fmt: skip
"""Tensors that old files hold and no model learns."""

VISION = (
    "vision_tower.*", "multi_modal_projector.*", "model.vision_tower.*", "model.multi_modal_projector.*", "visual.*",
    "model.visual.*",
)  # fmt: skip
"""Other parts of a model than its text."""


@dataclass(frozen=True)
class Family:
    """What a class of models is in GGUF.

    Attributes:
        architecture: `general.architecture`.
        classes: of transformers; the first is what `export` writes.
        modules: names.
        metadata: config.json -> keys without the architecture's prefix.
        config: the way back: keys and tensors of a file -> config.json, on top of `keys.exported`.
        transforms: GGUF module without its block (`attn_q`), or the same of transformers' where one GGUF module may be
            of several -> what becomes of its tensors. Of what is split among modules it does the splitting.
        tensors: GGUF name -> what is computed from config.json; `computed` are all such names.
        defaults: what transformers takes for keys that are not there.
        prefix: what names begin with, for files of a class without a head, which have none.
        skip: patterns of tensors that are not part of the text model.
        quantized: the `quant_method`s that its files may have.
        unused: names of a file's tensors -> modules that a model of such a file does not have, where two have one name.
        model_type: for `export`.
    """

    architecture: str
    classes: tuple[str, ...]
    model_type: str
    modules: Modules
    metadata: Callable[[Config], dict[str, Any]]
    config: Callable[[Mapping[str, Any], Mapping[str, TensorView]], dict[str, Any]]
    transforms: Callable[[Config], Mapping[str, Transform]] = field(default=lambda config: {})
    tensors: Callable[[Config], Mapping[str, np.ndarray]] = field(default=lambda config: {})
    defaults: Mapping[str, Any] = field(default_factory=dict)
    computed: tuple[str, ...] = ()
    prefix: str = "model."
    skip: tuple[str, ...] = ()
    quantized: tuple[str, ...] = ()
    unused: Callable[[Collection[str]], Collection[str]] = field(default=lambda names: ())


@dataclass(frozen=True)
class Made:
    """GGUF tensors `gguf`, made of the tensors `hf` by `transform`."""

    hf: tuple[str, ...]
    gguf: tuple[str, ...]
    transform: Transform


def _regex(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\{\}", r"(?P<block>0|[1-9][0-9]{0,5})")
    return re.compile(text.replace(r"\{e\}", r"(?P<each>0|[1-9][0-9]{0,5})") + r"(?P<suffix>\.weight|\.bias|)")


def _of_block(pattern: str, block: str | None) -> str:
    return pattern if block is None else pattern.replace("{}", block)


def with_suffix(module: str, suffix: str) -> str:
    return module if module.endswith((".weight", ".bias", *PLAIN)) else module + (suffix or ".weight")


def transform_key(module: str) -> str:
    """The name of a GGUF module without its block."""
    return re.sub(r"^blk\.(\{\}|\d+)\.", "", module)


class Names:
    """The names of a family, ready to be looked up."""

    def __init__(self, family: Family, transforms: Mapping[str, Transform], file: Collection[str] = ()):
        """`file`: names of a GGUF file's tensors, for the way back."""
        self.family = family
        self.transforms = transforms
        self.patterns = [
            (_regex(hf), hf, (to,) if isinstance(to, str) else to)
            for hf, to in family.modules.items()
            if not file or hf not in family.unused(file)
        ]

    def transform(self, hf: str, gguf: tuple[str, ...]) -> Transform:
        own = self.transforms.get(hf.rpartition(".{}.")[2], self.transforms.get(transform_key(gguf[0])))
        if "{e}" in hf:
            return Stack() if own is None else Chain((own, Stack()))
        if len(gguf) > 1:
            return Split(len(gguf)) if own is None else own
        return own or Same()

    def made(self, names: Sequence[str]) -> tuple[list[Made], list[str]]:
        """What becomes of tensors with these names, and the names that are not known."""
        gathered: dict[tuple[str, str | None, str], dict[int, str]] = {}
        found: list[Made] = []
        unknown: list[str] = []
        for name in names:
            for regex, hf, gguf in self.patterns:
                if (match := regex.fullmatch(name)) is None:
                    continue
                block, suffix = match.groupdict().get("block"), match["suffix"]
                targets = tuple(with_suffix(_of_block(each, block), suffix) for each in gguf)
                if "{e}" in hf:
                    gathered.setdefault((hf, block, suffix), {})[int(match["each"])] = name
                else:
                    found.append(Made((name,), targets, self.transform(hf, gguf)))
                break
            else:
                unknown.append(name)
        for (hf, block, suffix), parts in gathered.items():
            missing = next((i for i in range(len(parts)) if i not in parts), None)
            if missing is not None:
                name = _of_block(hf, block).replace("{e}", str(missing)) + suffix
                raise GGUFError(f"expected the tensor {name}, found no such tensor")
            gguf = next(to for _, pattern, to in self.patterns if pattern == hf)
            targets = tuple(with_suffix(_of_block(each, block), suffix) for each in gguf)
            found.append(Made(tuple(parts[i] for i in range(len(parts))), targets, self.transform(hf, gguf)))
        return found, unknown

    def sources(self, gguf: str) -> str:
        """What a GGUF tensor is called in transformers, for messages."""
        for hf, names in self._reverse(gguf):
            return hf if len(names) == 1 else f"{hf} (the part {gguf})"
        return gguf

    def _reverse(self, gguf: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        for _, hf, to in self.patterns:
            for each in to:
                match = _regex(each).fullmatch(gguf)
                if match is None or (each.endswith((".weight", ".bias")) and match["suffix"]):
                    continue
                if hf.endswith(BARE) and match["suffix"] == ".bias":
                    continue
                block, suffix = match.groupdict().get("block"), match["suffix"]
                bare = each.endswith((".weight", ".bias")) or hf.endswith(BARE)
                names = tuple(with_suffix(_of_block(other, block), suffix) for other in to)
                yield _of_block(hf, block) + ("" if bare else suffix), names

    def without_place(self, tensors: Collection[str]) -> list[str]:
        """GGUF tensors that a model of this family does not have."""
        return [n for n in tensors if n not in self.family.computed and next(self._reverse(n), None) is None]

    def unmade(self, shapes: Mapping[str, tuple[int, ...]]) -> list[Made]:
        """The way back: which tensors of transformers the tensors of a GGUF file are made into."""
        found: dict[tuple[str, ...], Made] = {}
        for name, shape in shapes.items():
            for hf, names in self._reverse(name):
                if not all(each in shapes for each in names):
                    continue
                pattern, to = next((p, to) for r, p, to in self.patterns if r.fullmatch(hf.replace("{e}", "0")))
                parts = tuple(hf.replace("{e}", str(i)) for i in range(shape[0])) if "{e}" in hf else (hf,)
                found[names] = Made(parts, names, self.transform(pattern, to))
                break
            else:
                raise GGUFError(f"tensor {shown(name)}: expected one that {self.family.classes[0]} has a place for")
        return list(found.values())


PLAIN = (".ssm_a", ".ssm_d")
"""Tensors of GGUF without `.weight` at the end of their names."""

BARE = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj", "self_attn.sinks")
"""Parameters of transformers without `.weight` at the end of their names."""
