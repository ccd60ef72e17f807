"""The order of tensors in a quantized file, and their names once layers are pruned."""

from __future__ import annotations

import re

_LAYER = re.compile(rb"blk\.([0-9]+)\.")
_LAYER_AT_START = re.compile(rb"blk\.\s*([+-]?[0-9]+)")


def raw(name: str) -> bytes:
    """The bytes of a name as they stand in the file, UTF-8 or not."""
    return name.encode("utf-8", "surrogateescape")


def layer_of(name: str) -> int:
    """The layer that a name begins with, `blk.N`; -1 for none."""
    found = _LAYER_AT_START.match(raw(name))
    return int(found[1]) if found else -1


def file_order(name: str) -> tuple[int, bytes]:
    """Sorts names as llama.cpp does: what begins with no layer first, then by layer, then by the name's bytes."""
    return layer_of(name), raw(name)


class Renumbering:
    """Names after pruning, when asked for in the order of the file: None for what goes.

    `layers` is then how many layers are left, as the reference counts them: one more than the last new number it gave.
    """

    def __init__(self, prune: frozenset[int]):
        self.prune = prune
        self.layers = 0
        self.numbers: dict[int, int | None] = {}

    def __call__(self, name: str) -> str | None:
        text = raw(name)
        found = _LAYER.search(text) if self.prune else None
        if not found:
            return name
        number = self._number(int(found[1]))
        if number is None:
            return None
        return (text[: found.start(1)] + b"%d" % number + text[found.end(1) :]).decode("utf-8", "surrogateescape")

    def _number(self, layer: int) -> int | None:
        if layer not in self.numbers and layer in self.prune:
            self.numbers[layer] = None
        elif layer not in self.numbers:
            number = layer if layer < min(self.prune) else self.layers
            self.numbers[layer] = number
            self.layers = number + 1
        return self.numbers[layer]
