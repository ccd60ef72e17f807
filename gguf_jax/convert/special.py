"""Tokens with a role, whether BOS and EOS are added, and chat templates: what tokenizer_config.json and its kin say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gguf_jax.convert.source import HFFolder
from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import shown
from gguf_jax.tokenizers.special_tokens import END_TEXTS

KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # spelled so in the format
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
}
"""Role in tokenizer_config.json -> key."""

ADDED = ("bos", "eos", "sep")


def metadata(
    folder: HFFolder, tokenizer: Mapping[str, Any] | None, settings: Mapping[str, Any], size: int
) -> dict[str, Any]:
    """The keys of ids, of what is added to a text, and of templates."""
    settings = dict(settings)
    adds = _added_by_template(tokenizer or {}, settings)
    for role in KEYS:
        if isinstance(flag := settings.get(f"add_{role}_token"), bool):
            adds.setdefault(role, flag)
    ids = _ids(folder, tokenizer or {}, settings, size)
    found: dict[str, Any] = {f"tokenizer.ggml.{KEYS[role]}": i for role, i in ids.items()}
    found |= _more_ends(folder, tokenizer or {}, ids.get("eos"), size)
    found |= {f"tokenizer.ggml.add_{role}_token": adds[role] for role in ADDED if role in adds}
    found |= _normalizer(tokenizer or {})
    return found | _templates(folder, settings)


def _content(entry: object) -> str | None:
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _texts(tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, int]:
    decoder = settings.get("added_tokens_decoder") or {}
    found = {entry["content"]: int(key) for key, entry in decoder.items()}
    return found | {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens") or []}


def _ids(folder: HFFolder, tokenizer: Mapping[str, Any], settings: Mapping[str, Any], size: int) -> dict[str, int]:
    """Role -> id: of the text that tokenizer_config.json gives it, else as config.json or generation_config.json
    say."""
    texts = _texts(tokenizer, settings)
    config = folder.config.get("text_config")
    inner = config if isinstance(config, dict) else {}
    generation = folder.json("generation_config.json") or {}
    found: dict[str, int] = {}
    for role in KEYS:
        key = f"{role}_token_id"
        candidates = [texts.get(_content(settings.get(f"{role}_token")) or ""), folder.config.get(key), inner.get(key)]
        candidates += [folder.config.get(key), generation.get(key)] if role == "eos" else []
        for value in candidates:
            value = value[0] if isinstance(value, list) and value else value
            if type(value) is int and 0 <= value < size:
                found[role] = value
                break
    return found


def _more_ends(folder: HFFolder, tokenizer: Mapping[str, Any], eos: int | None, size: int) -> dict[str, Any]:
    """A second id that ends a generation, where its text does not tell readers so. There is a key for one more."""
    generation = folder.json("generation_config.json") or {}
    ids = generation.get("eos_token_id", folder.config.get("eos_token_id"))
    texts = {entry["id"]: entry["content"] for entry in tokenizer.get("added_tokens") or []}
    for i in ids if isinstance(ids, list) else []:
        if type(i) is int and 0 <= i < size and i != eos and texts.get(i) not in END_TEXTS:
            return {"tokenizer.ggml.eot_token_id": i}
    return {}


def _added_by_template(tokenizer: Mapping[str, Any], settings: dict[str, Any]) -> dict[str, bool]:
    """What the post-processor of a tokenizer.json puts around a text. Sets `bos_token` and `eos_token` of `settings`
    where only the post-processor names them."""
    for role, other in (("bos", "cls"), ("eos", "sep")):
        if not settings.get(f"{role}_token") and settings.get(f"{other}_token"):
            settings[f"{role}_token"] = settings[f"{other}_token"]
    found: dict[str, bool] = {}
    processor = tokenizer.get("post_processor") or {}
    for step in processor.get("processors", [processor]):
        match step.get("type"):
            case "ByteLevel":
                found.setdefault("bos", False)
                found.setdefault("eos", False)
            case "RobertaProcessing" | "BertProcessing":
                found |= {"bos": True, "eos": True, "sep": True}
            case "TemplateProcessing":
                found |= _template(step, settings)
    return found


def _template(step: Mapping[str, Any], settings: dict[str, Any]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    single = [_special(part) for part in step.get("single") or []]
    first, last = (single[0], single[-1]) if len(single) > 1 else (None, None)
    named = {role: _content(settings.get(f"{role}_token")) for role in KEYS}
    if first is not None:
        if first not in (named["bos"], named["cls"]):
            settings["bos_token"] = named["bos"] = first
        found["bos"] = True
    if last is not None:
        if last != named["eos"]:
            settings["eos_token"] = named["eos"] = last
        found["eos"] = True
    pair = [_special(part) for part in step.get("pair") or []]
    if pair:
        pair = pair[1 if first is not None and pair[0] == first else 0 :]
        pair = pair[: -1 if last is not None and pair and pair[-1] == last else None]
        between = pair[1:-1]
        if between:  # A [sep] [bos] B
            found["sep"] = (between[0] in (named["sep"], named["eos"]) and last is None) or (
                len(between) == 2 and between[1] in (named["sep"], named["eos"])
            )
    return found


def _special(part: Mapping[str, Any]) -> str | None:
    return (part.get("SpecialToken") or {}).get("id")


def _normalizer(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """How WordPiece prepares a text; of other models readers know it themselves."""
    normalizer = tokenizer.get("normalizer") or {}
    found: dict[str, Any] = {}
    for step in (normalizer, *normalizer.get("normalizers", [])):
        match step.get("type"):
            case "Lowercase":
                found["tokenizer.ggml.normalizer.lowercase"] = True
            case "StripAccents":
                found["tokenizer.ggml.normalizer.strip_accents"] = True
            case "BertNormalizer":
                for name in ("lowercase", "strip_accents"):
                    if isinstance(value := step.get(name), bool):
                        found[f"tokenizer.ggml.normalizer.{name}"] = value
    return found


def _templates(folder: HFFolder, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The chat template, and others by name."""
    template: Any = folder.text("chat_template.jinja")
    more = folder.file("additional_chat_templates")
    others: list[dict[str, Any]] = []
    if template is not None and os.path.isdir(more):
        names = sorted(name for name in os.listdir(more) if name.endswith(".jinja"))
        others = [
            {"name": name.removesuffix(".jinja"), "template": folder.text(f"additional_chat_templates/{name}")}
            for name in names
        ]
    if template is None:
        template = (folder.json("chat_template.json") or {}).get("chat_template")
    template = settings.get("chat_template", template)
    if template is None:
        return {}
    if isinstance(template, str):
        template = [{"name": "default", "template": template}, *others]
    if not isinstance(template, list) or not all(
        isinstance(t, dict) and isinstance(t.get("name"), str) and isinstance(t.get("template"), str) for t in template
    ):
        raise GGUFJaxError(f"chat_template: expected a text, or texts with names, found {shown(template)}")
    found: dict[str, Any] = {}
    named = {t["name"]: t["template"] for t in template}
    if "default" in named:
        found["tokenizer.chat_template"] = named.pop("default")
    for name, text in named.items():
        safe = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
        found[f"tokenizer.chat_template.{safe}"] = text
    if named:
        found["tokenizer.chat_templates"] = list(named)
    return found
