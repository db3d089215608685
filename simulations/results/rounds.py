"""The rounds of a run: the one reader of ``rounds.jsonl``, for reports and for runs that go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedkt.errors import ConfigError
from fedkt.evaluation.figures import over_clients_at_once
from fedkt.simulations.results.checkpoints import CHECKPOINTS, latest
from fedkt.text import one_line

ROUNDS, SUMMARY = "rounds.jsonl", "summary.json"


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of ``rounds.jsonl``, round 1 first.

    Parameters
    ----------
    folder : Path
        The run directory.

    Returns
    -------
    list[dict[str, Any]]
        Empty for a run that has not begun. The torn last line of an interrupted run is left
        out: that round is run again.

    Raises
    ------
    ConfigError
        If the file is damaged in any other way: a line that is no round, a round that is
        missing or there twice, fewer rounds than ``summary.json`` or a checkpoint stands for.
    """
    # Before the rows: a run at work writes the row of a round and then its checkpoint.
    finished, saved = _finished(folder), latest(folder / CHECKPOINTS)
    path = folder / ROUNDS
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise _damaged(path, str(error)) from error
    # Not splitlines(): a reason in the file may hold other line separators.
    lines = [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    rows: list[dict[str, Any]] = []
    torn = False
    for number, line in lines:
        try:
            row = parse_object(line.decode())
        except ValueError as error:
            torn = number == lines[-1][0] and len(rows) >= finished
            if torn:
                break
            raise _damaged(path, f"line {number}: {_reason(error)}") from error
        if fault := _fault(row, len(rows) + 1):
            raise _damaged(path, f"line {number}: {fault}")
        rows.append(row)
    if len(rows) < finished:
        raise _damaged(path, f"it has {len(rows)} rounds, and summary.json is of {finished}")
    if len(rows) + torn < saved:
        raise _damaged(path, f"it has {len(rows)} rounds, and a checkpoint is of round {saved}")
    return rows


def parse_object(text: str) -> dict[str, Any]:
    """Return a JSON object; ValueError for anything else.

    NaN and Infinity are not JSON: a figure that is not a number counts as not measured.
    """
    value = json.loads(text, parse_constant=lambda _: None)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _finished(folder: Path) -> int:
    """Return how many rounds the run's summary stands for; 0 without one."""
    path = folder / SUMMARY
    try:
        rounds = parse_object(path.read_text(encoding="utf-8")).get("rounds")
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged: {one_line(error)}.") from error
    return rounds if isinstance(rounds, int) else 0


def _fault(row: dict[str, Any], expected: int) -> str:
    """Return what is wrong with the row of a round; empty if nothing is."""
    number = row.get("round")
    if not isinstance(number, int):
        return "no round number"
    if number != expected:
        return f"round {number} where round {expected} should be"
    wrong = [name for name in over_clients_at_once() if not isinstance(row.get(name) or {}, dict)]
    return f"{wrong[0]} is not an object" if wrong else ""


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):  # str(error) would count lines from this one
        return f"{error.msg} (character {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start + 1}"
    return str(error)


def _damaged(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path} is damaged: {one_line(what)}. Put it back from a copy, or remove "
        f"{path.parent} and run that again."
    )
