"""All methods in a table: for the terminal, and as ``docs/methods.md``."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fedkt.docstrings import plain
from fedkt.simulations.catalogue.method_facts import MethodFacts, about_family

NOTHING, UNKNOWN = "–", "?"
WIDE = 112  # columns in which the papers have room beside the facts
MODELS, PLACE = 8, 7  # columns of the terminal for "networks", and for "clients" or "weights"
GAP, SLASH = "  ", " / "
HEAD = ("Strategy", "Travels", "Bytes", "Models", "Public", "Server")
PAPER = "Paper"
BRACKETS = re.compile(r"\([^()]*\)")
HARD, BAR = "\N{NO-BREAK SPACE}", r"\|"

MEANINGS: Mapping[str, str] = {
    "Travels": "up to the server / down to the clients; once where both are equal.",
    "Bytes": "up / down of a round and client, without a codec; M public samples in use, C "
    "classes, P parameters, d features, and other letters of the method's own.",
    "Models": "one architecture; any networks; networks with equally many features; or any models, "
    "those of scikit-learn included.",
    "Public": "who holds a public set: the clients, the server or both.",
    "Server": "what it holds: global weights of the clients' architecture, or models of its own.",
}
DEFAULTS = "With default options."

PREAMBLE = """# Methods

Every built-in method, by what travels. `fedkt list strategies` shows the same in the terminal, and
`fedkt show NAME` one method with all its options. This page is written from the methods themselves:

```
fedkt list strategies --markdown > docs/methods.md
```
What travels, the models, the public set and the server are asked of each method. Bytes and papers
stand in its file; formulas of bytes are checked against runs
(`simulations/testing/laws/test_bytes.py`). A test fails where this page is stale."""


def by_family(methods: Iterable[MethodFacts]) -> dict[str, list[MethodFacts]]:
    """Return methods by family, families and methods in alphabetical order, others last."""
    families: dict[str, list[MethodFacts]] = {}
    for facts in sorted(methods, key=lambda facts: (not facts.family, facts.family, facts.name)):
        families.setdefault(facts.family, []).append(facts)
    return families


def headed(family: str) -> tuple[str, str]:
    """Return a family's heading, and the sentence about it."""
    return (family, about_family(family)) if family else ("others", "Methods of other packages.")


Cell = tuple[str, ...]  # up and down, or one text for both


def travels(facts: MethodFacts) -> Cell:
    """Return what travels up and down."""
    up, down = (" + ".join(kinds) or "nothing" for kinds in (facts.up, facts.down))
    return (UNKNOWN,) if facts.problem else _once(up, down)


def in_bytes(facts: MethodFacts) -> Cell:
    """Return the bytes up and down; where the docstring has no such formulas, its first clause."""
    if facts.formula is not None:
        return _once(*facts.formula)
    said = plain(facts.bytes)
    return (re.split(r"[.;] |\.$", said.partition(": ")[2] or said)[0] or UNKNOWN,)


def _once(up: str, down: str) -> Cell:
    return (up,) if up == down else (up, down)


def _cells(facts: MethodFacts) -> list[Cell]:
    """Return the cells of a method's row, as ``HEAD`` says."""
    absent = UNKNOWN if facts.problem else NOTHING
    places = [(place or absent,) for place in (facts.models, facts.public, facts.server)]
    return [(facts.name,), travels(facts), in_bytes(facts), *places]


# --- the terminal -------------------------------------------------------------------------------


def terminal_table(methods: Sequence[MethodFacts], width: int, long: bool = False) -> str:
    """Return the methods as text, by family.

    Parameters
    ----------
    methods : Sequence[MethodFacts]
        The methods.
    width : int
        Columns of the terminal. Where papers have no room beside the facts, they stand below them.
    long : bool
        Whether the papers stand in full below the facts, and what each method does.
    """
    beside = width >= WIDE and not long
    widths = _widths(methods, width, beside)
    lines = []
    for family, members in by_family(methods).items():
        title, sentence = headed(family)
        lines += ["", *textwrap.wrap(f"{title}: {sentence}", width)]
        lines += _row([(head,) for head in (*HEAD, *([PAPER] if beside else []))], widths)
        for facts in members:
            papers = [(facts.short_citation or NOTHING,)] if beside else []
            lines += _row([*_cells(facts), *papers], widths)
            paper = facts.paper if long else facts.short_citation * (not beside)
            below = [facts.line * long, paper, facts.problem]
            for text in filter(None, map(plain, below)):
                lines += textwrap.wrap(text, width, initial_indent=GAP, subsequent_indent=GAP)
    return "\n".join([*lines[1:], "", *_legend(width)])


def _widths(methods: Sequence[MethodFacts], width: int, beside: bool) -> list[int]:
    """Return the widths of the columns: travels and bytes share what the others leave."""
    name = max(map(len, [HEAD[0], *(facts.name for facts in methods)]))
    paper = max((len(facts.short_citation) for facts in methods), default=0)
    fixed = [name, MODELS, PLACE, PLACE, *([max(paper, len(PAPER))] if beside else [])]
    least = len("probabilities")
    rest = max(width - sum(fixed) - len(GAP) * (len(fixed) + 1), 2 * least)
    travel = max(least, rest * 2 // 5)
    return [name, travel, rest - travel, *fixed[1:]]


def _row(cells: Sequence[Cell], widths: Sequence[int]) -> Iterator[str]:
    """Yield the lines of a row, whose cells take as many as they need."""
    wrapped = [_wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for number in range(max(map(len, wrapped))):
        parts = [lines[number] if number < len(lines) else "" for lines in wrapped]
        yield GAP.join(f"{p:<{w}}" for p, w in zip(parts, widths, strict=True)).rstrip()


def _wrapped(cell: Cell, width: int) -> list[str]:
    """Return the lines of a cell: what goes down begins a new one, brackets stay whole."""
    if len(SLASH.join(cell)) <= width:
        return [SLASH.join(cell)]
    lines = []
    for text in (*(part + SLASH.rstrip() for part in cell[:-1]), cell[-1]):
        whole = BRACKETS.sub(lambda found: found[0].replace(" ", HARD), text)
        lines += textwrap.wrap(whole, width, break_on_hyphens=False)
    return [line.replace(HARD, " ") for line in lines]


def _legend(width: int) -> Iterator[str]:
    for word, meaning in MEANINGS.items():
        yield from textwrap.wrap(f"{word}: {meaning}", width, subsequent_indent=GAP)
    more = "fedkt show NAME: one method with its options. --long: what each one does."
    yield from textwrap.wrap(f"{DEFAULTS} {more}", width)


# --- docs/methods.md ----------------------------------------------------------------------------


def markdown_page(methods: Sequence[MethodFacts]) -> str:
    """Return the page on all methods, in Markdown."""
    meanings = "\n".join(f"* {word}: {meaning}" for word, meaning in MEANINGS.items())
    below = f"{DEFAULTS} Below each table: papers and bytes in full."
    sections = [PREAMBLE, families_table(methods), meanings, below]
    for family, members in by_family(methods).items():
        title, sentence = headed(family)
        sections += [f"## {title.capitalize()}\n{sentence}", _markdown_table(members)]
        sections.append("\n".join(map(_in_full, members)))
    return "\n\n".join(sections) + "\n"


def families_table(methods: Iterable[MethodFacts]) -> str:
    """Return the families with the names of their methods in Markdown, as README has them."""
    rows = [["Family", "", "Strategies"], ["---"] * 3]
    for family, members in by_family(methods).items():
        rows.append([*headed(family), ", ".join(f"`{facts.name}`" for facts in members)])
    return _in_markdown(rows)


def _markdown_table(members: Iterable[MethodFacts]) -> str:
    head = [*HEAD, PAPER, "What it does"]
    rows = [head, ["---"] * len(head)]
    for facts in members:
        cells = [SLASH.join(cell) for cell in _cells(facts)[1:]]
        paper = facts.short_citation or NOTHING
        rows.append([f"`{facts.name}`", *cells, paper, plain(facts.line, "`")])
    return _in_markdown(rows)


def _in_markdown(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(c.replace('|', BAR) for c in row)} |" for row in rows)


def _in_full(facts: MethodFacts) -> str:
    """Return paper and bytes of a method, as an item of a list."""
    paper = f"{facts.paper}." if facts.paper else ""
    said = [plain(text, "`") for text in (facts.problem, paper, facts.bytes) if text]
    return f"* `{facts.name}`: {' '.join(said)}"
