"""Going on with what a folder holds: only with the settings that it was begun with."""

from __future__ import annotations

from pathlib import Path

from fedkt.codecs import follows_progress
from fedkt.errors import ConfigError, without_digest
from fedkt.simulations.experiment.cells import cells_of
from fedkt.simulations.experiment.config import Experiment
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.results.run_folder import read_settings
from fedkt.strategies.construction import make_strategy


def check_same(path: Path, experiment: Experiment) -> None:
    """Refuse to resume with other settings; the grid and the number of rounds may change."""
    if not path.is_file():
        return  # an empty folder: begin
    begun, _ = read_settings(path)
    before, now = begun.model_dump(), experiment.model_dump()
    for settings in (before, now):
        for free in ("workers", "address", "timeout", "grid"):
            settings["run"].pop(free)
    # The run's plan follows from the models, so they are named before it.
    for key in sorted(before.keys() - {"compare"}, key=lambda k: (k == "run", k)):
        if before[key] != now[key] and not (key == "rounds" and now[key] > before[key]):
            raise ConfigError(
                f"{path.parent} was begun with another {key}: {before[key]!r}, not {now[key]!r}."
            )
    if before["rounds"] != now["rounds"] and read_rounds(path.parent):
        strategy = make_strategy(experiment.strategy)
        follows = strategy.follows_progress or follows_progress(experiment.run.codec, files=True)
        if follows and not experiment.schedule_rounds:
            raise ConfigError(
                f"{path.parent} was planned for {before['rounds']} rounds; what {strategy.title} "
                "does in a round depends on that, so the run cannot be made longer."
            )
    lost = _lost(begun, experiment)
    if lost:
        raise ConfigError(f"{path.parent} was begun with {lost}; it can gain, but not lose any.")


def _lost(before: Experiment, now: Experiment) -> str:
    """Return the name of the first thing that a comparison lost; empty if it lost nothing."""
    if now.compare.seeds < before.compare.seeds:
        return f"{before.compare.seeds} seeds"
    gone = [s for s in before.compare.strategies if s not in now.compare.strategies]
    if gone:
        edited = any(without_digest(gone[0]) == without_digest(s) for s in now.compare.strategies)
        return f"{'another content of ' if edited else ''}strategy {without_digest(gone[0])}"
    cells = {cell.name: cell.experiment.model_dump(exclude={"compare"}) for cell in cells_of(now)}
    for cell in cells_of(before):
        if cell.name and cells.get(cell.name) != cell.experiment.model_dump(exclude={"compare"}):
            return f"cell {cell.name!r} as it was"
    return "no cells" if bool(now.compare.cells) != bool(before.compare.cells) else ""
