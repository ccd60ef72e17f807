"""How an op picks one of its implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gguf_jax.errors import Unsupported


def run(op: str, implementations: Mapping[str, Callable[..., Any]], name: str | None, *args: Any, **kwargs: Any) -> Any:
    """Call the implementation `name`, or without a name the first that accepts the case.

    `implementations` is ordered best first; its last entry defines the op's meaning and accepts everything. An
    implementation refuses a case by raising `Unsupported` while it is traced.
    """
    if name is not None:
        if name not in implementations:
            raise Unsupported(f"{op}: no implementation {name!r}; there are: {', '.join(implementations)}")
        return implementations[name](*args, **kwargs)
    refusals = []
    for implementation in implementations.values():
        try:
            return implementation(*args, **kwargs)
        except Unsupported as refusal:
            refusals.append(str(refusal))
    raise Unsupported(f"{op}: no implementation takes this case: {'; '.join(refusals)}")
