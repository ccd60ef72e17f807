"""Errors a user can cause. Each message is one line: file, field or tensor, expected, found."""


class GGUFJaxError(Exception):
    """Base of every error that input (a file, an argument, a request) can cause."""


class GGUFError(GGUFJaxError, ValueError):
    """A GGUF file, or what was asked of one, is not as it must be."""


class Unsupported(GGUFJaxError, NotImplementedError):
    """An implementation or an architecture cannot do this case; the message says which case and why."""
