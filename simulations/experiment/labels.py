"""The names of strategies in tables, figures and folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedkt import registry
from fedkt.errors import PYTHON, ConfigError
from fedkt.simulations.experiment.cells import slug

ALONE = "local"  # tables and figures recognise training alone by this beginning of a label


def titles(references: Iterable[str]) -> dict[str, str]:
    """Return the names that strategies are shown by.

    A strategy of a file goes by its own name. The file stands before it, with its folder if
    need be, where another of the strategies has the same name, or where the name would be taken
    for that of a registered strategy or of training alone.

    Parameters
    ----------
    references : Iterable[str]
        Registered names and ``path/to/file.py:Class``.
    """
    classes = {r: registry.lookup("strategies", r) for r in references}
    forms = {r: _forms(r, cls) for r, cls in classes.items()}
    shown = {}
    for reference, names in forms.items():
        rivals = [forms[r] for r, cls in classes.items() if cls is not classes[reference]]
        clear = (a for i, a in enumerate(names) if all(a != rival[i] for rival in rivals))
        shown[reference] = next(clear, names[-1])
    return shown


def label_of(label: str | None, section: Mapping[str, Any], shown: Mapping[str, str]) -> str:
    """Return the label of a compared strategy.

    Parameters
    ----------
    label : str, optional
        As the user gave it.
    section : Mapping
        The ``[strategy]`` section.
    shown : Mapping[str, str]
        Titles by reference, see :func:`titles`; needed without a label.

    Raises
    ------
    ConfigError
        If the label is the name of something else, or can be no folder's.
    """
    if label is None:
        options = ", ".join(f"{k}={v}" for k, v in section.items() if k != "name")
        title = shown[str(section["name"])]
        return f"{title}({options})" if options else title
    if _seems_alone(label) and section["name"] != ALONE:
        raise ConfigError(f"compare: {label!r} must not be called after local training.")
    if label != section["name"] and label in registry.names("strategies"):
        raise ConfigError(f"compare: {label!r} is the name of another strategy.")
    if not slug(label):
        raise ConfigError(f"compare: {label!r} can be no folder's name; use letters or digits.")
    return label


def _forms(reference: str, strategy: type) -> tuple[str, str, str]:
    """Return the names that a strategy may be shown by, the shortest first."""
    path, of_file, _ = reference.rpartition(".py:")
    if reference.startswith(PYTHON):
        path, _, name = reference.partition(":")
    elif of_file:
        name = registry.short_name("strategies", strategy)
    else:
        return reference, reference, reference
    whole, long = f"{Path(path).name}:{name}", f"{path}:{name}"
    is_taken = _seems_alone(name) or name in registry.names("strategies") or not slug(name)
    return whole if is_taken else name, whole, long


def _seems_alone(label: str) -> bool:
    return re.split(r"[- ]", label)[0] == ALONE
