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
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from fedkt.errors import ConfigError, nearest, unknown
from fedkt.text import one_line

__all__ = [
    "AtLeastOne",
    "AtLeastTwo",
    "Count",
    "Factor",
    "Flag",
    "Fraction",
    "Memory",
    "OpenFraction",
    "OptionError",
    "Positive",
    "PositiveFraction",
    "Varying",
    "allowed_words",
    "check_given",
    "checked",
    "class_name",
    "given_options",
    "hints_of",
    "hyper_parameters",
    "plain_defaults",
]

Count = Annotated[int, Ge(0)]
AtLeastOne = Annotated[int, Ge(1)]
AtLeastTwo = Annotated[int, Ge(2)]
Factor = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
PositiveFraction = Annotated[float, Gt(0), Le(1)]
OpenFraction = Annotated[float, Gt(0), Lt(1)]
Memory = Annotated[float, Ge(0), Lt(1)]  # the share of the past, or of something else

C = TypeVar("C", bound=type[Any])
_WORDS = {int: "a whole number", float: "a finite number", bool: "True or False", str: "text"}


class Varying(ABC):
    """Base of what may stand for a number that changes during a run; see ``fedkt.schedules``."""

    @abstractmethod
    def samples(self) -> list[float]:
        """Return values of several moments, each of which must be allowed."""


@dataclass(frozen=True)
class Flag:
    """The flag of an experiment's option on the command line.

    Stands in the option's type: ``clients: Annotated[AtLeastOne, Flag("Number of clients.")]``.

    Parameters
    ----------
    help : str
        The line in ``--help``.
    read : callable, optional
        Function from the flag's text to the option's value, where they differ.
    """

    help: str
    read: Callable[[str], Any] | None = None


class OptionError(ConfigError):
    """An option has a value that its type does not allow."""

    def __init__(self, of: str, option: str, value: Any, allowed: str, hint: str) -> None:
        super().__init__(f"{of}: {option} must be {allowed}, not {one_line(repr(value))}.{hint}")
        self.option, self.value, self.allowed, self.hint = option, value, allowed, hint

    def at(self, place: str, of: str = "") -> str:
        """Return the line for a value that a file or the command line gives at a place."""
        shown = one_line(repr(self.value))
        return f"{place} = {shown}{of}: must be {self.allowed}.{self.hint}"


def checked(cls: C) -> C:
    """Return the class with checks of the options that it is made with; a decorator.

    A value must fit its type hint, as far as that is about numbers, text, choices and tuples
    of them. Other hints, and options that are left out, are not checked. Registered
    dataclasses and strategies are checked without it. Making one raises ``OptionError``, a line
    that names the class, the option, the value and what is allowed.
    """
    init = vars(cls).get("__init__")
    if init is None:
        return cls
    signature = inspect.signature(init)
    hints: dict[str, Any] = {}

    @functools.wraps(init)
    def check_and_make(self: Any, *args: Any, **kwargs: Any) -> None:
        if not hints:
            hints.update(_hints(cls, init))
        arguments = signature.bind(self, *args, **kwargs).arguments
        _check(_title(type(self)), arguments, hints)
        init(self, *args, **kwargs)

    checked_class: Any = cls
    checked_class.__init__ = check_and_make
    return cls


def check_given(cls: type, given: Any) -> Any:
    """Return the values given for the options of a dataclass or model, checked as in Python.

    Raises
    ------
    OptionError
        For a value that is not allowed; names that ``cls`` does not know are not checked.
    """
    if isinstance(given, Mapping):
        _check(cls.__name__, given, get_type_hints(cls, include_extras=True))
    return given


def given_options(
    of: str, name: str, given: Mapping[str, Any], call: Callable[..., Any], skip: int = 0
) -> dict[str, Any]:
    """Return the options that a file gives for a part, each in the type of the part's signature.

    Parameters
    ----------
    of : str
        The section, which is also the word for the part: ``strategy``, ``attack``.
    name : str
        The part's name.
    given : Mapping[str, Any]
        The options by name.
    call : callable
        The part: a class or a function.
    skip : int
        The number of its first parameters that are no options.

    Raises
    ------
    ConfigError
        For an unknown option or a value that is not allowed.
    """
    # Takes longer than all the rest here.
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    parts_too = ConfigDict(arbitrary_types_allowed=True)  # as in ``ReadOut | str``
    options = hyper_parameters(call)[skip:]
    hints = hints_of(call)
    values = {}
    for key, value in given.items():
        if key not in options:
            raise unknown(f"option of {of} {name}", key, options)
        try:
            _check(name, {key: value}, hints)
            # TOML has no tuples, and people write 1 where 1.0 is meant.
            hint = hints.get(key, Any)
            values[key] = TypeAdapter(hint, config=parts_too).validate_python(value)
        except OptionError as error:
            raise ConfigError(error.at(f"{of}.{key}", f" ({name})")) from error
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(f"{of}.{key} = {value!r} ({name}): {problem}.") from error
    return values


def hyper_parameters(call: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters of a strategy or another part."""
    parameters = inspect.signature(call).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def hints_of(call: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the type hints of a part's parameters by name, those of an inherited ``__init__``."""
    classes = call.__mro__[:-1] if isinstance(call, type) else ()
    written = (vars(cls)["__init__"] for cls in classes if "__init__" in vars(cls))
    return _hints(call, next(written, call))


def allowed_words(hint: Any) -> str:
    """Return what a type hint allows, in words; empty where it is not about plain values."""
    allowed = _allowed(hint)
    return "" if allowed is None else allowed[0]


def plain_defaults(call: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a part's parameters, as far as TOML can hold them."""
    parameters = inspect.signature(call).parameters
    defaults = {name: parameters[name].default for name in hyper_parameters(call)}
    return {k: v for k, v in defaults.items() if isinstance(v, bool | int | float | str)}


def _check(title: str, values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raise OptionError for the first value that its hint does not allow."""
    for option, value in values.items():
        allowed = _allowed(hints.get(option))
        if allowed is not None and not allowed[1](value):
            choices = [c for c in _choices(hints[option]) if isinstance(c, str)]
            hint = nearest(value, choices) if isinstance(value, str) else ""
            raise OptionError(title, option, value, allowed[0], hint)


def _choices(hint: Any) -> list[Any]:
    """Return the values that a hint lists one by one."""
    if get_origin(hint) is Literal:
        return [*get_args(hint)]
    return [choice for inner in get_args(hint) for choice in _choices(inner)]


def _title(cls: type) -> str:
    """Return the name of a class in messages: a registered part's own, else the class's."""
    return (class_name(cls) if hasattr(cls, "part") else None) or cls.__name__


def class_name(cls: type) -> str | None:
    """Return the class variable ``name``; None without one, as where objects have names."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    name = None if any(field.name == "name" for field in fields) else vars(cls).get("name")
    return name if isinstance(name, str) else None


def _hints(cls: Callable[..., Any], init: Callable[..., Any]) -> Mapping[str, Any]:
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
        bounds = tuple(bound for bound in inner[1:] if isinstance(bound, Ge | Gt | Le | Lt))
        return _bounded(inner[0], bounds) if bounds else _allowed(inner[0])
    if origin is Literal:
        words = "one of " * (len(inner) > 1) + ", ".join(map(str, inner))
        return words, lambda value: any(value == a and type(value) is type(a) for a in inner)
    if origin in (Union, types.UnionType):
        numbers = [a for a in inner if not _varies(a)]
        if len(numbers) < len(inner):
            return _scheduled(_allowed(functools.reduce(operator.or_, numbers)))
        parts = [_allowed(a) for a in inner if a is not type(None)]
        alternatives = [part for part in parts if part is not None]
        if len(alternatives) < len(parts):
            return None
        if len(parts) < len(inner):
            alternatives.append(("None", lambda value: value is None))
        words = " or ".join(text for text, _ in alternatives)
        return words, lambda value: any(fits(value) for _, fits in alternatives)
    if origin is tuple and inner[1:] == (...,):
        each = _allowed(inner[0])
        if each is None:
            return None
        return f"a sequence, each {each[0]}", functools.partial(_all, each[1])
    if hint in (int, float, bool, str):
        return _bounded(hint, ())
    return None


def _varies(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Varying)


def _scheduled(each: Allowed | None) -> Allowed | None:
    """Return what is allowed where a schedule of allowed values may stand too."""
    if each is None:
        return None
    words, fits = each

    def fits_always(value: Any) -> bool:
        return all(map(fits, value.samples())) if isinstance(value, Varying) else fits(value)

    return f"{words}, or a schedule of such values", fits_always


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
