"""The content of a run: digests of its data and of the user's files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedkt import registry
from fedkt.calls import files_in, names_in
from fedkt.errors import ConfigError
from fedkt.recipe import Recipe
from fedkt.registry import file_digest
from fedkt.simulations.experiment.config import Experiment
from fedkt.simulations.results.run_folder import read_content
from fedkt.strategies.construction import make_strategy, resolved_strategy


def user_files(*references: str) -> dict[str, str]:
    """Return the user's Python files among references, each with the digest of its content."""
    paths = [name.rpartition(":")[0] for text in references for name in files_in(text)]
    return {str(Path(path).resolve()): file_digest(path) for path in paths}


def without_data(parts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return kind and name of parts other than data sets, which count by the rows of clients."""
    return [entry for entry in parts if entry[0] != "datasets"]


def parts_of(experiment: Experiment, recipe: Recipe | None = None) -> Iterator[tuple[str, str]]:
    """Yield kind and name of the registered parts of a run, those of its recipe too.

    Parameters
    ----------
    experiment : Experiment
        The run's.
    recipe : Recipe, optional
        Of its strategy; by default that of a new object of it.
    """
    recipe = recipe or make_strategy(experiment.strategy).settled_recipe
    section = resolved_strategy(experiment.strategy)
    yield from references_in(experiment.model_dump(), section, json.loads(recipe.to_json()))


def references_in(*values: Any) -> Iterator[tuple[str, str]]:
    """Yield kind and name of all registered parts that texts in JSON values name."""
    for name in dict.fromkeys(names_in(values)):
        for part in registry.PARTS:
            for reference in (name, registry.split_argument(name)[0]):
                if registry.known(part, reference) is not None:
                    yield part, reference


def check_content(folder: Path, now: Mapping[str, Any], baseline: Path | None = None) -> None:
    """Refuse to go on with a run whose data or user's files have changed since it was begun.

    Parameters
    ----------
    folder : Path
        The run directory; one in which nothing has been computed passes.
    now : Mapping
        ``data`` (the federation's fingerprint), ``files`` (digests by path) and, if there are any,
        ``objects`` (digests by kind and name).
    baseline : Path, optional
        The run directory of the local training, which must be on the same data.

    Raises
    ------
    ConfigError
        Naming the data or the file that differs.
    """
    before = read_content(folder)
    if before == {}:
        raise ConfigError(f"{folder} does not say which data it was begun with; begin it anew.")
    if before:
        then, parts = ({**c["files"], **c.get("objects", {})} for c in (before, now))
        changed = [name for name in sorted({*then, *parts}) if then.get(name) != parts.get(name)]
        if changed or before["data"] != now["data"]:
            what = f"another content of {changed[0]}" if changed else "other data"
            raise ConfigError(f"{folder} was begun with {what}; begin anew with another --out.")
    if baseline and (alone := read_content(baseline)) and alone["data"] != now["data"]:
        raise ConfigError(f"{baseline} was run on other data: their source gives new rows now.")
