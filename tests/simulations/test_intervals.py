"""Intervals, tests and their correction, against independent numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedkt.simulations.results.intervals import LEVEL, Interval, clear, holm, t_interval


@pytest.mark.parametrize("n", [3, 4, 5, 10, 30])
@pytest.mark.parametrize("mean", [0.0, 0.01, -0.2])
def test_interval_and_p_are_scipy_s(n: int, mean: float) -> None:
    values = np.random.default_rng(n).normal(mean, 0.02, n)
    found, expected = t_interval(values.tolist()), stats.ttest_1samp(values, 0)
    low, high = expected.confidence_interval(0.95)
    assert found is not None
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (low, high), rel=1e-9
    )
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.n == n


def test_two_seeds_have_an_interval_and_no_test() -> None:
    # 12.7062 is the 97.5 % quantile of t with one degree of freedom.
    found = t_interval([0.01, 0.03])
    assert found == Interval(pytest.approx(0.02), pytest.approx(0.127062, abs=1e-6), 1.0, 2)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.1], "+10.0"),
        ([0.1, None], "+10.0"),
        ([0.1, 0.1], "+10.0 (no spread)"),
        ([0.6 - 0.5, 0.7 - 0.6, 0.8 - 0.7], "+10.0 (no spread)"),
        ([0.0, 0.0, 0.0], "+0.0 (no spread)"),
        ([-0.1, -0.2, -0.3], "-20.0 ± 24.8"),
    ],
)
def test_what_has_no_spread_has_no_interval(values: list[float | None], shown: str) -> None:
    found = t_interval(values)
    assert found is not None
    assert found.shown(1) == shown
    assert (found.half_width is None) == (found.p == 1.0)


def test_nothing_known_is_no_interval() -> None:
    assert t_interval([]) is None
    assert t_interval([None, None]) is None


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 by 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, which may not fall.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert clear([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.6, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("cells", [1, 12])
def test_the_level_is_kept_where_nothing_differs(n: int, cells: int) -> None:
    """Of pages whose cells are all equal, at most the level has any clear cell."""
    rng, pages = np.random.default_rng(7), 2000
    wrong = cells_wrong = 0
    for page in rng.normal(0, 0.01, (pages, cells, n)):
        found = clear([one.p for values in page if (one := t_interval(values.tolist()))])
        wrong, cells_wrong = wrong + any(found), cells_wrong + sum(found)
    allowed = 3 * (LEVEL * (1 - LEVEL) / pages) ** 0.5  # standard deviations of such a share
    assert wrong / pages <= LEVEL + allowed
    assert cells_wrong / (pages * cells) <= LEVEL + allowed


def test_what_differs_is_found() -> None:
    """The corrected test is not deaf: 10 points with a spread of 1, n = 5, among 12 cells."""
    rng = np.random.default_rng(3)
    page = rng.normal(0.1, 0.01, (12, 5)).tolist()
    assert all(clear([one.p for values in page if (one := t_interval(values))]))
