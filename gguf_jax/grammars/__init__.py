"""Grammars: what an answer must look like, as constraints that generation asks before each token. Extra `grammars`."""

from gguf_jax.grammars.grammar import Grammar, compile
from gguf_jax.grammars.source import KINDS, WHITE_SPACE, GrammarError, Kind

__all__ = ["KINDS", "WHITE_SPACE", "Grammar", "GrammarError", "Kind", "compile"]
