"""Live progress: a bar where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class RunProgress(Protocol):
    """The display of progress of one or several runs."""

    def run_started(self, label: str, rounds: int, clients: int, first_round: int) -> None:
        """Note that a run begins (``first_round`` > 1: resumes)."""
        ...

    def clients_done(self, done: int, total: int) -> None:
        """Note how many clients of the current phase are done."""
        ...

    def round_finished(
        self, round_: int, personalised: float | None, global_: float | None
    ) -> None:
        """Note a finished round."""
        ...

    def run_finished(self) -> None:
        """Note that the run is complete."""
        ...

    def part_finished(self, name: str, rounds: int) -> None:
        """Note that other processes have finished runs with ``rounds`` rounds in all."""
        ...

    def close(self) -> None:
        """Stop drawing."""
        ...


class Silent:
    """Progress that is not shown."""

    def run_started(self, label: str, rounds: int, clients: int, first_round: int) -> None:
        """Show nothing."""

    def clients_done(self, done: int, total: int) -> None:
        """Show nothing."""

    def round_finished(
        self, round_: int, personalised: float | None, global_: float | None
    ) -> None:
        """Show nothing."""

    def run_finished(self) -> None:
        """Show nothing."""

    def part_finished(self, name: str, rounds: int) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


class Live:
    """A bar over all rounds of all runs, and one over the clients of the current phase.

    Parameters
    ----------
    console : Console
        Where to draw.
    total_rounds : int
        Over all runs, for the time left.
    """

    def __init__(self, console: Console, total_rounds: int) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._all = self._bars.add_task("all runs", total=total_rounds, unit="rounds")
        self._phase = self._bars.add_task("", total=None, unit="clients")
        self._label, self._rounds, self._last = "", 0, ""
        self._bars.start()

    def run_started(self, label: str, rounds: int, clients: int, first_round: int) -> None:
        """Show the run's name."""
        self._label, self._rounds = label, rounds
        self._bars.update(self._all, advance=first_round - 1)
        self._show(first_round, clients)

    def clients_done(self, done: int, total: int) -> None:
        """Move the clients' bar."""
        self._bars.update(self._phase, completed=done, total=total)

    def round_finished(
        self, round_: int, personalised: float | None, global_: float | None
    ) -> None:
        """Move the rounds' bar."""
        self._bars.update(self._all, advance=1)
        self._last = _accuracies(personalised, global_)
        self._show(min(round_ + 1, self._rounds), None)

    def run_finished(self) -> None:
        """Leave a line about the run behind."""
        line = f"{self._label}: {self._rounds} rounds, {self._last}"
        self._bars.console.print(line, highlight=False, markup=False)

    def part_finished(self, name: str, rounds: int) -> None:
        """Move the rounds' bar and leave a line behind."""
        self._bars.update(self._all, advance=rounds)
        self._bars.console.print(f"{name}: done", highlight=False, markup=False)

    def close(self) -> None:
        """Stop drawing."""
        self._bars.stop()

    def _show(self, round_: int, clients: int | None) -> None:
        name = f"{self._label}, round {round_}/{self._rounds}"
        self._bars.update(self._phase, description=name, total=clients, completed=0)


class Lines:
    """One line a round.

    Parameters
    ----------
    console : Console
        Where to write.
    total_rounds : int
        Over all runs, for the time left.
    """

    def __init__(self, console: Console, total_rounds: int) -> None:
        self._console, self._total = console, total_rounds
        self._done, self._timed, self._began = 0, 0, time.monotonic()
        self._label, self._rounds, self._clients = "", 0, 0

    def run_started(self, label: str, rounds: int, clients: int, first_round: int) -> None:
        """Note the run."""
        self._label, self._rounds, self._clients = label, rounds, clients
        self._done += first_round - 1

    def clients_done(self, done: int, total: int) -> None:
        """Write nothing."""

    def round_finished(
        self, round_: int, personalised: float | None, global_: float | None
    ) -> None:
        """Write a line."""
        self._say(
            f"{self._label}: round {round_}/{self._rounds}, {self._clients} clients, "
            f"{_accuracies(personalised, global_)}",
            1,
        )

    def run_finished(self) -> None:
        """Write nothing."""

    def part_finished(self, name: str, rounds: int) -> None:
        """Write a line."""
        self._say(f"{name}: done", rounds)

    def close(self) -> None:
        """Write nothing."""

    def _say(self, what: str, rounds: int) -> None:
        self._done, self._timed = self._done + rounds, self._timed + rounds
        pace = (time.monotonic() - self._began) / self._timed
        left = pace * (self._total - self._done)
        text = f"{what}, about {left:.0f} s left"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def progress_for(console: Console, total_rounds: int) -> RunProgress:
    """Return bars for a terminal and lines for anything else."""
    return Live(console, total_rounds) if console.is_terminal else Lines(console, total_rounds)


def _accuracies(personalised: float | None, global_: float | None) -> str:
    def show(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    return f"personalised {show(personalised)}, global {show(global_)}"
