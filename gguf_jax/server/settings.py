"""`Settings`: how a server is run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How the server is run.

    Attributes:
        name: of the model, in answers.
        api_key: what clients must send as a bearer token; None: nothing.
        origins: sites whose pages may call it.
        stop_seconds: how long running requests are waited for when it goes down.
    """

    name: str
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    stop_seconds: float = 30.0
