"""The base of all schedules, and what holds them at a point of the run."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from abc import abstractmethod
from contextlib import suppress
from typing import Any, ClassVar, TypeVar, cast

from fedkt.errors import ConfigError
from fedkt.options import Varying

T = TypeVar("T")


class Schedule(Varying):
    """Base of all schedules, which are registered frozen dataclasses.

    A schedule may stand in a recipe for the factor of a term (``Weighted``), the temperature of a
    term and the rate of a ``Train``. Its values must be allowed there all the time.
    """

    part: ClassVar[str] = "schedules"

    @abstractmethod
    def value(self, progress: float) -> float:
        """Return the value at a point of the run.

        Parameters
        ----------
        progress : float
            The finished part of the run, in [0, 1]; always 0 where its length is unknown.
        """

    def samples(self) -> list[float]:
        """Return the values at twenty-one points of the run, which the options' bounds check."""
        return [self.value(step / 20) for step in range(21)]


def at(value: T, progress: float) -> T:
    """Return a value with the number of that moment for every schedule inside.

    Parameters
    ----------
    value : object
        A step, a term, a number or a schedule. It is itself returned where nothing changes.
    progress : float
        The finished part of the run, in [0, 1].
    """
    if type(value) in (float, int, str):  # most often
        return value
    changed: Any = value
    if isinstance(value, Schedule):
        changed = value.value(progress)
    elif isinstance(value, list | tuple):
        items = [at(item, progress) for item in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            changed = type(value)(items)
    elif dataclasses.is_dataclass(value):
        pairs = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        news = {name: at(old, progress) for name, old in pairs.items()}
        if any(news[name] is not old for name, old in pairs.items()):
            # Not a new object: its options are checked, and need no second check at every batch.
            changed = copy.copy(value)
            for name, new in news.items():
                object.__setattr__(changed, name, new)
    now: T = changed
    return now


def is_scheduled(value: Any) -> bool:
    """Return whether there is a schedule inside a step, a term or a number.

    Steps and terms never change, and every client of a round asks: they are looked through once.
    """
    if not dataclasses.is_dataclass(value):
        return at(value, 0.0) is not value
    known = _looked_through.get(id(value))
    if known is not None and known[0]() is value:
        return known[1]
    scheduled = at(value, 0.0) is not value
    with suppress(TypeError):  # of a class with slots there are no weak references
        _looked_through[id(value)] = weakref.ref(value), scheduled
    return scheduled


# By id, because a term of a user's may have no hash; the reference says whether it is still that.
_looked_through: dict[int, tuple[weakref.ref[Any], bool]] = {}


def settled(value: float | Schedule) -> float:
    """Return a number; refuse a schedule, of which only a step of a run knows the moment."""
    if is_scheduled(value):
        raise ConfigError(f"{value!r} has a value within a Train step of a run only.")
    return cast(float, value)
