"""Results in Python, read from the folder of a run or of a comparison."""

from __future__ import annotations

from pathlib import Path

from fedkt.errors import ConfigError
from fedkt.simulations.api.comparison_result import CellsResult, ComparisonResult
from fedkt.simulations.api.run_result import RunResult
from fedkt.simulations.results.comparison_folder import CELLS, TABLE, load_cells, load_comparison
from fedkt.simulations.results.run_folder import is_run, load_run


def load(folder: str | Path) -> RunResult | ComparisonResult | CellsResult:
    """Return the results in a folder that ``fedkt simulate`` or ``fedkt compare`` wrote.

    Parameters
    ----------
    folder : str or Path
        Of a finished run, or of a comparison with at least one finished run.

    Raises
    ------
    ConfigError
        If it is neither, or one of its files is damaged.
    """
    path = Path(folder)
    if (path / CELLS).is_dir() or (path / TABLE).is_file():
        return load_compared(path)
    if is_run(path):
        return RunResult(load_run(path))
    raise ConfigError(f"{path} is neither a run nor a comparison.")


def load_compared(folder: Path) -> ComparisonResult | CellsResult:
    """Return the results of a comparison; see `load`."""
    if (folder / CELLS).is_dir():
        cells = load_cells(folder)[1]
        return CellsResult(folder, {name: ComparisonResult(cell) for name, cell in cells.items()})
    return ComparisonResult(load_comparison(folder))
