"""``fedkt list strategies``: all methods with their facts."""

from __future__ import annotations

import shutil

from fedkt import registry
from fedkt.simulations.catalogue.method_facts import facts_of
from fedkt.simulations.catalogue.method_tables import markdown_page, terminal_table

LEAST, MOST = 60, 140  # columns; longer lines are hard to read


def columns() -> int:
    """Return the columns to write in: those of the terminal, 80 where there is none."""
    return min(max(shutil.get_terminal_size().columns, LEAST), MOST)


def list_strategies(long: bool, markdown: bool) -> None:
    """Print the table of all registered strategies, or the page on them in Markdown."""
    methods = [facts_of(name) for name in registry.names("strategies")]
    if markdown:
        print(markdown_page(methods), end="")
    else:
        print(terminal_table(methods, columns(), long))
