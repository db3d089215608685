"""The cells of a comparison: one experiment under several settings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkt.data.columns import expand
from fedkt.data.targets import EACH, short_names
from fedkt.errors import ConfigError, unknown
from fedkt.simulations.experiment.config import Experiment, parse


@dataclass(frozen=True)
class Cell:
    """One setting of a comparison.

    Parameters
    ----------
    name : str
        Unique in the comparison; empty for a comparison of one setting only.
    experiment : Experiment
        The setting, with the comparison's strategies and seeds.
    """

    name: str
    experiment: Experiment

    def folder(self, out: Path) -> Path:
        """Return the cell's own comparison directory below ``out``."""
        return out / "cells" / slug(self.name) if self.name else out


def cells_of(experiment: Experiment) -> list[Cell]:
    """Return the cells of a comparison, in the order of ``[[compare.cells]]``.

    An entry of ``compare.cells`` holds a ``name`` and sections of an experiment that replace
    the comparison's, key by key. With ``axes``, a list of lists of such entries, it stands
    for every combination of one entry of each list, whose names are joined. With
    ``data.target = "each"`` it stands for one cell with every domain as the target in turn,
    with "→" and the domain's name added.

    Raises
    ------
    ConfigError
        Naming the cell that is no valid experiment, or whose name stands there twice.
    """
    experiment = settled(experiment)
    compare = experiment.compare
    if not compare.cells:
        return [Cell("", experiment)]
    base = experiment.model_dump()
    base["compare"] = compare.model_dump(exclude={"cells", "processes"})
    cells: dict[str, Cell] = {}
    for entry in compare.cells:
        for name, changes in _combinations(entry):
            if slug(name) in cells:
                raise ConfigError(f"compare.cells: {name!r} is there twice.")
            cells[slug(name)] = Cell(name, _changed(base, name, changes))
    return list(cells.values())


def settled(experiment: Experiment) -> Experiment:
    """Return a comparison whose cells each have a target of their own, if any.

    Where ``data.target`` is ``each``, here or in an entry of ``compare.cells``, the entries
    are written out: one for every combination and target, with the references of all its
    domains. The cells of the result are known without opening a data set.

    Raises
    ------
    ConfigError
        As :func:`cells_of`, or if the domains cannot be told.
    """
    compare = experiment.compare
    entries = compare.cells or ({"name": "", "data": {}},)
    base = experiment.model_dump(exclude={"compare"})
    written: list[dict[str, Any]] = []
    has_each = False
    for entry in entries:
        for name, changes in _combinations(entry, named=bool(compare.cells)):
            data = _changed(base, name, changes).data
            if data.target != EACH:
                written.append({"name": name, **changes})
                continue
            has_each = True
            try:
                domains = expand(data.domains, data.data_dir, experiment.seed, data.reading)
                if len(domains) < 2:
                    raise ConfigError(
                        f'data.target is "{EACH}" and data.domains has {len(domains)}; at least 2 '
                        "domains are needed."
                    )
                written += [
                    {
                        "name": f"{name} → {short}".strip(),
                        **_merged(changes, {"data": {"domains": list(domains), "target": domain}}),
                    }
                    for domain, short in zip(domains, short_names(domains), strict=True)
                ]
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}" if name else str(error)) from error
    if not has_each:
        return experiment
    return experiment.with_values(compare={**compare.model_dump(), "cells": written})


def _changed(base: Mapping[str, Any], name: str, changes: Mapping[str, Any]) -> Experiment:
    """Return the experiment of a cell."""
    wrong = changes.keys() - (Experiment.model_fields.keys() - {"compare"})
    if wrong:
        allowed = [*Experiment.model_fields.keys() - {"compare"}, "name", "axes"]
        raise unknown(f"key in cell {name!r} of compare.cells", min(wrong), allowed)
    try:
        return parse(_merged(base, changes))
    except ConfigError as error:
        raise ConfigError(f"compare.cells, {name!r}: {error}") from error


def slug(label: str) -> str:
    """Return a label as a folder name."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", label).strip("-.")


def _combinations(
    entry: Mapping[str, Any], named: bool = True
) -> Iterator[tuple[str, dict[str, Any]]]:
    axes = entry.get("axes", ())
    if not all(isinstance(axis, list | tuple) for axis in axes):
        raise ConfigError("compare.cells: axes must be a list of lists of tables.")
    common = {k: v for k, v in entry.items() if k != "axes"}
    for choice in itertools.product(*axes):
        changes: dict[str, Any] = {}
        names = []
        for part in (common, *choice):
            if not isinstance(part, Mapping):
                raise ConfigError(f"compare.cells: {part!r} is not a table.")
            changes = _merged(changes, {k: v for k, v in part.items() if k != "name"})
            names.append(str(part.get("name", "")))
        name = " ".join(filter(None, names))
        if named and not slug(name):
            raise ConfigError("compare.cells: every cell needs a name.")
        yield name, changes


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return values replaced key by key, also inside sections."""
    out = dict(base)
    for key, value in changes.items():
        inner = out.get(key)
        nested = isinstance(inner, Mapping) and isinstance(value, Mapping)
        out[key] = _merged(inner or {}, value) if nested else value
    return out
