"""A run as it stands, in the terminal: ``fedkt watch RUN_DIR``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live as Display
from rich.table import Table
from rich.text import Text

from fedkt.deploy.deployed_run import is_deployed
from fedkt.deploy.live import OVER, read_live
from fedkt.disk import is_held
from fedkt.errors import ConfigError
from fedkt.evaluation.figure import value_of
from fedkt.evaluation.figures import BYTES_DOWN, BYTES_UP, GLOBAL, PERSONALISED
from fedkt.simulations.results.rounds import ROUNDS, read_rounds
from fedkt.simulations.results.run_folder import is_finished, is_run

SHOWN = 12  # rounds, the newest
MOST_REASONS = 6
ABOVE = 3  # folders of a comparison, and of a run whose baseline it is


def watch(
    folder: Path, every: float = 2.0, once: bool = False, console: Console | None = None
) -> None:
    """Show a run until it is over: the phase, the clients in and out, and the figures.

    Parameters
    ----------
    folder : Path
        The run directory.
    every : float
        Seconds between two looks.
    once : bool
        Whether to look once.

    Raises
    ------
    ConfigError
        If there is no run in the folder.
    """
    console = console or Console()
    if once or (folder.is_dir() and not is_held(folder)):
        _check_run(folder)
    else:
        console.print(f"waiting for {folder}", soft_wrap=True, highlight=False)
        while not is_run(folder):
            time.sleep(every)
    if once:
        console.print(shown(folder), soft_wrap=True)
        return
    if not console.is_terminal:
        _print_changes(folder, every, console)
        return
    with Display(shown(folder), console=console, auto_refresh=False) as display:
        while not is_over(folder):
            time.sleep(every)
            display.update(shown(folder), refresh=True)
        display.update(shown(folder), refresh=True)  # it may have ended in between


def _check_run(folder: Path) -> None:
    if not (is_run(folder) or (folder / ROUNDS).is_file()):
        raise ConfigError(f"{folder} is not a run directory.")


def _print_changes(folder: Path, every: float, console: Console) -> None:
    """Print a line for each phase, and the whole at the end: for files and pipes."""
    before, over = None, False
    while not over:
        over = is_over(folder)
        live = read_live(folder)  # None of a simulation
        now = f"round {live['round']}: {live['state']}" if live else _rounds(folder)
        if now != before and not over:
            console.print(now, highlight=False, soft_wrap=True)
        before = now
        if not over:
            time.sleep(every)
    console.print(shown(folder), soft_wrap=True)


def _rounds(folder: Path) -> str:
    return f"{len(read_rounds(folder))} rounds"


def has_failed(folder: Path) -> bool:
    """Return whether a run is over and not finished."""
    return is_over(folder) and not is_finished(folder)


def is_over(folder: Path) -> bool:
    """Return whether a run has ended, or the process that writes it has."""
    live = read_live(folder)
    ended = is_finished(folder) if live is None else live["state"] in OVER
    return ended or not _is_at_work(folder)


def _is_at_work(folder: Path) -> bool:
    """Return whether a process writes a run: it holds the folder, or that of the comparison."""
    return any(is_held(place) for place in (folder, *folder.resolve().parents[:ABOVE]))


def shown(folder: Path, now: float | None = None) -> Group:
    """Return the state of a run, its newest rounds and the reasons of failures, to print."""
    rows, live = read_rounds(folder), read_live(folder) or {}
    table = Table(box=None, header_style="bold")
    for title in ("Round", "In", "Out", "Personalised", "Global", "MB up", "MB down", "Seconds"):
        table.add_column(title, justify="right")
    for row in rows[-SHOWN:]:
        table.add_row(*_cells(row))
    names = live.get("names", {})
    headline = Text(_headline(folder, live, rows, time.time() if now is None else now))
    return Group(headline, table, *map(Text, _reasons(rows[-1], names) if rows else ()))


def _cells(row: Mapping[str, Any]) -> list[str]:
    out = {failure["client"] for failure in row["failures"]}
    accuracies = [value_of(row, figure.name) for figure in (PERSONALISED, GLOBAL)]
    clients = len(row[PERSONALISED.name]["per_client"]) if row.get(PERSONALISED.name) else 1
    ways = [(value_of(row, way.name) or 0.0) * clients / 1e6 for way in (BYTES_UP, BYTES_DOWN)]
    return [
        str(row["round"]),
        str(len(row["participants"])),
        str(len(out)) if out else "",
        *("" if value is None else f"{100 * value:.1f} %" for value in accuracies),
        *(f"{megabytes:.2f}" for megabytes in ways),
        f"{row['seconds']:.1f}",
    ]


def _headline(
    folder: Path, live: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], now: float
) -> str:
    if not live and is_finished(folder):
        return f"{folder}: {len(rows)} rounds, finished"
    if live.get("state") not in OVER and not _is_at_work(folder):
        return _stopped(folder, live, len(rows))
    if not live:
        return f"{folder}: {len(rows)} rounds"
    state, since = live["state"], now - live["since"]
    line = f"{folder}: {state}"
    if state not in OVER and live["round"]:
        line = f"{folder}: round {live['round']} of {live['rounds']}, {state}"
    asked = live.get("asked") or []
    line += f", {len(asked)} clients asked" if asked else ""
    line += f", since {since:.0f} s" if state not in OVER else ""
    return line + (f": {live['reason']}" if live.get("reason") else "")


def _stopped(folder: Path, live: Mapping[str, Any], rounds: int) -> str:
    """Return that a run has ended early without a word, and what goes on with it."""
    at = f"round {live['round']}, {live['state']}" if live else f"{rounds} rounds"
    if live or is_deployed(folder):
        again = f"fedkt resume {shlex.quote(str(folder))} --app APP"
        return f"{folder}: the server app has died, {at}; go on with: {again}"
    return f"{folder}: {at}, and no process writes it; go on with the command that began it"


def _reasons(row: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    lines = [
        f"round {row['round']}, client {_named(failure['client'], names)}, {failure['phase']}: "
        f"{failure['reason']}"
        for failure in row["failures"]
    ]
    more = len(lines) - MOST_REASONS
    return lines[:MOST_REASONS] + ([f"and {more} more"] if more > 0 else []) + list(row["notes"])


def _named(client: int, names: Mapping[str, str]) -> str:
    name = names.get(str(client))
    return f"{client} ({name})" if name else str(client)
