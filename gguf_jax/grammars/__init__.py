"""Grammars: what an answer must look like, as constraints that generation asks before each token. Extra `grammars`."""

from gguf_jax.grammars.grammar import Grammar, compile
from gguf_jax.grammars.source import JSON_OPTIONS, KINDS, GrammarError, Kind, closed

__all__ = ["JSON_OPTIONS", "KINDS", "Grammar", "GrammarError", "Kind", "closed", "compile"]
