"""What a part says of itself: its docstring, and its options with types, bounds and defaults."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from fedkt import registry
from fedkt.docstrings import Docstring, read_docstring
from fedkt.errors import ConfigError, nearest
from fedkt.options import allowed_words, hints_of, hyper_parameters

REQUIRED = "must be given"


@dataclass(frozen=True)
class Option:
    """An option of a part, in words.

    Parameters
    ----------
    name : str
        Its name.
    allowed : str
        What it may be: type and bounds, or the choices; empty where its type is not declared.
    default : str
        Its default as one writes it; ``REQUIRED`` without one.
    meaning : str
        Its description in the docstring; empty without one.
    """

    name: str
    allowed: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Description:
    """A part in its own words.

    Parameters
    ----------
    part : str
        The kind of part, a key of ``registry.PARTS``.
    name : str
        Its name.
    origin : str
        The module or the user's file that it stands in.
    text : Docstring
        Its docstring.
    options : tuple[Option, ...]
        Its options, in their order; of a function the parameters with a default, because the
        others are given by fedkt.
    """

    part: str
    name: str
    origin: str
    text: Docstring
    options: tuple[Option, ...]


def parts_called(reference: str) -> list[tuple[str, Any]]:
    """Return the parts of a name, of all kinds that have one, each with its kind.

    Parameters
    ----------
    reference : str
        A registered name, or ``path/to/file.py:Name``.

    Raises
    ------
    ConfigError
        If there is none, or what the file defines is no part.
    """
    if ".py:" in reference or reference.endswith(".py"):
        found = registry.lookup("strategies", reference)
        kinds = [part for part in registry.PARTS if registry.name_in(part, found)]
        kinds = kinds or [part for part in [getattr(found, "part", None)] if part in registry.PARTS]
        if not kinds:
            raise ConfigError(
                f"{reference} is no part: neither registered nor of a class of parts."
            )
        return [(part, found) for part in kinds]
    names = {part: registry.summaries(part) for part in registry.PARTS}
    kinds = [part for part, known in names.items() if reference in known]
    if not kinds:
        near = nearest(reference, [name for known in names.values() for name in known])
        raise ConfigError(f"Unknown part {reference!r}.{near} fedkt list KIND lists the names.")
    return [(part, registry.lookup(part, reference)) for part in kinds]


def describe(part: str, obj: Any) -> Description:
    """Return the description of a part: a class or a function, of a kind of ``registry.PARTS``."""
    file = registry.file_of(obj)
    origin = str(file) if file is not None else str(obj.__module__)
    return Description(
        part, registry.short_name(part, obj), origin, docstring_of(obj), tuple(_options(obj))
    )


def docstring_of(obj: Any) -> Docstring:
    """Return the docstring of a class or function itself, with what its bases say of options."""
    if not isinstance(obj, type):
        return read_docstring(obj.__doc__)
    texts = [read_docstring(_written(cls)) for cls in reversed(obj.__mro__)]
    meanings = {name: meaning for text in texts for name, meaning in text.meanings.items()}
    return dataclasses.replace(texts[-1], meanings=meanings)


def _written(cls: type) -> str | None:
    """Return the docstring that somebody wrote: dataclasses make one where there is none."""
    text = vars(cls).get("__doc__")
    made = dataclasses.is_dataclass(cls) and str(text).startswith(f"{cls.__name__}(")
    return None if made else text


def _options(obj: Callable[..., Any]) -> list[Option]:
    hints, meanings = hints_of(obj), docstring_of(obj).meanings
    defaults = _defaults(obj)
    return [
        Option(
            name,
            _in_words(hints.get(name)),
            _shown(defaults[name]) if name in defaults else REQUIRED,
            meanings.get(name, ""),
        )
        for name in hyper_parameters(obj)
        if isinstance(obj, type) or name in defaults
    ]


def _defaults(obj: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the defaults by option; those that a dataclass makes anew each time are made."""
    parameters = inspect.signature(obj).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    fields = dataclasses.fields(cast(Any, obj)) if dataclasses.is_dataclass(obj) else ()
    made = {f.name: f.default_factory for f in fields}
    return {
        name: cast(Any, made[name])()
        if made.get(name, dataclasses.MISSING) is not dataclasses.MISSING
        else value
        for name, value in given.items()
    }


def _in_words(hint: Any) -> str:
    """Return what a hint allows; of parts their kind, which may be given by name."""
    if hint is None:
        return ""
    if words := allowed_words(hint):
        return words
    kinds = {kind: None for h in (hint, *get_args(hint)) if (kind := getattr(h, "part", None))}
    named = [f"{registry.PARTS[kind][0]} (fedkt list {kind})" for kind in kinds]
    if not named:
        return inspect.formatannotation(hint)
    return " or ".join([*named, *(["None"] if type(None) in get_args(hint) else [])])


def _shown(value: Any) -> str:
    """Return a default as one writes it in a configuration; a part by its name."""
    if value == "":
        return '""'
    part = getattr(value, "part", None)
    if part in registry.PARTS:
        return registry.short_name(part, type(value))
    return str(list(value)) if isinstance(value, tuple) else str(value)
