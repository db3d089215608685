"""One part in the terminal, with all that it says of itself: ``fedkt show NAME``."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from itertools import groupby

from fedkt.descriptions import REQUIRED, Description, Option, describe, parts_called
from fedkt.docstrings import plain
from fedkt.registry import PARTS

INDENT = "  "
ITEM = re.compile(r"(\d+\.|[-*]) ")
MODELS = {
    "one": "one architecture for all clients",
    "equal features": "networks of any architecture with equally many features",
    "networks": "networks of any architecture",
    "any": "any, those of scikit-learn included",
}
PUBLIC = {
    "": "none",
    "clients": "at the clients",
    "server": "at the server",
    "both": "at the clients and at the server",
}
SERVER = {
    "": "no model",
    "weights": "global weights of the clients' architecture",
    "model": "models of its own",
}


def shown_part(reference: str, width: int) -> str:
    """Return all that a part says of itself, as text.

    Parameters
    ----------
    reference : str
        A name, of which parts of several kinds may share one, or ``path/to/file.py:Name``.
    width : int
        Columns of the terminal.

    Raises
    ------
    ConfigError
        If there is no such part.
    """
    pages = []
    for part, obj in parts_called(reference):
        description = describe(part, obj)
        facts = _ASKED[part](reference) if part in _ASKED else {}
        pages.append("\n".join(_page(description, facts, width)))
    return "\n\n\n".join(pages)


def _page(description: Description, facts: dict[str, str], width: int) -> Iterator[str]:
    singular, text = PARTS[description.part][0], description.text
    yield f"{description.name} ({singular})"
    yield from _wrapped(plain(text.line), width)
    yield ""
    where = "File" if description.origin.endswith(".py") else "Module"
    rows = {**facts, where: description.origin}
    margin = max(map(len, rows)) + len(INDENT)
    for name, said in rows.items():
        yield from _wrapped(said, width, f"{name:<{margin}}", " " * margin)
    for paragraph in text.body.split("\n\n"):
        # Bytes are among the facts.
        if paragraph.strip() and not (facts and paragraph.startswith("Bytes ")):
            yield ""
            yield from _paragraph(paragraph, width)
    if description.options:
        yield ""
        yield f"Options, as in {description.name}({description.options[0].name}=…)"
        for _, options in groupby(description.options, key=lambda option: option.meaning):
            yield from _option(list(options), width)


def _paragraph(text: str, width: int) -> Iterator[str]:
    """Yield the lines of a paragraph: items of a list one by one, code as it is written."""
    lines = text.strip("\n").split("\n")
    if all(line.startswith(" ") for line in lines):
        yield from lines
        return
    items: list[str] = []
    for line in lines:
        if not items or ITEM.match(line):
            items.append(line)
        else:
            items[-1] += f" {line.strip()}"
    for item in items:
        text = plain(item.removesuffix(":") if item.endswith("::") else item)
        yield from _wrapped(text, width, later=INDENT if ITEM.match(item) else "")


def _option(options: list[Option], width: int) -> Iterator[str]:
    """Yield the lines of options that share a description."""
    for option in options:
        given = f" = {option.default}" if option.default != REQUIRED else f", which {REQUIRED}"
        line = f"{option.name}{given}{f' ({option.allowed})' if option.allowed else ''}"
        yield from _wrapped(line, width, INDENT, INDENT * 2)
    yield from _wrapped(plain(options[0].meaning), width, INDENT * 2, INDENT * 2)


def _wrapped(text: str, width: int, first: str = "", later: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later, break_long_words=False
    )


def _of_method(reference: str) -> dict[str, str]:
    """Return the facts of a method by their headings."""
    from fedkt.simulations.catalogue.method_facts import facts_of

    facts = facts_of(reference)
    rows = {"Paper": plain(facts.paper), "Family": facts.family}
    if facts.problem:
        rows["Not known"] = f"what travels, models and public set: {facts.problem}"
    else:
        up, down = (", ".join(kinds) or "nothing" for kinds in (facts.up, facts.down))
        rows |= {"Travels": f"up {up}; down {down}", "Models": MODELS[facts.models]}
        rows |= {"Public set": PUBLIC[facts.public], "Server": SERVER[facts.server]}
    rows["Bytes"] = plain(facts.bytes).removeprefix("Bytes ")
    return {name: said for name, said in rows.items() if said}


# What more a part of a kind is asked than what it says of itself.
_ASKED = {"strategies": _of_method}
