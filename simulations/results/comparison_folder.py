"""A comparison's folder: the names of its files, and the one reader of them."""

from __future__ import annotations

import csv
import io
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkt.errors import ConfigError
from fedkt.simulations.experiment.cells import Cell, cells_of
from fedkt.simulations.results.run_folder import (
    Run,
    is_finished,
    load_run,
    read_file,
    read_settings,
)

COMPARISON, TABLE, RUNS, CELLS = "comparison.toml", "comparison.csv", "runs", "cells"
KEYS = ("strategy", "seed")
"""The columns of ``comparison.csv`` that name a run; its figures follow."""

_REFERENCE = "local"


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
    rows = read_file(path / TABLE, "comparison", _parse_rows)
    config = read_file(path / COMPARISON, "comparison", tomllib.loads)
    folder = path / RUNS
    # Those without a summary have not finished; a comparison may be looked at while it runs.
    done = (p for p in folder.iterdir() if is_finished(p))
    folders = sorted(done) if folder.is_dir() else []
    by_name = {p.name: p for p in folders}
    loaded: dict[tuple[str, int], Run] = {}
    groups: dict[str, list[Run]] = {}
    for label, seed in rows:
        home = by_name.get(f"{label}-seed{seed}")
        run = load_run(home) if home else None
        if run is None or (run.label, run.seed) != (label, seed):
            # The label was not fit to be a folder's name: look into the summaries.
            loaded = loaded or {(r.label, r.seed): r for r in map(load_run, folders)}
            run = loaded.get((label, seed))
        if run is None:
            raise ConfigError(f"{folder} has no run of {label!r} with seed {seed}.")
        groups.setdefault(label, []).append(run)
    if not groups:
        raise ConfigError(f"{path / TABLE} lists no runs.")
    return Comparison(path, config, groups)


def has_runs(folder: Path) -> bool:
    """Return whether a comparison lists a finished run."""
    table = folder / TABLE
    return table.is_file() and len(table.read_text(encoding="utf-8").splitlines()) > 1


def load_cells(out: Path) -> tuple[list[Cell], dict[str, Comparison]]:
    """Read a comparison of several cells: all its cells, and the results of those begun.

    Raises
    ------
    ConfigError
        If the folder holds none.
    """
    cells = [cell for cell in cells_of(read_settings(out / COMPARISON)[0]) if cell.name]
    if not cells:
        raise ConfigError(f"{out} is no comparison of several cells.")
    begun = [cell for cell in cells if has_runs(cell.folder(out))]
    return cells, {cell.name: load_comparison(cell.folder(out)) for cell in begun}


def _parse_rows(text: str) -> list[tuple[str, int]]:
    reader = csv.DictReader(io.StringIO(text))
    if not set(KEYS) <= set(reader.fieldnames or ()):
        raise ValueError(f"it has no columns {' and '.join(KEYS)}")
    rows = list(reader)
    if not all(re.fullmatch(r"-?\d+", row["seed"] or "") for row in rows):
        raise ValueError("a seed is not a whole number")
    return [(row["strategy"], int(row["seed"])) for row in rows]
