"""Schedules by their shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedkt.errors import ConfigError
from fedkt.options import Fraction, PositiveFraction
from fedkt.registry import register
from fedkt.schedules.schedule import Schedule, at, settled


@register
@dataclass(frozen=True)
class Constant(Schedule):
    """The same value all the time.

    Parameters
    ----------
    level : float
        The value.
    """

    level: float = 1.0
    name: ClassVar[str] = "constant"

    def value(self, progress: float) -> float:
        """Return the value."""
        return self.level


@register
@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from one value to another.

    Parameters
    ----------
    start, end : float
        The values at the beginning and at the end of the run.
    """

    start: float = 1.0
    end: float = 0.0
    name: ClassVar[str] = "linear"

    def value(self, progress: float) -> float:
        """Return the value at a point of the run."""
        return self.start + (self.end - self.start) * progress


@register
@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a wave from one value to another (Loshchilov and Hutter, 2017, arXiv:1608.03983, Eq. 5).

    Parameters
    ----------
    start, end : float
        The values at the beginning and at the end of the run.
    """

    start: float = 1.0
    end: float = 0.0
    name: ClassVar[str] = "cosine"

    def value(self, progress: float) -> float:
        """Return the value at a point of the run."""
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2


@register
@dataclass(frozen=True)
class StepDown(Schedule):
    """A value that is multiplied by a factor at some points of the run.

    Parameters
    ----------
    start : float
        The value at the beginning.
    factor : float
        What it is multiplied by at each point.
    points : Sequence[float]
        The points, as finished parts of the run.
    """

    start: float = 1.0
    factor: float = 0.1
    points: Sequence[Fraction] = (0.5, 0.75)
    name: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        points = tuple(self.points)
        if not all(isinstance(p, int | float) and 0 <= p <= 1 for p in points):
            raise ConfigError(f"step: points must be numbers in [0, 1], not {points!r}.")
        object.__setattr__(self, "points", points)

    def value(self, progress: float) -> float:
        """Return the value at a point of the run."""
        return self.start * self.factor ** sum(progress >= point for point in self.points)


@register
@dataclass(frozen=True)
class WarmUp(Schedule):
    """A straight rise from 0 in the first part of the run, then another schedule.

    Parameters
    ----------
    part_of_run : float
        Where the rise ends, as a part of the run.
    then : float or Schedule
        What follows; the rise ends at its value there.
    """

    part_of_run: PositiveFraction = 0.1
    then: float | Schedule = 1.0
    name: ClassVar[str] = "warm-up"

    def value(self, progress: float) -> float:
        """Return the value at a point of the run."""
        level = settled(at(self.then, max(progress, self.part_of_run)))
        return level * min(progress / self.part_of_run, 1.0)
