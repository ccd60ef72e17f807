"""Stop strings in streamed text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation.stop import StopFinder


def run(stops, pieces):
    """(text handed out piece by piece, whether stopped, everything handed out with the flush)."""
    finder = StopFinder(stops)
    out = []
    for piece in pieces:
        text, stopped = finder.put(piece)
        out.append(text)
        if stopped:
            return out, True, "".join(out) + finder.flush()
    return out, False, "".join(out) + finder.flush()


def first_to_complete(stops, text):
    """The definition, character by character: where the text ends, or None."""
    for end in range(1, len(text) + 1):
        begins = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begins:
            return min(begins)
    return None


@pytest.mark.parametrize(
    ("stops", "pieces", "out", "stopped"),
    [
        ([], ["abc", ""], ["abc", ""], False),
        (["END"], ["xEN", "D y"], ["x", ""], True),
        (["END"], ["xEN", "x"], ["x", "ENx"], False),
        (["aab"], ["aa", "a", "b"], ["", "a", ""], True),
        (["\n\n"], ["a\n", "b\n", "\nc"], ["a", "\nb", ""], True),
        (["abcd", "bc"], ["abcd"], ["a"], True),
        (["abc", "bc"], ["xabc"], ["x"], True),
        (["bcd", "abcde"], ["abc", "d"], ["", "a"], True),
        (["ß", "日本"], ["ü日", "本"], ["ü", ""], True),
    ],
)
def test_exact_pieces(stops, pieces, out, stopped):
    assert run(stops, pieces)[:2] == (out, stopped)


def test_exact_flush_and_after_the_match():
    finder = StopFinder(["stop", "st!"])
    assert finder.put("a st") == ("a ", False)
    assert finder.flush() == "st"
    assert finder.flush() == ""
    assert finder.put("op st!x") == ("op ", True)
    assert finder.matched == "st!"
    assert finder.put("more") == ("", True)
    assert finder.flush() == ""


@pytest.mark.parametrize("stops", [[""], ["a", ""], "abc", [3], [None]])
def test_exact_refused(stops):
    with pytest.raises(GGUFJaxError, match=r"^stop: expected .*, found ") as error:
        StopFinder(stops)
    assert "\n" not in str(error.value)


texts = st.text(alphabet="ab", max_size=12)


@given(st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3), st.lists(texts, max_size=6))
def test_property_any_pieces_give_what_the_whole_text_gives(stops, pieces):
    text = "".join(pieces)
    out, stopped, everything = run(stops, pieces)
    end = first_to_complete(stops, text)
    assert stopped == (end is not None)
    assert everything == (text if end is None else text[:end])
    # Nothing that might still grow into a stop string is handed out, and nothing else is held back.
    if not stopped and pieces:
        given_out = "".join(out)
        held = text[len(given_out) :]
        tails = [text[i:] for i in range(len(text)) if any(s.startswith(text[i:]) for s in stops)]
        assert held == max(tails, key=len, default="")
