"""A run folder: the names of its files, and the one reader of them.

Nothing here trains or draws. A folder is read once into a `Run`; everything that shows results
(figures, reports, the terminal) starts from there.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from fedkt.errors import ConfigError, unknown
from fedkt.evaluation.figure import ACCURACY, Figure, Place, spread_of, value_of
from fedkt.evaluation.figures import (
    BYTES_DOWN,
    BYTES_UP,
    PERSONALISED,
    add_metrics,
    figures_at,
    table,
)
from fedkt.evaluation.transfer import transfer
from fedkt.metrics import Facts
from fedkt.simulations.experiment import config as config_
from fedkt.simulations.experiment.config import Experiment
from fedkt.simulations.results.rounds import ROUNDS, SUMMARY, parse_object, read_rounds
from fedkt.simulations.results.selection import SELECTIONS
from fedkt.text import one_line

CONFIG, FEDERATION = "config.toml", "federation.json"

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
        """Return one figure over the rounds in which it was measured.

        Parameters
        ----------
        key : str
            A key of a round, such as ``"personalised_accuracy"``; a dot leads to a key
            further inside, as in ``"leakage.correlation"``. Or the name of a figure that is
            derived from a round, ``"worst_decile"``.

        Returns
        -------
        tuple[list[int], list[float], list[float]]
            Round numbers, means and standard deviations over clients (0 for a figure
            that is not an average over clients), all of one length.
        """
        rounds: list[int] = []
        means: list[float] = []
        stds: list[float] = []
        derived = next((f.derived for f in table() if f.name == key), None)
        for entry in self.rounds:
            value = derived(entry) if derived else value_of(entry, key)
            if value is not None:
                rounds.append(int(entry["round"]))
                means.append(float(value))
                stds.append(0.0 if derived else spread_of(entry, key))
        return rounds, means, stds

    def per_client(self, key: str) -> list[float | None]:
        """Return one accuracy of every client, from the last round that measured it.

        Clients that were not measured have None; the list is empty if no client ever was.
        """
        for entry in reversed(self.rounds):
            accuracy: dict[str, Any] = entry.get(key) or {}
            values = accuracy.get("per_client")
            if values:
                return list(values)
        return []

    def tables(self, name: str) -> list[Any]:
        """Return a metric that is a table for every client, from the last round that measured it.

        Parameters
        ----------
        name : str
            A key of ``tables`` of a round, such as ``"personalised_confusion_matrix"``.

        Returns
        -------
        list
            Of lists of ``C`` numbers, or of ``C`` such lists; None for an entry that is not
            defined, and for a client without one. Empty if no client ever was measured.
        """
        tables = (entry.get("tables") or {} for entry in reversed(self.rounds))
        return next((list(each[name]) for each in tables if each.get(name)), [])

    def cumulative_bytes(self) -> dict[int, float]:
        """Return the bytes per client, both directions, up to the end of each round."""
        total, sent = 0.0, {}
        for entry in self.rounds:
            total += sum(value_of(entry, way.name) or 0.0 for way in (BYTES_UP, BYTES_DOWN))
            sent[int(entry["round"])] = total
        return sent

    def selected(self, selection: str = "last") -> dict[str, Any]:
        """Return the summary's figures of one round (see `SELECTIONS`); empty if absent.

        Raises
        ------
        ConfigError
            If there is no such rule.
        """
        if selection not in SELECTIONS:
            raise unknown("selection", selection, SELECTIONS)
        chosen: dict[str, Any] = self.summary.get(selection) or {}
        return chosen

    def figure(self, figure: Figure, selection: str = "last") -> float | None:
        """Return a figure of the summary: of a selected round, or of the whole run."""
        return value_of(self.summary if figure.whole else self.selected(selection), figure.name)

    def baseline(self) -> Run | None:
        """Return the run of training alone on as many private samples, if it is still in place.

        It is the run that the summary's ``baseline`` points to, else the one in
        ``baseline/``; None for a run that is its own baseline.
        """
        return self._beside["baseline"]

    def same_epochs(self) -> Run | None:
        """Return the run of training alone for as many private epochs; None if the baseline's."""
        return self._beside["same_epochs"]

    @cached_property
    def _beside(self) -> dict[str, Run | None]:
        runs: dict[str, Run | None] = {}
        for name in ("baseline", "same_epochs"):
            path = self.path / str(self.summary.get(name) or name)
            usable = path.is_dir() and path.resolve() != self.path.resolve()
            runs[name] = load_run(path) if usable else None
        return runs

    def gains(self, baseline: Run | None) -> list[float | None]:
        """Return the personalised accuracy of every client minus that of local training.

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
        accuracies, alone = (run.per_client(PERSONALISED.name) for run in (self, baseline))
        return transfer(accuracies, alone) if len(accuracies) == len(alone) else []


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
    config = read_file(path / CONFIG, "run", tomllib.loads)
    if not (path / SUMMARY).is_file() and (path / CONFIG).is_file():
        raise ConfigError(
            f"{path} is not a run directory: it has no {SUMMARY}. The run has not finished."
        )
    summary = read_file(path / SUMMARY, "run", parse_object)
    federation = read_file(path / FEDERATION, "run", parse_object)
    try:
        add_metrics(Facts(**facts) for facts in summary.get("metrics", ()))
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path / SUMMARY} is damaged: metrics: {one_line(error)}.") from error
    rounds = read_rounds(path)
    if not (path / ROUNDS).is_file():
        raise _no_folder(path / ROUNDS, "run")
    if "strategy" not in summary or not isinstance(summary.get("seed"), int):
        raise ConfigError(f"{path / SUMMARY} is damaged: no strategy or no whole seed.")
    wrong = [key for key in SELECTIONS if not isinstance(summary.get(key) or {}, dict)]
    if wrong:
        raise ConfigError(f"{path / SUMMARY} is damaged: {wrong[0]} is not an object.")
    return Run(path, config, rounds, summary, federation)


def figures_of(place: Place, runs: Sequence[Run]) -> list[Figure]:
    """Return the figures that stand in a place for some runs.

    Optional ones do if any run measured them, and so do all figures of runs over a network, where
    nobody can train alone beside the federation.
    """
    return [figure for figure in figures_at(place) if _stands(figure, runs)]


def defined(runs: Sequence[Run]) -> list[Figure]:
    """Return the figures that reports on some runs define."""
    return [figure for figure in table() if figure.definition and _stands(figure, runs)]


def _stands(figure: Figure, runs: Sequence[Run]) -> bool:
    if figure.whole:
        return not figure.optional or any(figure.name in run.summary for run in runs)
    deployed = bool(runs) and all(run.federation.get("deployed") for run in runs)
    if not figure.optional and not deployed:
        return True
    derive = figure.derived or (lambda row: value_of(row, figure.name))
    return any(derive(row) is not None for run in runs for row in run.rounds)


def selected_by(runs: Sequence[Run]) -> str:
    """Return in words what the validation-selected round of runs of one experiment is best in."""
    name = (runs[0].config.get("run") or {}).get("select_by", ACCURACY)
    titles = {facts["name"]: facts["title"] for facts in runs[0].summary.get("metrics", ())}
    return str(titles.get(name, name))


def is_run(folder: Path) -> bool:
    """Return whether a run has been set up in a folder."""
    return (folder / CONFIG).is_file()


def is_begun(folder: Path) -> bool:
    """Return whether a folder holds the facts of a run's federation."""
    return (folder / FEDERATION).is_file()


def is_finished(folder: Path) -> bool:
    """Return whether the run of a folder is complete."""
    return (folder / SUMMARY).is_file()


def read_settings(path: Path) -> tuple[Experiment, str | None]:
    """Return the resolved experiment of a folder's TOML file, and the command that it came from.

    Raises
    ------
    ConfigError
        If the file is missing or damaged.
    """
    values = config_.load(path)
    command = values.pop("command", None)
    return config_.parse(values), command


def read_content(folder: Path) -> dict[str, Any] | None:
    """Return the digests that a run was begun with, empty if it does not say; None if not begun.

    Raises
    ------
    ConfigError
        If the file is damaged.
    """
    path = folder / FEDERATION
    if not path.is_file():
        return {} if (folder / ROUNDS).is_file() else None
    try:
        content: dict[str, Any] = parse_object(path.read_text(encoding="utf-8")).get("content", {})
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}.") from error
    return content


def read_file(path: Path, what: str, parse: Callable[[str], _T]) -> _T:
    """Return what a file of a run or a comparison holds; ConfigError if missing or damaged."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _no_folder(path, what) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged: {one_line(error)}.") from error


def _no_folder(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path.parent} is not a {what} directory: it has no {path.name}.")
