"""Property: whatever the bytes, a file is refused in one line or read whole, in little time and memory."""

import os
import time
import tracemalloc

import numpy as np
import pytest

from gguf_jax.errors import GGUFError
from gguf_jax.gguf import read
from tests.gguf.checks import one_line, touch
from tests.gguf.craft import ARRAY, STRING, U8, U32, Craft, small_file


@pytest.mark.parametrize(("version", "order"), [(v, o) for v in (1, 2, 3) for o in "<>"])
def test_truncated_anywhere(version, order, stored):
    content = small_file(version, order)
    touch(stored(content))
    needed = len(content.rstrip(b"\0"))  # the last tensor's padding may be missing
    path = stored(content)
    for n in reversed(range(needed)):
        os.truncate(path, n)
        with pytest.raises(GGUFError) as error:
            touch(path)
        one_line(error)


@pytest.mark.parametrize(("version", "order"), [(3, "<"), (3, ">"), (1, "<")])
def test_random_flips(version, order, stored):
    """10,000 changed bytes in all: a file is refused in one line or read whole, in little memory and time."""
    content = small_file(version, order)
    rng = np.random.default_rng(version + ord(order))
    started = time.monotonic()
    messages = []
    path = stored(content)
    tracemalloc.start()
    try:
        for _ in range(1667):
            changed = bytearray(content)
            for _ in range(rng.integers(1, 4)):
                changed[rng.integers(len(changed))] = rng.integers(256)
            with path.open("r+b") as file:
                file.write(changed)
            try:
                touch(path)
            except GGUFError as error:
                messages.append(str(error))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < len(messages) < 1667
    assert all(message.isprintable() for message in messages)
    assert peak < 100e6
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("kind", ["keys", "tensors", "strings", "lists"])
def test_time_grows_with_the_file(kind, stored):
    """Tens of thousands of anything take a second or two, not the square of that."""
    n = 30_000 if kind == "tensors" else 100_000
    craft = Craft()
    match kind:
        case "keys":
            craft.kv = [craft.string(f"k{i}") + craft.u32(U8) + b"\0" for i in range(n)]
        case "tensors":
            for i in range(n):
                craft.tensor(f"t{i}", [1], 24, 32 * i)
        case "strings":
            craft.add("s", ARRAY, craft.array(STRING, [""] * n))
        case "lists":
            craft.add("a", ARRAY, craft.array(ARRAY, [craft.array(U8, [])] * ((1 << 16) - 1)))
    path = stored(craft.file(bytes(32 * n)))
    started = time.monotonic()
    read(path).close()
    assert time.monotonic() - started < 20


def test_a_file_cut_while_open_is_noticed(stored):
    path = stored(small_file())
    with read(path) as file:
        os.truncate(path, 100)
        with pytest.raises(GGUFError, match="as when it was opened") as error:
            file.tensors["f32"].blocks()
        one_line(error)
        touched = [value.tolist() for value in file.metadata.values() if hasattr(value, "tolist")]
        assert touched, "metadata are copies, so they outlive the cut"


def test_not_files(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, what in (
        (tmp_path, "regular file"),
        (tmp_path / "fifo", "regular file"),
        (tmp_path / "no", "No such file"),
    ):
        with pytest.raises(GGUFError, match=what):
            read(path)
    with pytest.raises(GGUFError) as error:
        read(tmp_path / "two\nlines\x1b[31m")
    one_line(error)


def test_hostile_names_do_not_reach_the_message_raw(stored):
    key = "\x1b]0;owned\x07\n\u202e"
    with pytest.raises(GGUFError) as error:
        read(stored(Craft().add(key, U32, 1).add(key, U32, 1).file()))
    one_line(error)
