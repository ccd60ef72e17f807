r"""How byte-level BPE models cut text into words before merging: one entry for each value of `tokenizer.ggml.pre`.

A text is cut by the first pattern, its parts by the second, and so on; what lies between two matches is a word too.
The patterns are the models' own (their `tokenizer.json`), in Oniguruma's syntax, as Hugging Face `tokenizers` takes
them. Which names share a pattern, whose words are looked up whole before merging (`ignore_merges`) and which begin with
BOS unless the file says otherwise (`add_bos`) is as in llama.cpp's `llama-vocab.cpp`.

The names that are missing here have words that no sequence of patterns over byte-level text gives (`gemma4` and
`sarvam-moe` merge raw UTF-8 and fall back to bytes, `whitespace` does not merge).
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import shown


@dataclass(frozen=True)
class PreTokenizer:
    """The patterns of one way to cut text into words, and what goes with it."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


# What most patterns are made of. The contractions of English, with and without regard to case:
LOWER = r"'s|'t|'re|'ve|'m|'ll|'d"
ANY = rf"(?i:{LOWER})"
# The end of nearly all of them: white space up to a line's end, then up to the space that the next word begins with.
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
# Letters of one case each, so that "camelCase" is two words; those without case count as both.
UPPER_LETTER, LOWER_LETTER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def cased(upper: str, lower: str, suffix: str = "") -> str:
    """Words that end where lower case turns into upper case."""
    lead = r"[^\r\n\p{L}\p{N}]?"
    return f"{lead}{upper}*{lower}+{suffix}|{lead}{upper}+{lower}*{suffix}"


GPT2 = rf"{LOWER}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{ANY}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
QWEN2 = rf"{ANY}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
QWEN35 = rf"{ANY}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}"
GPT4O = rf"{cased(UPPER_LETTER, LOWER_LETTER, ANY + '?')}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
TEKKEN = rf"{cased(UPPER_LETTER, LOWER_LETTER)}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
YOUTU = rf"{cased(UPPER_LETTER, LOWER_LETTER, ANY + '?')}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
DEEPSEEK3_HEAD = rf"{ASCII_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+"
DEEPSEEK3 = (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", rf"{DEEPSEEK3_HEAD}[\r\n]*|{SPACES}")
NOT_HAN = r"&&[^\p{Han}]]"
KIMI_K2 = (
    rf"\p{{Han}}+|{cased(UPPER_LETTER[:-1] + NOT_HAN, LOWER_LETTER[:-1] + NOT_HAN, ANY + '?')}"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
)
# Digits in threes, counted from the end of the number.
AFMOE_DIGITS = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
AFMOE_ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e00-\u0e7f"
    "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
# deepseek-llm's letters: those with case in the scripts that have it, as of the list that the model was trained with.
DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556"
    "\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    "\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
DEEPSEEK_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
PORO = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
FALCON_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|`]+"

_gpt2 = PreTokenizer((GPT2,))
_digits_gpt2 = PreTokenizer((r"\p{N}", GPT2))
_llama3 = PreTokenizer((LLAMA3,), ignore_merges=True, add_bos=True)
_cl100k = PreTokenizer((LLAMA3,))
_qwen2 = PreTokenizer((QWEN2,))
_gpt4o = PreTokenizer((GPT4O,))
_deepseek3 = PreTokenizer(DEEPSEEK3)
_poro = PreTokenizer((PORO,))
_bailing = PreTokenizer(
    (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",)
)
_tiny_aya = PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    # What files without a name get, for want of anything better: right for some models of before 2024-05.
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    # GPT-2's
    "gpt-2": _gpt2,
    "phi-2": _gpt2,
    "mpt": _gpt2,
    "olmo": _gpt2,
    "jais": _gpt2,
    "trillion": _gpt2,
    "granite-docling": _gpt2,
    "exaone4": _gpt2,
    "gigachat": _gpt2,
    "mellum": _gpt2,
    "a.x-4.0": _gpt2,
    "modern-bert": _gpt2,
    "jina-es": _gpt2,
    "jina-de": _gpt2,
    "jina-v2-es": _gpt2,
    "jina-v2-de": _gpt2,
    "jina-v1-en": _gpt2,
    "jina-v2-code": _gpt2,
    "roberta-bpe": _gpt2,
    # GPT-2's, each digit alone
    "starcoder": _digits_gpt2,
    "refact": _digits_gpt2,
    "command-r": _digits_gpt2,
    "smollm": _digits_gpt2,
    "codeshell": _digits_gpt2,
    "exaone": _digits_gpt2,
    "minerva-7b": _digits_gpt2,
    "mellum2": _digits_gpt2,
    # cl100k's
    "llama-bpe": _llama3,
    "llama3": _llama3,
    "llama-v3": _llama3,
    "falcon3": _llama3,
    "falcon-h1": _llama3,
    "pixtral": _llama3,
    "midm-2.0": _llama3,
    "lfm2": _llama3,
    "jina-v5-nano": _llama3,
    "dbrx": _cl100k,
    "smaug-bpe": _cl100k,
    "glm4": _cl100k,
    "chatglm-bpe": _cl100k,
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")), ignore_merges=True),
    "jais-2": PreTokenizer(
        (
            LLAMA3.removesuffix(r"\s+(?!\S)|\s+")
            + "|".join(rf"\s{{{n}}}(?!\S)" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))
            + r"|\s{1}",
        )
    ),
    # cl100k's, each digit alone
    "qwen2": _qwen2,
    "deepseek-r1-qwen": _qwen2,
    "stablelm2": _qwen2,
    "hunyuan": _qwen2,
    "megrez": _qwen2,
    "kormo": _qwen2,
    "f2llmv2": _qwen2,
    "solar-open": _qwen2,
    "grok-2": _qwen2,
    "laguna": PreTokenizer((r"[^\n]+|[\n]+", QWEN2)),
    "ufakzeka": PreTokenizer((QWEN2.removeprefix(f"{ANY}|"),)),
    "seed-coder": PreTokenizer((rf"{ANY}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{SPACES}",)),
    "qwen35": PreTokenizer((QWEN35,)),
    "bailingmoe": _bailing,
    "bailingmoe2": _bailing,
    "llada-moe": _bailing,
    "exaone-moe": PreTokenizer(
        (
            rf"{ANY}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    # o200k's and its kin
    "gpt-4o": _gpt4o,
    "llama4": _gpt4o,
    "kanana2": _gpt4o,
    "talkie": _gpt4o,
    "minimax-m2": _gpt4o,
    "granite-embed-multi-97m": PreTokenizer((GPT4O,), ignore_merges=True),
    "tiny_aya": _tiny_aya,
    "cohere2moe": _tiny_aya,
    "tekken": PreTokenizer((TEKKEN,), ignore_merges=True, add_bos=True),
    "kimi-k2": PreTokenizer((KIMI_K2,)),
    "youtu": PreTokenizer(
        (
            "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f"
            "\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            YOUTU,
        ),
        ignore_merges=True,
    ),
    # DeepSeek's
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[{DEEPSEEK_LETTERS}]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            DEEPSEEK_ASIAN,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_ASIAN, r"\p{N}")),
    "deepseek-v3": _deepseek3,
    "hunyuan-dense": _deepseek3,
    "hy_v4": _deepseek3,
    "joyai-llm": _deepseek3,
    "spark2_5": PreTokenizer((*DEEPSEEK3[:2], rf"{DEEPSEEK3_HEAD}|[\r\n]|\s+(?!\S)|\s+", r"\p{N}")),
    "afmoe": PreTokenizer((AFMOE_DIGITS, AFMOE_ASIAN, DEEPSEEK3[2])),
    # Others
    "falcon": PreTokenizer((FALCON_PUNCTUATION, GPT2, "[0-9][0-9][0-9]")),
    "poro-chat": _poro,
    "bloom": _poro,
    "gpt3-finnish": _poro,
    "viking": PreTokenizer((PORO, r"\p{N}")),
    "chameleon": PreTokenizer(
        (
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            "([\\t\\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ),
        add_bos=True,
    ),
}


def pre_tokenizer(name: str | None) -> PreTokenizer:
    """The entry of a value of `tokenizer.ggml.pre`; files without one (None) get `default`."""
    try:
        return PRE_TOKENIZERS[name or "default"]
    except KeyError:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise GGUFJaxError(
            f"metadata key tokenizer.ggml.pre: expected a known pre-tokenizer, found {shown(name)}; known: {known}"
        ) from None
