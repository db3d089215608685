"""Text from outside is one short line of visible characters before anybody reads it."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkt.text import LONGEST, foreign, last_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("out of memory", "out of memory"),
        ("  a\n\tb \r\n c  ", "a b c"),
        ("données manquantes: 3 × 4 → ∅", "données manquantes: 3 × 4 → ∅"),
        ("\x1b[2J\x1b[31mall is well\x07\x00", "[2J[31mall is well"),
        ("a\u2028ROUND 3: all well\x85b\x1cc", "a ROUND 3: all well b c"),
        ("safe\u202etxt.exe\u200b\ufeff", "safetxt.exe"),
        ("half \ud83d of a pair", "half of a pair"),
        ("", ""),
        (None, "None"),
        (["a", 1], "['a', 1]"),
    ],
)
def test_one_line_of_visible_characters(text: object, line: str) -> None:
    assert foreign(text) == line


def test_long_text_is_cut() -> None:
    assert LONGEST == 500
    assert foreign("x" * 500) == "x" * 500
    assert foreign("x" * 501) == "x" * 499 + "…"


def test_a_hundred_megabytes_take_no_time() -> None:
    text = "x\n" * 50_000_000
    began = time.process_time()
    assert len(foreign(text)) == LONGEST
    assert last_line(text) == "x"
    assert time.process_time() - began < 1


@settings(derandomize=True, deadline=None)
@given(st.text(st.characters(), max_size=700))
def test_whatever_comes(text: str) -> None:
    line = foreign(text)
    assert len(line) <= LONGEST
    assert line == " ".join(line.split())
    assert not {unicodedata.category(c) for c in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    line.encode()  # no half of a surrogate pair


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Traceback ...\n  File\nValueError: no\x1b[0m\n\n", "ValueError: no[0m"),
        ("one line", "one line"),
        ("", "no reason given"),
        (None, "no reason given"),
        ("\x00\n \u200b\n", "no reason given"),
        ("\n".join(["line"] * 3 + ["x" * 1000]), "x" * 499 + "…"),
    ],
)
def test_the_last_line_of_a_traceback(text: str | None, line: str) -> None:
    assert last_line(text) == line
