"""Options of parts: bounds declared where the option is, and checked from Python too.

A bound stands in the type of the option, ``mu: NonNegative = 0.01``, in the words of
``annotated_types``, which pydantic knows as well. Types alone count too: a number is finite, a
choice one of those in its ``Literal``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import operator
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from fedkt.errors import ConfigError

__all__ = [
    "AtLeastOne",
    "AtLeastTwo",
    "Count",
    "Factor",
    "Fraction",
    "Memory",
    "Positive",
    "PositiveFraction",
    "checked",
]

Count = Annotated[int, Ge(0)]
AtLeastOne = Annotated[int, Ge(1)]
AtLeastTwo = Annotated[int, Ge(2)]
Factor = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
PositiveFraction = Annotated[float, Gt(0), Le(1)]
Memory = Annotated[float, Ge(0), Lt(1)]  # the share of the past

C = TypeVar("C", bound=type[Any])
_WORDS = {int: "a whole number", float: "a finite number", bool: "True or False", str: "text"}


def checked(cls: C) -> C:
    """Let a class check the options that it is made with; a decorator.

    What is given must fit the type hint, as far as that speaks of numbers, text, choices and
    tuples of them; other hints, and options that are left out, are not looked at. Registered
    dataclasses and strategies are checked without it. Making one raises ``ConfigError``, a line
    that names the class, the option, the value and what is allowed.
    """
    init = vars(cls).get("__init__")
    if init is None:
        return cls
    signature = inspect.signature(init)
    known: dict[str, Any] = {}

    @functools.wraps(init)
    def check_and_make(self: Any, *args: Any, **kwargs: Any) -> None:
        if not known:
            known.update(_hints(cls, init))
        given = signature.bind(self, *args, **kwargs).arguments
        for option, value in given.items():
            allowed = _allowed(known.get(option))
            if allowed is not None and not allowed[1](value):
                raise ConfigError(
                    f"{_title(type(self))}: {option} must be {allowed[0]}, not {value!r}."
                )
        init(self, *args, **kwargs)

    made: Any = cls
    made.__init__ = check_and_make
    return cls


def _title(cls: type) -> str:
    """Return what a class is called in messages: registered parts by their name."""
    name = vars(cls).get("name") if hasattr(cls, "part") else None
    return name if isinstance(name, str) else cls.__name__


def _hints(cls: type, init: Callable[..., None]) -> Mapping[str, Any]:
    # Fields that a dataclass inherits are written in the words of another module.
    of: Any = cls if "__dataclass_fields__" in vars(cls) else init
    try:
        return {"return": None, **get_type_hints(of, include_extras=True)}
    except NameError:  # a name for type checkers only
        return {"return": None}


Allowed = tuple[str, Callable[[Any], bool]]


def _allowed(hint: Any) -> Allowed | None:
    """Return what a hint allows, in words and as a test; None where it says nothing."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _bounded(inner[0], inner[1:])
    if origin is Literal:
        words = "one of " * (len(inner) > 1) + ", ".join(map(str, inner))
        return words, lambda value: any(value == a and type(value) is type(a) for a in inner)
    if origin in (Union, types.UnionType):
        parts = [_allowed(a) for a in inner if a is not type(None)]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        if len(parts) < len(inner):
            known.append(("None", lambda value: value is None))
        words = " or ".join(said for said, _ in known)
        return words, lambda value: any(fits(value) for _, fits in known)
    if origin is tuple and inner[1:] == (...,):
        each = _allowed(inner[0])
        if each is None:
            return None
        return f"a sequence, each {each[0]}", functools.partial(_all, each[1])
    if hint in (int, float, bool, str):
        return _bounded(hint, ())
    return None


def _all(fits: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(fits, value))


def _bounded(kind: Any, bounds: tuple[Any, ...]) -> Allowed | None:
    """Return what a plain type with bounds allows."""
    if kind not in _WORDS:
        return None
    return " ".join(filter(None, (_WORDS[kind], _in_words(bounds)))), functools.partial(
        _fits, kind, bounds
    )


def _fits(kind: type, bounds: tuple[Any, ...], value: Any) -> bool:
    if kind in (bool, str):
        return isinstance(value, kind)
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return all(getattr(operator, end)(value, limit) for end, limit in _ends(bounds).items())


def _in_words(bounds: tuple[Any, ...]) -> str:
    ends = _ends(bounds)
    if len(ends) == 2:
        left, right = "[" if "ge" in ends else "(", "]" if "le" in ends else ")"
        low, high = ends.values()
        return f"in {left}{low}, {high}{right}"
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    return "".join(f"{words[end]} {limit}" for end, limit in ends.items())


def _ends(bounds: tuple[Any, ...]) -> dict[str, float]:
    """Return the ends of an interval, the lower first, by their names in ``operator``."""
    return {end: limit for bound in bounds for end, limit in dataclasses.asdict(bound).items()}
