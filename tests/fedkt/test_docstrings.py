"""Docstrings, read into first line, paragraphs and the meanings of options."""

from __future__ import annotations

import pytest

from fedkt.docstrings import plain, read_docstring

TEXT = """Return nothing.

    A paragraph of
    two lines::

        code = 1

    1. First.

    Parameters
    ----------
    one, other : int
        Both of them,
        on two lines.
    bare
        Without a type.
    empty : str

    Returns
    -------
    int
        Nothing of an option.

    Attributes
    ----------
    more : bool
        An attribute.
    """


def test_a_docstring_is_read_in_parts() -> None:
    text = read_docstring(TEXT)
    assert text.line == "Return nothing."
    assert text.body == "A paragraph of\ntwo lines::\n\n    code = 1\n\n1. First."
    assert text.paragraphs == ["A paragraph of two lines::", "code = 1", "1. First."]
    assert text.meanings == {
        "one": "Both of them, on two lines.",
        "other": "Both of them, on two lines.",
        "bare": "Without a type.",
        "empty": "",
        "more": "An attribute.",
    }


@pytest.mark.parametrize("text", [None, "", "\n"])
def test_nothing_is_read_from_nothing(text: str | None) -> None:
    read = read_docstring(text)
    assert (read.line, read.body, read.paragraphs, read.meanings) == ("", "", [], {})


def test_a_line_alone_is_a_docstring() -> None:
    read = read_docstring("Return it.")
    assert (read.line, read.paragraphs) == ("Return it.", [])


@pytest.mark.parametrize(
    ("text", "words", "code"),
    [
        (":class:`~fedkt.strategies.FedAvg` averages", "FedAvg averages", "`FedAvg` averages"),
        ("see :func:`likeness`.", "see likeness.", "see `likeness`."),
        (":mod:`fedkt.rng`", "fedkt.rng", "`fedkt.rng`"),
        ('with ``by="sample"``', 'with by="sample"', 'with `by="sample"`'),
        ("M' (4C + 8)", "M' (4C + 8)", "M' (4C + 8)"),
    ],
)
def test_marks_are_taken_out(text: str, words: str, code: str) -> None:
    assert plain(text) == words
    assert plain(text, "`") == code
