"""Objects of Python in an experiment: each becomes a reference, text that stands for it."""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkt import by_value
from fedkt.calls import made
from fedkt.data.dataset import labelled
from fedkt.data.gathered import is_ready
from fedkt.data.joining import joined_clients
from fedkt.data.sources import dataset_of
from fedkt.errors import FedktError, subclass_of
from fedkt.options import hyper_parameters
from fedkt.simulations.experiment.references import read_strategy
from fedkt.strategies import KnowledgeStrategy

# The kinds of parts that options name; those of several may be lists, or dictionaries by name.
PARTS = {
    ("models",): "models",
    ("server_model",): "models",
    ("data", "partition"): "partitions",
    ("training", "optimiser"): "optimisers",
    ("training", "augment"): "augmentations",
    ("run", "grid"): "engines",
    ("run", "codec"): "codecs",
    ("run", "metrics"): "metrics",
    ("attack", "kind"): "attacks",
}
SEVERAL = {("models",), ("run", "metrics")}
DATA = {"dataset": "data", "public_dataset": "public"}  # options, and the names of what is given
# Options that say how an object is to be read: what columns of a table are, what axes mean.
READING = ("label", "client", "split", "layout", "input_shape")


def with_references(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an experiment with references in place of objects.

    Raises
    ------
    ConfigError
        Naming the object that cannot stand there.
    """
    values = dict(given)
    for (*sections, option), part in PARTS.items():
        section = _opened(values, sections)
        if section is None or section.get(option) is None:
            continue
        make = _several if (*sections, option) in SEVERAL else reference_of
        section[option] = make(part, section[option])
    if not isinstance(values.get("strategy", {}), Mapping):
        values["strategy"] = read_strategy(strategy_reference(values["strategy"]))
    compared = _opened(values, ["compare"])
    if compared is not None and "strategies" in compared:
        compared["strategies"] = strategy_references(compared["strategies"])
    if compared is not None and "cells" in compared:
        compared["cells"] = [_cell(entry) for entry in compared["cells"]]
    data = _opened(values, ["data"])
    if data is not None:
        _refer_to_data(data)
    return values


def _cell(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of ``compare.cells``, or of one of its axes, with references."""
    referring = with_references(entry)
    if "axes" in referring:
        referring["axes"] = [[_cell(choice) for choice in axis] for axis in entry["axes"]]
    return referring


def _refer_to_data(data: dict[str, Any]) -> None:
    """Put references in place of data sets; those of several clients are shared out as they are."""
    reading = {key: data[key] for key in READING if data.get(key) is not None}
    if clients_in(data.get("dataset")) or is_ready(data.get("dataset")):
        data.setdefault("partition", "natural")
    for option, name in DATA.items():
        if data.get(option) is not None:
            needs_labels = option != "public_dataset"
            data[option] = dataset_reference(data[option], name, reading, needs_labels)
    if data.get("domains") is not None:
        data["domains"] = [
            dataset_reference(given, name, reading)
            for name, given in _named_domains(data["domains"])
        ]


def _named_domains(given: Any) -> list[tuple[str, Any]]:
    """Return domains with names: those of a dictionary, of the data sets, or by their places."""
    if isinstance(given, Mapping):
        return [(str(name), domain) for name, domain in given.items()]
    names = [getattr(domain, "name", None) for domain in given]
    return [
        (name if isinstance(name, str) else f"domain-{place}", domain)
        for place, (name, domain) in enumerate(zip(names, given, strict=True))
    ]


def reference_of(part: str, thing: Any, name: str = "") -> str:
    """Return the text that stands for a part: its name with options, or the object by content.

    Parameters
    ----------
    part : str
        The kind of part.
    thing : object
        Text, which is returned as it is, a class, a function or an object.
    name : str
        What the object is called; by default by its own name.
    """
    if isinstance(thing, str):
        return thing
    if inspect.isclass(thing) or inspect.isfunction(thing):
        return by_value.named(part, thing, name)
    return _as_call(part, thing) or by_value.named(part, thing, name)


def strategy_reference(thing: Any) -> str:
    """Return the text that stands for a strategy: text, a class or an object.

    Raises
    ------
    ConfigError
        If it is no strategy.
    """
    if isinstance(thing, str):
        return thing
    cls: Any = thing if inspect.isclass(thing) else type(thing)
    line = f"{cls.__name__} is no strategy: give a name, or a KnowledgeStrategy (class or object)."
    # mypy wants a concrete class; none is made
    subclass_of(cls, KnowledgeStrategy, line)  # type: ignore[type-abstract]  # as said above
    name = vars(cls).get("name")
    name = name if isinstance(name, str) else cls.__name__
    if cls is thing:
        return by_value.named("strategies", thing, name)
    return _as_call("strategies", thing, name) or by_value.named(
        "strategies", _prototype(thing), name
    )


def strategy_references(given: Any) -> list[str]:
    """Return the entries of a comparison: of one strategy, several, or a dictionary by label."""
    if isinstance(given, Mapping):
        return [f"{label} = {strategy_reference(thing)}" for label, thing in given.items()]
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return [strategy_reference(thing) for thing in several]


def dataset_reference(
    given: Any, name: str, reading: Mapping[str, Any], needs_labels: bool = True
) -> str:
    """Return the text that stands for a data set: text, a path, or an object by its content.

    An object is read here, so that its content is that of its rows, whatever holds them. Only a
    public set needs no labels.
    """
    if isinstance(given, str | Path):
        return str(given)
    if is_ready(given):
        return by_value.named("datasets", given, name)
    if clients := clients_in(given) if needs_labels else None:
        sets = [_of_client(one, client, reading) for client, one in clients.items()]
        whole = joined_clients(sets, [*clients], name, reading.get("layout", ""))
        return by_value.named("datasets", whole, name)
    data = dataset_of(given, name, **reading, needs_labels=needs_labels)
    return by_value.named("datasets", data, name)


def clients_in(given: Any) -> Mapping[Any, Any]:
    """Return the data sets of natural clients by name; nothing where one data set is given.

    A list holds one for each client, and so does a dictionary by name, unless it holds the arrays
    or the splits of one data set.
    """
    if isinstance(given, list):
        return dict(enumerate(given))
    several = type(given) is dict and not {"x", "x_train", "train"} & given.keys()
    return given if several else {}


def _of_client(given: Any, client: str | int, columns: Mapping[str, Any]) -> Any:
    """Return the data set of a client, or a pair of arrays as it is: labels are read together."""
    if isinstance(given, tuple) and len(given) == 2 and not hasattr(given[0], "columns"):
        return given
    return labelled(dataset_of(given, f"client {client}", **columns, needs_labels=True))


def _several(part: str, given: Any) -> list[str]:
    """Return the references of one part or several, of which a dictionary gives the names."""
    if isinstance(given, Mapping):
        return [reference_of(part, thing, str(name)) for name, thing in given.items()]
    if not isinstance(given, Sequence) or isinstance(given, str):
        given = [given]
    return [reference_of(part, thing) for thing in given]


def _as_call(part: str, thing: Any, name: str = "") -> str | None:
    """Return ``NAME(option=value)`` if that makes the same object; None if none does.

    Only options that make a difference are written.
    """
    cls = type(thing)
    if getattr(cls, "part", None) != part:
        return None
    options = {key: getattr(thing, key, None) for key in hyper_parameters(cls)}
    options = {k: v for k, v in options.items() if isinstance(v, bool | int | float | str)}
    reference, content = by_value.named(part, cls, name), by_value.digest(thing)

    def makes_it(options: Mapping[str, Any]) -> bool:
        try:
            return by_value.digest(made(part, _call(reference, options))) == content
        except FedktError:
            return False

    if not makes_it(options):
        return None
    for key in tuple(options):
        fewer = {k: v for k, v in options.items() if k != key}
        options = fewer if makes_it(fewer) else options
    return _call(reference, options)


def _call(reference: str, options: Mapping[str, Any]) -> str:
    written = ", ".join(f"{key}={_written(value)}" for key, value in options.items())
    return f"{reference}({written})" if written else reference


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _prototype(strategy: KnowledgeStrategy) -> type[KnowledgeStrategy]:
    """Return a class without options whose objects are copies of a strategy."""
    cls, kept = type(strategy), copy.deepcopy(vars(strategy))

    def make(self: KnowledgeStrategy) -> None:
        self.__dict__.update(copy.deepcopy(kept))

    body = {"__init__": make, "__doc__": cls.__doc__, "__module__": cls.__module__}
    # A name that no module has, so that it counts and travels by its content.
    name = f"<{cls.__qualname__}>"
    made_class: type[KnowledgeStrategy] = types.new_class(
        cls.__name__, (cls,), exec_body=lambda space: space.update(body, __qualname__=name)
    )
    return made_class


def _opened(values: dict[str, Any], sections: Sequence[str]) -> dict[str, Any] | None:
    """Return a section to write to, in place of the one given; None if there is none."""
    for name in sections:
        if not isinstance(values.get(name), Mapping):
            return None
        values[name] = dict(values[name])
        values = values[name]
    return values
