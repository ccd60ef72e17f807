"""`Config`: typed reading of config.json, which remembers what was read, so that what was not is noticed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.text import shown

HARMLESS = (
    # who and what wrote it
    "architectures", "model_type", "transformers_version", "_name_or_path", "auto_map", "dtype", "torch_dtype", "name",
    "language", "tokenizer_class", "_attn_implementation*", "_commit_hash", "is_decoder", "is_encoder_decoder",
    # training, and how generation is done elsewhere
    "*dropout*", "initializer*", "*_pdrop", "use_cache", "cache_implementation", "output_*", "return_dict*",
    "gradient_*",
    "pretraining_tp", "router_aux_loss_coef", "router_jitter_noise", "chunk_size_feed_forward", "problem_type",
    "task_specific_params", "label2id", "id2label", "num_labels", "summary_*", "finetuning_task", "torchscript",
    "begin_suppress_tokens", "suppress_tokens", "max_length", "do_sample", "temperature", "top_p", "top_k", "num_beams",
    "pruned_heads", "use_bfloat16", "unsloth_*", "reorder_and_upcast_attn", "scale_attn_weights", "use_flash*",
    "fused_bias_residual", "bad_words_ids", "exponential_decay_length_penalty", "remove_invalid_values", "prefix",
    "classifier_*", "pad_to_multiple_of", "embd_layer", "resid_*", "mm_*", "remove_*",
    # read for the tokenizer, or told by the tokenizer's files
    "*_token_id", "*_token_ids", "*_token_index", "vocab_size", "text_config.vocab_size",
    # told by which tensors there are
    "attention_bias", "mlp_bias", "use_bias", "bias", "qkv_bias", "use_qkv_bias", "attention_out_bias",
    "add_bias_linear", "lm_head_bias", "use_qk_norm", "qk_layernorm", "tie_word_embeddings", "tie_encoder_decoder",
    # other parts of a model than its text
    "vision_config", "audio_config", "mm_tokens_per_image",
)  # fmt: skip
"""Patterns of keys that do not change what the text model computes, or that its tensors tell as well."""


MOST = (1 << 31) - 1
"""Of an integer that is only written down. What sizes something here has a limit of its own."""


class Config(Mapping[str, Any]):
    """The keys of a config.json, those of its `text_config` in place of the outer ones.

    Args:
        values: config.json.
        defaults: what transformers takes for keys that are not there.
        where: the file's name, for messages.
    """

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any], where: str):
        inner = values.get("text_config")
        outer = {key: value for key, value in values.items() if key != "text_config"}
        self.given = {**outer, **(inner if isinstance(inner, dict) else {})}
        self.found = {**defaults, **{key: value for key, value in self.given.items() if value is not None}}
        self.where = where
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return self.found[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def error(self, key: str, expected: str, found: Any) -> GGUFError:
        return GGUFError(f"{self.where}: {key}: expected {expected}, found {shown(found)}")

    def first(self, names: Sequence[str]) -> tuple[str, Any]:
        """The first of these keys that is there, with its value; all count as read. (names[0], None) for none."""
        self.seen.update(names)
        return next(((name, self.found[name]) for name in names if name in self.found), (names[0], None))

    def integer(self, *names: str, default: int | None = None, low: int = 0, high: int = MOST) -> int:
        name, value = self.first(names)
        if value is None and default is not None:
            return default
        if type(value) is not int or not low <= value <= high:
            limits = f"an integer of at least {low}" + (f" and at most {high}" if high < MOST else "")
            raise self.error(name, limits, "no such key" if value is None else value)
        return value

    def number(self, *names: str, default: float | None = None) -> float:
        name, value = self.first(names)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e30:
            raise self.error(name, "a number", "no such key" if value is None else value)
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false", value)
        return value

    def expect(self, names: Sequence[str], allowed: Sequence[Any], default: Any = None) -> Any:
        """The value of a key that may have only some values."""
        name, value = self.first(names)
        value = default if value is None else value
        if value not in allowed:
            raise self.error(name, " or ".join(map(repr, allowed)), value)
        return value

    def expect_equal(self, key: str, value: Any, expected: Any) -> None:
        """GGUFError unless a value is what it must be."""
        if value != expected:
            raise self.error(key, repr(expected), value)

    def section(self, *names: str) -> dict[str, Any]:
        """An object, empty where there is none."""
        name, value = self.first(names)
        if value is not None and not isinstance(value, dict):
            raise self.error(name, "an object", value)
        return dict(value or {})

    def check_all_known(self, ignore: Sequence[str]) -> None:
        """GGUFError unless every key that is set was read, is harmless, or is to be ignored."""
        patterns = (*HARMLESS, *ignore)
        unknown = [
            key
            for key, value in self.given.items()
            if value is not None and key not in self.seen and not any(fnmatchcase(key, p) for p in patterns)
        ]
        if unknown:
            listing = ", ".join(f"{key} = {shown(self.given[key], 40)}" for key in sorted(unknown)[:8])
            more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
            raise GGUFError(
                f"{self.where}: expected only keys that are known not to change the model, found {listing}{more}; "
                f"--ignore leaves out keys and tensors by name"
            )
