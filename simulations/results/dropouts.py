"""Sentences on failed clients: how often, which, and which of them never trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedkt.evaluation.figures import PERSONALISED
from fedkt.simulations.results.run_folder import Run

MOST = 8  # clients named one by one


def failures_said(run: Run) -> str:
    """Return a run's failures in a clause for its last line; empty without any.

    Runs of earlier versions do not name the clients: then it is the number only.
    """
    count = int(run.summary.get("failures") or 0)
    if not count:
        return ""
    failing, never = (run.summary.get(key) or [] for key in ("failing", "untrained"))
    clause = _counted(count, "failure") + (f" ({_named(failing)})" if failing else "")
    if never:
        clause += f"; {_named(never)} never trained and {_are(never)} left out"
    measured = [v is not None for v in run.per_client(PERSONALISED.name)]
    if not all(measured):
        clause += f"; accuracies over {sum(measured)} of {_counted(len(measured), 'client')}"
    return clause


def failure_lines(runs: Iterable[Run]) -> list[str]:
    """Return a line below the tables for each strategy of a comparison that has failures."""
    by_label: dict[str, list[Run]] = {}
    for run in runs:
        by_label.setdefault(run.label, []).append(run)
    lines = []
    for label, group in by_label.items():
        failed = [run for run in group if run.summary.get("failures")]
        if not failed:
            continue
        count = sum(int(run.summary["failures"]) for run in failed)
        line = f"{label}: {_counted(count, 'failure')} in {len(failed)} of {len(group)} runs"
        never = [client for run in failed for client in run.summary.get("untrained") or []]
        if never:
            line += (
                f"; {_counted(len(never), 'client')} never trained, failing in every round, and "
                f"{_are(never)} left out of means and negative transfer"
            )
        lines.append(f"{line}.")
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _named(clients: Sequence[int]) -> str:
    shown = ", ".join(map(str, clients[:MOST])) + (", …" if len(clients) > MOST else "")
    return f"client{'' if len(clients) == 1 else 's'} {shown}"


def _are(clients: Sequence[int]) -> str:
    return "is" if len(clients) == 1 else "are"
