"""Statistics of differences over seeds: t intervals, p values, Holm's correction."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit

LEVEL = 0.05
"""Of all tests; intervals are of 1 − LEVEL."""

LEAST = 3
"""Seeds that a test needs at least: two can agree to any digit by chance."""

# Accuracies in [0, 1] that differ by less differ by rounding alone.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Interval:
    """The mean of differences, one for each seed, with its interval and test.

    Parameters
    ----------
    mean : float
        Over the seeds.
    half_width : float, optional
        Of the 95 % t interval, mean ± half_width; None for one seed, and where all seeds give
        the same value, which tells nothing of how others would differ.
    p : float
        Of the two-sided t test that the mean is 0; 1 for fewer than three seeds and without
        a half-width.
    n : int
        Seeds.
    """

    mean: float
    half_width: float | None
    p: float
    n: int

    @property
    def tested(self) -> bool:
        """Whether ``p`` is of a test: with at least `LEAST` seeds that differ."""
        return self.n >= LEAST and self.half_width is not None

    def shown(self, digits: int) -> str:
        """Return the interval in percentage points, of differences in [-1, 1]."""
        mean = f"{100 * self.mean:+.{digits}f}"
        if self.half_width is not None:
            return f"{mean} ± {100 * self.half_width:.{digits}f}"
        return mean if self.n == 1 else f"{mean} (no spread)"


def t_interval(values: Iterable[float | None]) -> Interval | None:
    """Return the 95 % t interval of the mean of the known values; None without any.

    Parameters
    ----------
    values : Iterable[float or None]
        One value a seed, such as a difference of two accuracies in [0, 1].
    """
    numbers = [float(value) for value in values if value is not None]
    if not numbers:
        return None
    mean, n = statistics.fmean(numbers), len(numbers)
    if max(numbers) - min(numbers) < _ROUNDING:
        return Interval(mean, None, 1.0, n)
    error = statistics.stdev(numbers) / math.sqrt(n)
    half_width = float(stdtrit(n - 1, 1 - LEVEL / 2)) * error
    p = 2 * float(stdtr(n - 1, -abs(mean) / error)) if n >= LEAST else 1.0
    return Interval(mean, half_width, p, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, in the order given.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979): at most `LEVEL` is the chance that any corrected value of a true null
    hypothesis is below `LEVEL`.
    """
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def clear(p_values: Sequence[float]) -> list[bool]:
    """Return whether each of several tests is significant, after Holm's correction."""
    return [p < LEVEL for p in holm(p_values)]
