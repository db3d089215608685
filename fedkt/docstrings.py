"""Docstrings in the NumPy convention, read: first line, paragraphs, what is said of each option."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

ROLE = re.compile(r":\w+:`(~?)([^`]+)`")
CODE = re.compile(r"``(.+?)``")
RULE = re.compile(r"-{3,}")
NAMED = ("Parameters", "Attributes")  # sections that say something of each name


@dataclass(frozen=True)
class Docstring:
    """The content of a docstring.

    Parameters
    ----------
    line : str
        The first line; empty without a docstring.
    body : str
        What stands between the first line and the sections, as it is written.
    meanings : Mapping[str, str]
        The descriptions of parameters and attributes by name, each on one line.
    """

    line: str = ""
    body: str = ""
    meanings: Mapping[str, str] = field(default_factory=dict)

    @property
    def paragraphs(self) -> list[str]:
        """The paragraphs of the body, each on one line."""
        return [" ".join(part.split()) for part in self.body.split("\n\n") if part.strip()]


def read_docstring(text: str | None) -> Docstring:
    """Return the content of a docstring, which is indented as in the source or cleaned."""
    first, _, rest = (text or "").strip().partition("\n")
    lines = textwrap.dedent(rest).split("\n")
    heads = [i for i, line in enumerate(lines[1:]) if RULE.fullmatch(line.strip())]
    sections = zip(heads, [*heads[1:], len(lines)], strict=False)
    meanings: dict[str, str] = {}
    for start, end in sections:
        if lines[start].strip() in NAMED:
            meanings |= _meanings(lines[start + 2 : end])
    body = lines[: heads[0]] if heads else lines
    return Docstring(first.strip(), "\n".join(body).strip("\n"), meanings)


def _meanings(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield name and description of the entries ``one, other : type`` of a section."""
    names: list[str] = []
    words: list[str] = []
    for line in [*lines, "end"]:
        if line[:1].strip():
            yield from ((name, " ".join(words)) for name in names)
            names = [name.strip() for name in line.partition(" :")[0].split(",")]
            words = []
        else:
            words += line.split()


def plain(text: str, code: str = "") -> str:
    """Return a text without the marks of reStructuredText.

    Parameters
    ----------
    text : str
        The text; :class:`~fedkt.knowledge.Fused` becomes the last part of its name.
    code : str
        The mark on both sides of code and names: a back-quote in Markdown.
    """

    def named(role: re.Match[str]) -> str:
        name = role[2].rpartition(".")[2] if role[1] else role[2]
        return f"{code}{name}{code}"

    return CODE.sub(rf"{code}\1{code}", ROLE.sub(named, text))
