"""What runs leave behind: run directories and comparisons.

Nothing here trains or draws. A run directory is read once into a `Run`; everything that
shows results (figures, reports, the terminal) starts from there.
"""

from __future__ import annotations

import csv
import io
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from fedkt.disk import write_atomic
from fedkt.errors import ConfigError
from fedkt.evaluation.figures import (
    BYTES_DOWN,
    BYTES_UP,
    PERSONALISED,
    Figure,
    figures_at,
    spread_of,
    value_of,
)
from fedkt.evaluation.metrics import transfer
from fedkt.simulations.results.rounds import parse_object, read_rounds
from fedkt.simulations.results.selection import SELECTIONS
from fedkt.text import one_line

KEYS = ("strategy", "seed")
"""The columns of ``comparison.csv`` that name a run; its figures follow."""

_REFERENCE = "local"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Run:
    """One finished run, as its directory tells it.

    Parameters
    ----------
    path : Path
        The run directory.
    config : dict[str, Any]
        The resolved experiment (``config.toml``).
    rounds : list[dict[str, Any]]
        The rounds in order (``rounds.jsonl``).
    summary : dict[str, Any]
        The figures of the whole run (``summary.json``).
    federation : dict[str, Any]
        Who took part and with what data (``federation.json``).
    """

    path: Path
    config: dict[str, Any]
    rounds: list[dict[str, Any]]
    summary: dict[str, Any]
    federation: dict[str, Any]

    @property
    def label(self) -> str:
        """The name to show: the run's label, or else its strategy."""
        return str(self.summary.get("label") or self.summary["strategy"])

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.summary["seed"])

    def series(self, key: str) -> tuple[list[int], list[float], list[float]]:
        """Follow one figure over the rounds in which it was measured.

        Parameters
        ----------
        key : str
            A key of a round, such as ``"personalised_accuracy"``; a dot leads to a key
            further inside, as in ``"leakage.correlation"``.

        Returns
        -------
        tuple[list[int], list[float], list[float]]
            Round numbers, means and standard deviations over clients (0 for a figure
            that is not an average over clients), all of one length.
        """
        rounds: list[int] = []
        means: list[float] = []
        stds: list[float] = []
        for entry in self.rounds:
            value = value_of(entry, key)
            if value is not None:
                rounds.append(int(entry["round"]))
                means.append(float(value))
                stds.append(spread_of(entry, key))
        return rounds, means, stds

    def per_client(self, key: str) -> list[float | None]:
        """Give one accuracy of every client, from the last round that measured it.

        Clients that were not measured have None; the list is empty if nobody ever was.
        """
        for entry in reversed(self.rounds):
            accuracy: dict[str, Any] = entry.get(key) or {}
            values = accuracy.get("per_client")
            if values:
                return list(values)
        return []

    def cumulative_bytes(self) -> dict[int, float]:
        """Add up the bytes per client, both directions, until the end of each round."""
        total, sent = 0.0, {}
        for entry in self.rounds:
            total += sum(value_of(entry, way.name) or 0.0 for way in (BYTES_UP, BYTES_DOWN))
            sent[int(entry["round"])] = total
        return sent

    def selected(self, selection: str = "last") -> dict[str, Any]:
        """Give the summary's figures of one round (see `SELECTIONS`); empty if absent."""
        chosen: dict[str, Any] = self.summary.get(selection) or {}
        return chosen

    def figure(self, figure: Figure, selection: str = "last") -> float | None:
        """Return a figure of the summary: of a selected round, or the sum over all rounds."""
        return value_of(self.summary if figure.total else self.selected(selection), figure.name)

    def baseline(self) -> Run | None:
        """Load training alone on as many private samples, if it is known and still in place.

        It is the run that the summary's ``baseline`` points to, else the one in
        ``baseline/``; None for a run that is its own baseline.
        """
        return self._beside["baseline"]

    def same_epochs(self) -> Run | None:
        """Load training alone for as many private epochs; None where that is the baseline."""
        return self._beside["same_epochs"]

    @cached_property
    def _beside(self) -> dict[str, Run | None]:
        found: dict[str, Run | None] = {}
        for name in ("baseline", "same_epochs"):
            path = self.path / str(self.summary.get(name) or name)
            known = path.is_dir() and path.resolve() != self.path.resolve()
            found[name] = load_run(path) if known else None
        return found

    def gains(self, baseline: Run | None) -> list[float | None]:
        """Subtract local training's personalised accuracy from that of every client.

        Parameters
        ----------
        baseline : Run | None
            The run of local training, such as `baseline()`.

        Returns
        -------
        list[float | None]
            One difference in [-1, 1] a client, None where either side is unknown; empty
            without a baseline of as many clients.
        """
        if baseline is None:
            return []
        ours, alone = (run.per_client(PERSONALISED.name) for run in (self, baseline))
        return transfer(ours, alone) if len(ours) == len(alone) else []


@dataclass(frozen=True)
class Comparison:
    """Several strategies over several seeds.

    Parameters
    ----------
    path : Path
        The comparison directory.
    config : dict[str, Any]
        The resolved comparison (``comparison.toml``).
    groups : dict[str, list[Run]]
        The runs of each label, in the order of ``comparison.csv``.
    """

    path: Path
    config: dict[str, Any]
    groups: dict[str, list[Run]]

    @property
    def runs(self) -> list[Run]:
        """All runs, group after group."""
        return [run for group in self.groups.values() for run in group]

    @property
    def reference(self) -> str:
        """The label that the others are compared with: ``local``, or else the first."""
        return _REFERENCE if _REFERENCE in self.groups else next(iter(self.groups))


def load_run(path: str | Path) -> Run:
    """Read a run directory.

    Returns
    -------
    Run
        The run.

    Raises
    ------
    ConfigError
        If it is no run directory, or one of its files is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise ConfigError(f"{path} is not a run directory: there is no such folder.")
    config = _read(path / "config.toml", "run", tomllib.loads)
    summary = _read(path / "summary.json", "run", parse_object)
    federation = _read(path / "federation.json", "run", parse_object)
    rounds = read_rounds(path)
    if not (path / "rounds.jsonl").is_file():
        raise _no_directory(path / "rounds.jsonl", "run")
    if "strategy" not in summary or not isinstance(summary.get("seed"), int):
        raise ConfigError(f"{path / 'summary.json'} is damaged: no strategy or no whole seed.")
    wrong = [key for key in SELECTIONS if not isinstance(summary.get(key) or {}, dict)]
    if wrong:
        raise ConfigError(f"{path / 'summary.json'} is damaged: {wrong[0]} is not an object.")
    return Run(path, config, rounds, summary, federation)


def load_comparison(path: str | Path) -> Comparison:
    """Read a comparison directory.

    Returns
    -------
    Comparison
        The runs that ``comparison.csv`` lists, in its order; other folders under
        ``runs/`` (left from before, or baselines only) are not part of it.

    Raises
    ------
    ConfigError
        If it is no comparison directory, a file is damaged, or a listed run is missing.
    """
    path = Path(path)
    if not path.is_dir():
        raise ConfigError(f"{path} is not a comparison directory: there is no such folder.")
    rows = _read(path / "comparison.csv", "comparison", _parse_rows)
    config = _read(path / "comparison.toml", "comparison", tomllib.loads)
    folder = path / "runs"
    # Those without a summary have not finished; a comparison may be looked at while it runs.
    done = (p for p in folder.iterdir() if (p / "summary.json").is_file())
    found = sorted(done) if folder.is_dir() else []
    by_name = {p.name: p for p in found}
    loaded: dict[tuple[str, int], Run] = {}
    groups: dict[str, list[Run]] = {}
    for label, seed in rows:
        home = by_name.get(f"{label}-seed{seed}")
        run = load_run(home) if home else None
        if run is None or (run.label, run.seed) != (label, seed):
            # The label was not fit to be a folder's name: look into the summaries.
            loaded = loaded or {(r.label, r.seed): r for r in map(load_run, found)}
            run = loaded.get((label, seed))
        if run is None:
            raise ConfigError(f"{folder} has no run of {label!r} with seed {seed}.")
        groups.setdefault(label, []).append(run)
    if not groups:
        raise ConfigError(f"{path / 'comparison.csv'} lists no runs.")
    return Comparison(path, config, groups)


def columns() -> tuple[str, ...]:
    """Return the columns of ``comparison.csv``, in order."""
    return (*KEYS, *(figure.name for figure in figures_at("csv")))


def comparison_rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Tabulate runs: one row a run, with the figures of the last round.

    Returns
    -------
    list[dict[str, Any]]
        Rows with the keys `columns`; accuracies in [0, 1] or None, bytes per client
        over the run.
    """
    return [
        {"strategy": run.label, "seed": run.seed}
        | {figure.name: run.figure(figure) for figure in figures_at("csv")}
        for run in runs
    ]


def write_comparison_csv(path: str | Path, runs: Iterable[Run]) -> None:
    """Write ``comparison.csv`` (see `comparison_rows`), all at once or not at all."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(comparison_rows(runs))
    write_atomic(Path(path), buffer.getvalue())


def _read(path: Path, what: str, parse: Callable[[str], _T]) -> _T:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _no_directory(path, what) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged: {one_line(error)}.") from error


def _no_directory(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path.parent} is not a {what} directory: it has no {path.name}.")


def _parse_rows(text: str) -> list[tuple[str, int]]:
    reader = csv.DictReader(io.StringIO(text))
    if not set(KEYS) <= set(reader.fieldnames or ()):
        raise ValueError(f"it has no columns {' and '.join(KEYS)}")
    rows = list(reader)
    if not all(re.fullmatch(r"-?\d+", row["seed"] or "") for row in rows):
        raise ValueError("a seed is not a whole number")
    return [(row["strategy"], int(row["seed"])) for row in rows]
