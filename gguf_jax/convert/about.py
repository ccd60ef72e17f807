"""`general_metadata`: the `general.*` keys, from the model card, the settings of generation and the model's name.

Names of models are written by hand and follow no rule; what can be told from one (basename, size, version, fine-tune)
is told by the parts between its hyphens, as the peer's converter does, so that files are found under the same keys.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from gguf_jax.convert.source import HFFolder
from gguf_jax.gguf import Typed, ValueType

SAMPLING: dict[str, tuple[str, ValueType]] = {
    "top_k": ("top_k", ValueType.I32),
    "top_p": ("top_p", ValueType.F32),
    "min_p": ("min_p", ValueType.F32),
    "temperature": ("temp", ValueType.F32),
    "repetition_penalty": ("penalty_repeat", ValueType.F32),
}
"""Key of generation_config.json -> key behind `general.sampling.` and its type."""

CARD = {
    "name": ("name", "model_name"),
    "author": ("author", "model_author", "model_creator"),
    "version": ("version", "model_version"),
    "organization": ("organization", "model_organization"),
    "finetune": ("finetune", "model_finetune"),
    "basename": ("basename", "model_basename", "model_type"),
    "description": ("description", "model_description"),
    "size_label": ("size_label", "model_size_label"),
    "license.name": ("license_name",),
    "license.link": ("license_link",),
    "source.url": ("url", "model_url"),
    "source.doi": ("doi", "model_doi"),
    "source.repo_url": ("repo_url", "model_repo_url"),
}
"""Key behind `general.` -> keys of a model card that it may be taken from."""


def general_metadata(
    folder: HFFolder, shapes: Mapping[str, tuple[int, ...]], name: str | None = None
) -> dict[str, Any]:
    """The keys, of a model with tensors of these shapes. `name`: what to call it, if its name is known better."""
    parameters = sum(math.prod(shape) for shape in shapes.values())
    card = model_card(folder)
    found: dict[str, Any] = {"general.type": "model"}
    for key, (to, kind) in SAMPLING.items():
        value = (folder.json("generation_config.json") or {}).get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found[f"general.sampling.{to}"] = Typed(int(value) if kind is ValueType.I32 else float(value), kind)
    known: dict[str, str] = {} if name is None else {"name": name}
    for key, names in CARD.items():
        value = next((card[each] for each in names if isinstance(card.get(each), str)), None)
        if value is not None:
            known.setdefault(key, value)
    path = folder.config.get("_name_or_path")
    ids = [path] if isinstance(path, str) and path and path.count("/") <= 1 else []
    for each in (*ids, folder.model_id):
        for key, value in told_by_name(each, parameters).items():
            known.setdefault(key, value)
    known.setdefault("size_label", size_label(shapes))
    found |= {f"general.{key}": value for key, value in known.items()}
    if license := _texts(card.get("license")):
        found["general.license"] = ",".join(license)
    found |= _related(card, "base_model", ("base_model", "base_models", "base_model_sources"), parameters)
    found |= _related(card, "dataset", ("datasets", "dataset", "dataset_sources"), parameters)
    tags = [*_texts(card.get("tags")), *_texts(card.get("pipeline_tag"))]
    languages = [*_texts(card.get("languages")), *_texts(card.get("language"))]
    found |= {"general.tags": tags} if tags else {}
    found |= {"general.languages": languages} if languages else {}
    return found


def _texts(value: object) -> list[str]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def model_card(folder: HFFolder) -> dict[str, Any]:
    """The YAML at the head of README.md; empty where there is none, or it cannot be read: nothing depends on it."""
    import yaml  # huggingface_hub needs it too

    text = folder.text("README.md") or ""
    lines = text.splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    head = "\n".join(lines[1 : lines.index("---", 1)]).replace("\t", "  ")
    try:
        found = yaml.safe_load(head.replace("- no\n", '- "no"\n'))  # Norwegian, which YAML reads as false
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _related(card: Mapping[str, Any], key: str, names: tuple[str, ...], parameters: int) -> dict[str, Any]:
    """The models or data that this model is made from."""
    value = next((card[name] for name in names if card.get(name) is not None), None)
    ids = _texts(value)
    if not ids:
        return {}
    found: dict[str, Any] = {f"general.{key}.count": len(ids)}
    for i, each in enumerate(ids):
        start = f"general.{key}.{i}."
        repo = re.fullmatch(r"(?:https?://huggingface\.co/)?([^/\s]+)/([^/\s]+)", each)
        if each.startswith(("http://", "https://", "ssh://")):
            found[f"{start}repo_url"] = each
        elif repo:
            found[f"{start}repo_url"] = f"https://huggingface.co/{each}"
        name = repo[0].removeprefix("https://huggingface.co/") if repo else each
        if repo or "/" not in each:
            told = told_by_name(name, parameters)
            found |= {f"{start}{k}": told[k] for k in ("name", "organization", "version") if k in told}
    return found


def titled(name: str) -> str:
    """Words with capitals, but for those that have some, and for versions."""
    words = name.strip().replace("-", " ").split()
    return " ".join(w.title() if w.islower() and not re.match(r"(v\d+(\.\d+)*|\d.*)$", w) else w for w in words)


VERSION = re.compile(r"(v|iter)?\d+([.]\d+)*", re.IGNORECASE)
ENCODING = re.compile(r"i?q\d(_\w)*|b?fp?(16|32)", re.IGNORECASE)
SIZE = re.compile(r"(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)", re.IGNORECASE)
TUNED = re.compile(r"chat|instruct|vision|lora", re.IGNORECASE)


def told_by_name(model_id: str, parameters: int) -> dict[str, str]:
    """What the parts of a name like `org/Base-7B-Instruct-v0.2` say."""
    if " " in model_id:
        return {"name": model_id}
    organization, slash, name = model_id.rpartition("/")
    parts = [part for part in name.split("-") if part]
    kinds: list[str] = []
    for i, part in enumerate(parts):
        kind = ""
        if VERSION.fullmatch(part):
            kind = "version"
        elif ENCODING.fullmatch(part):
            kind, parts[i] = "encoding", part.upper()
        elif i > 0 and SIZE.fullmatch(part):
            kind, parts[i] = _sized(part, parameters)
        elif i > 0 and TUNED.fullmatch(part):
            kind = "finetune"
        kinds.append(kind)
    sizes = [part for part, kind in zip(parts, kinds, strict=True) if kind == "size_label"]
    if any(c.isdecimal() for size in sizes for c in size):  # a number says more than "mini"
        kinds = [
            "word" if kind == "size_label" and part.isalpha() else kind for part, kind in zip(parts, kinds, strict=True)
        ]
    base = 0  # how many of the first parts are the basename: words and versions up to the first that is neither
    while base < len(parts) and ((kinds[base] == "" and parts[base][0].isalpha()) or kinds[base] == "version"):
        base += 1
    kinds[base:] = [kind or "finetune" for kind in kinds[base:]]
    while base and kinds[base - 1] == "version" and base == len(parts):
        base -= 1

    def joined(kind: str) -> str:
        found = [part for i, (part, k) in enumerate(zip(parts, kinds, strict=True)) if k == kind and i >= base]
        return "-".join(dict.fromkeys(found) if kind == "size_label" else found)

    told = {kind: text for kind in ("finetune", "version", "size_label") if (text := joined(kind))}
    if told and base:
        told["basename"] = "-".join(parts[:base])
    if slash and organization and not organization.startswith("."):
        told["organization"] = titled(organization)
    return {"name": titled(name)} | told if name else told


def _sized(part: str, parameters: int) -> tuple[str, str]:
    part = part.replace("_", ".")
    if part[-1].isdecimal():  # 7b1
        part = f"{part[:-2]}.{part[-1]}{part[-2]}"
    if len(part) > 1 and part[-2].isdecimal() and part[-1] in "kmbt":
        part = part[:-1] + part[-1].upper()
    try:
        size = float(part[:-1]) * 1000.0 ** " KMBT".find(part[-1])
    except ValueError:
        return "size_label", part
    if parameters and abs(size - parameters) > 7 * parameters // 8:  # a length of context, rather
        return "finetune", part[:-1] + part[-1].lower()
    return "size_label", part


def size_label(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """How many weights, in two digits; with experts, how many of them and of how many weights one path is."""
    experts = [shape for name, shape in shapes.items() if "_exps." in name and len(shape) > 2]
    total = sum(math.prod(shape) for shape in shapes.values())
    one = sum(math.prod(shape) // shape[0] for shape in experts)
    count = sum(shape[0] for shape in experts) // len(experts) if experts else 0
    size = total - sum(math.prod(shape) for shape in experts) + one
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (0, "K")):
        if size > limit:
            scaled = size / max(limit, 1e3)
            digits = max(2 - len(str(round(scaled)).lstrip("0")), 0)
            return f"{f'{count}x' if count else ''}{scaled:.{digits}f}{unit}"
    return "0K"
