"""`Settings`: how a server is run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How the server is run.

    Attributes:
        name: of the model, in answers.
        path: name of the model's file, without the folders it is in: those are nobody's business.
        api_key: what clients must send as a bearer token; None: nothing.
        origins: sites whose pages may call it, beside its own; "*" means all.
        hosts: names that clients may call it by; None: any.
        answer_seconds: how long an answer may take; None: as long as it wants.
        body_seconds: how long a request's body may take to come.
        stop_seconds: how long running requests are waited for when it goes down.
    """

    name: str
    path: str = ""
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    hosts: frozenset[str] | None = None
    answer_seconds: float | None = None
    body_seconds: float = 60.0
    stop_seconds: float = 30.0
