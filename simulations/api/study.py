"""The experiment as Python takes it: keywords and objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from fedkt import registry
from fedkt.data.spec import DataOptions
from fedkt.simulations.api.keywords import settings_of
from fedkt.simulations.api.objects import with_references
from fedkt.simulations.experiment import config


class Experiment(config.Experiment):
    """An experiment: data, clients, models, and how they train and run.

    Parameters
    ----------
    **keywords
        The options of the TOML. A keyword is the last part of an option's key (``clients=10``,
        ``learning_rate=0.01``), or a section (``training={"momentum": 0.5}``). ``data`` is a data
        set: a name, a file, or an object such as ``(X, y)``; ``public`` is the public one. Models,
        metrics, partitions, codecs and strategies may be objects too: a function, a class, an
        instance, several in a list, or in a dictionary by name.

    Raises
    ------
    ConfigError
        For an unknown keyword or a value that is not allowed, in one line.

    Examples
    --------
    >>> Experiment(data="digits", clients=4, models=["mlp"], rounds=2)
    Experiment(rounds=2, models=('mlp',), data={'clients': 4})
    """

    def __init__(self, **keywords: Any) -> None:
        values = with_references(settings_of(_with_data(keywords)))
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise config.explained(error) from error

    def __repr__(self) -> str:
        """Return what differs from the defaults."""
        given = self.model_dump(exclude_defaults=True)
        return f"Experiment({', '.join(f'{key}={value!r}' for key, value in given.items())})"

    __str__ = __repr__


def _with_data(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords in which ``data`` is a section, and a data set is called ``dataset``."""
    words = dict(keywords)
    if "data" in words and not _is_section(words["data"]):
        words["dataset"] = words.pop("data")
    if "public" in words and not isinstance(words["public"], bool | None):
        words["public_dataset"] = words.pop("public")
    return words


def _is_section(value: Any) -> bool:
    """Return whether it is a dictionary of options, not of arrays or of clients' data sets."""
    if type(value) is not dict or registry.lookup("readers", "named-arrays").takes(value):
        return False
    options = {field.name for field in fields(DataOptions)}
    return bool(options & value.keys()) or not all(map(_is_data, value.values()))


def _is_data(value: Any) -> bool:
    """Return whether a value is an object with data, which the value of an unknown key is not."""
    return not isinstance(value, str | int | float | None)
