"""Tokens with a role: where the metadata names them, which texts name them otherwise, and which end a generation.

Files often name only BOS and EOS. The texts below are those that llama.cpp recognises, so that a model stops where it
does there; a token found by its text counts as a control token, even if the file calls it user-defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax.tokenizers import fields
from gguf_jax.tokenizers.vocabulary import TYPES, TokenType, Vocabulary

# Role -> the keys that may hold its id; the latter are of files from before 2024-10.
KEYS: dict[str, tuple[str, ...]] = {
    "bos": ("bos_token_id", "cls_token_id"),
    "eos": ("eos_token_id",),
    "eot": ("eot_token_id",),
    "eom": ("eom_token_id",),
    "unk": ("unknown_token_id",),
    "sep": ("seperator_token_id",),  # spelled so in the format
    "pad": ("padding_token_id",),
    "mask": ("mask_token_id",),
    "fim_pre": ("fim_pre_token_id", "prefix_token_id"),
    "fim_suf": ("fim_suf_token_id", "suffix_token_id"),
    "fim_mid": ("fim_mid_token_id", "middle_token_id"),
    "fim_pad": ("fim_pad_token_id",),
    "fim_rep": ("fim_rep_token_id",),
    "fim_sep": ("fim_sep_token_id",),
}

# Role -> the texts that have it where no key says so, in the order of preference.
TEXTS: dict[str, tuple[str, ...]] = {
    "eot": (
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "<｜end▁of▁sentence｜>",
        "<end_of_utterance>",
    ),
    "eom": ("<|eom_id|>",),
    "fim_pre": (
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
    ),
    "fim_suf": (
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<｜fim▁hole｜>",
        "<SUF>",
        "▁<SUF>",
        "<|code_suffix|>",
        "<|suffix|>",
    ),
    "fim_mid": (
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<｜fim▁end｜>",
        "<MID>",
        "▁<MID>",
        "<|code_middle|>",
        "<|middle|>",
    ),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}

# Texts that end a generation wherever they are in a vocabulary, and the roles that do.
END_TEXTS = (
    *TEXTS["eot"],
    *TEXTS["eom"],
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "</s>",
    "[EOS]",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
)
END_ROLES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")

# A text that does not end a generation in vocabularies that have all of the others: there it ends one message of
# several (gpt-oss, Solar Open), or is an ordinary token (Gemma 4).
EXCEPTIONS: tuple[tuple[str, frozenset[str]], ...] = (
    ("<|end|>", frozenset({"<|return|>", "<|call|>"})),
    ("<|end|>", frozenset({"<|calls|>", "<|flush|>"})),
    ("<|end|>", frozenset({"<|call|>", "<|flush|>"})),
    ("</s>", frozenset({"<|tool_response>"})),
)


@dataclass(frozen=True, eq=False)
class SpecialTokens:
    """The roles of a vocabulary's tokens."""

    roles: Mapping[str, int | None]  # every key of KEYS
    end_ids: frozenset[int]
    control: np.ndarray  # bool [vocab_size]: by the file's type, or by text


def read_special_tokens(
    metadata: Mapping[str, Any], vocabulary: Vocabulary, defaults: Mapping[str, int]
) -> SpecialTokens:
    """Finds every role's token: by its key, else by its text, else by the tokenizer model's default."""
    # What the file calls a normal token is text, whatever it looks like: "</s>" is HTML in many a vocabulary.
    texts = {
        text: i
        for text in (*END_TEXTS, *(text for role in TEXTS.values() for text in role))
        if (i := vocabulary.ids.get(text)) is not None
        and (TYPES not in metadata or vocabulary.types[i] != TokenType.NORMAL)
    }
    roles: dict[str, int | None] = {}
    for role, names in KEYS.items():
        key = next((key for name in names if (key := f"tokenizer.ggml.{name}") in metadata), None)
        if key is not None:
            roles[role] = fields.token_id(metadata, key, len(vocabulary))
        else:
            default = i if (i := defaults.get(role)) is not None and i < len(vocabulary) else None
            roles[role] = next((texts[text] for text in TEXTS.get(role, ()) if text in texts), default)

    end_ids = {texts[text] for text in END_TEXTS if text in texts}
    end_ids |= {i for role in END_ROLES if (i := roles[role]) is not None}
    end_ids -= {texts[text] for text, others in EXCEPTIONS if text in texts and others <= texts.keys()}

    control = vocabulary.types == TokenType.CONTROL
    control[list(texts.values())] = True
    return SpecialTokens(roles, frozenset(end_ids), control)
