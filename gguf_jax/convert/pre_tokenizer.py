"""Which value of `tokenizer.ggml.pre` a tokenizer.json cuts words by: told by its patterns, not by a hash.

A tokenizer.json says how a text is cut into words: a row of steps, each a pattern or a name for one. `patterns_of`
writes those as the row of patterns that `tokenizers.pre_tokenizers` has for every value, and `name_of` looks for it
there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import shown
from gguf_jax.tokenizers.pre_tokenizers import FALCON_PUNCTUATION, GPT2, PRE_TOKENIZERS

HARMLESS_NORMALIZERS = ("NFC",)
"""Which byte-level models have, and readers of GGUF files do without."""


NAMED_AFTER = {"command-r": "command-r", "stablelm": "stablelm2", "granite": "refact"}
"""Architecture -> the name that its files have, of several for one way to cut."""


AS_WELL = {
    (FALCON_PUNCTUATION, GPT2, r"\p{N}+", "[0-9][0-9][0-9]"): "falcon",
    (*PRE_TOKENIZERS["deepseek-llm"].patterns[:-1], r"\p{N}"): "deepseek-llm",
}
"""Patterns of a tokenizer.json -> the value that its files have, where readers do with other patterns: no token of
these models holds digits that the patterns would part."""


def patterns_of(pre_tokenizer: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The patterns of a tokenizer.json's `pre_tokenizer`; GGUFJaxError for a step that cuts in another way."""
    return tuple(_patterns(pre_tokenizer or {}))


def _patterns(step: Mapping[str, Any]) -> Iterator[str]:
    kind = step.get("type")
    match kind:
        case None:
            return
        case "Sequence":
            for inner in step.get("pretokenizers") or []:
                yield from _patterns(inner)
        case "ByteLevel":
            if step.get("add_prefix_space"):
                raise GGUFJaxError("pre_tokenizer: ByteLevel: add_prefix_space: expected false, found true")
            if step.get("use_regex", True):
                yield GPT2
        case "Digits":
            yield r"\p{N}" if step.get("individual_digits") else r"\p{N}+"
        case "Punctuation" if step.get("behavior") == "Contiguous":
            yield FALCON_PUNCTUATION
        case "Split":
            pattern = step.get("pattern") or {}
            text = pattern.get("Regex", pattern.get("String"))
            plain = (step.get("behavior"), bool(step.get("invert")))
            # everything that a pattern does not match, removed or isolated, is everything between its matches
            if not isinstance(text, str) or plain not in (("Isolated", False), ("Removed", True)):
                raise GGUFJaxError(f"pre_tokenizer: Split: expected behavior Isolated, found {shown(step)}")
            yield text
        case _:
            raise GGUFJaxError(
                f"pre_tokenizer: expected Sequence, Split, Digits, Punctuation or ByteLevel, found {shown(kind)}"
            )


def name_of(tokenizer: Mapping[str, Any], architecture: str) -> str:
    """The value of `tokenizer.ggml.pre` for a byte-level tokenizer.json. Of several that cut alike, the one that is
    usual for the architecture, else the first.

    Raises:
        GGUFJaxError: none cuts so; shows the patterns.
    """
    normalizer = tokenizer.get("normalizer")
    if normalizer is not None and normalizer.get("type") not in HARMLESS_NORMALIZERS:
        allowed = ", ".join(HARMLESS_NORMALIZERS)
        raise GGUFJaxError(f"normalizer: expected none or {allowed}, found {shown(normalizer)}")
    found = patterns_of(tokenizer.get("pre_tokenizer"))
    whole_words = bool(tokenizer.get("model", {}).get("ignore_merges"))
    names = [
        name
        for name, known in PRE_TOKENIZERS.items()
        if known.patterns == found and known.ignore_merges == whole_words and name != "default"
    ]
    if found in AS_WELL and not whole_words:
        names = [AS_WELL[found]]
    if not names:
        raise GGUFJaxError(
            f"pre_tokenizer: expected patterns of a known value of tokenizer.ggml.pre, found "
            f"{shown(list(found), 1000)}{' with ignore_merges' if whole_words else ''}; --pre names the value to write"
        )
    preferred = NAMED_AFTER.get(architecture)
    return preferred if preferred in names else names[0]
