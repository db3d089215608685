"""Keywords of an experiment: the last part of a key of the TOML, or a section as a dictionary."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from fedkt.errors import ConfigError
from fedkt.options import Flag
from fedkt.simulations.experiment.config import Experiment, set_path


@dataclass(frozen=True)
class Place:
    """An option of an experiment.

    Parameters
    ----------
    path : str
        Its key in the TOML, ``data.clients``.
    is_section : bool
        Whether it has options of its own.
    always : bool
        Whether the sections around it are there without being asked for.
    flag : Flag, optional
        Its flag on the command line.
    type : type
        The type of its values.
    """

    path: str
    is_section: bool
    always: bool
    flag: Flag | None
    type: Any

    @property
    def section(self) -> str:
        """The key of the section that it stands in; empty for none."""
        return self.path.rpartition(".")[0]


def settings_of(keywords: Mapping[str, Any], options: type = Experiment) -> dict[str, Any]:
    """Return the values of an experiment by section, from keywords.

    Parameters
    ----------
    keywords : Mapping[str, Any]
        By the last part of the key, ``clients=4``, or by section, ``training={"momentum": 0.5}``.
        Text may be written as on the command line.
    options : type
        What declares the options.

    Raises
    ------
    ConfigError
        If there is no such key, it stands in two sections, or it is given twice.
    """
    values: dict[str, Any] = {}
    # Sections first: they are taken as a whole.
    places = [(place_of(word, options), word, value) for word, value in keywords.items()]
    for place, word, value in sorted(places, key=lambda entry: not entry[0].is_section):
        if place.is_section and isinstance(value, Mapping):
            value = dict(value)
        elif place.flag is not None and place.flag.read and isinstance(value, str):
            value = place.flag.read(value)
        section = values.get(place.section) if place.section else values
        if isinstance(section, Mapping) and place.path.rpartition(".")[2] in section:
            raise ConfigError(f"{word} is given twice: also in {place.section}.")
        set_path(values, place.path, value)
    return values


def place_of(word: str, options: type = Experiment) -> Place:
    """Return the option that a keyword means.

    An option at the top comes before those in sections, and one in a section that every experiment
    has (``data.clients``) before those in sections that must be asked for (``attack.clients``).

    Raises
    ------
    ConfigError
        With the nearest name, or with the sections that have such an option.
    """
    everywhere = places(options)
    named = [place for place in everywhere if place.path.rpartition(".")[2] == word]
    for fits in (
        [place for place in named if not place.section],
        [place for place in named if place.always],
        named,
    ):
        if len(fits) == 1:
            return fits[0]
        if fits:
            ways = " or ".join(f"{place.section}={{{word!r}: …}}" for place in fits)
            raise ConfigError(f"{word} may be one of several options: write {ways}.")
    words = {place.path.rpartition(".")[2] for place in everywhere}
    near = difflib.get_close_matches(word, sorted(words), n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(words))}."
    raise ConfigError(f"Unknown keyword {word!r} of an experiment.{hint}")


@cache
def places(options: type = Experiment) -> tuple[Place, ...]:
    """Return all options of an experiment, sections before what stands in them."""
    return tuple(_places(options, "", True))


def _places(options: type, path: str, always: bool) -> Iterator[Place]:
    hints = get_type_hints(options, include_extras=True)
    for name, parameter in signature(options).parameters.items():
        if parameter.kind is Parameter.VAR_KEYWORD:  # options of a registered part
            continue
        hint, *extras = get_args(hints[name]) if _is_annotated(hints[name]) else (hints[name],)
        flag = next((extra for extra in extras if isinstance(extra, Flag)), None)
        section = next(filter(_is_section, (hint, *get_args(hint))), None)
        if get_origin(hint) in (tuple, dict):
            section = None
        is_there = always and section is hint
        yield Place(f"{path}{name}", section is not None, always, flag, hint)
        if section is not None:
            yield from _places(section, f"{path}{name}.", is_there)


def _is_annotated(hint: Any) -> bool:
    return get_origin(hint) is Annotated


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and hint.__module__.startswith("fedkt.")
