"""How much of the gap between training alone and training on everybody's data a method closes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fedkt.evaluation.figure import Figure
from fedkt.simulations.results.comparison_folder import Comparison
from fedkt.simulations.results.run_folder import Run

LEAST = 0.02
"""The least gap of which shares are given: those of a smaller one are wide and tell nothing."""


def ends_of(comparison: Comparison) -> tuple[str, str] | None:
    """Return the labels of training alone and of pooled training; None if one is not there."""
    yardsticks = {
        label: runs[0].summary.get("yardstick") for label, runs in comparison.groups.items()
    }
    alone = [label for label, kind in yardsticks.items() if kind == "alone"]
    pooled = [label for label, kind in yardsticks.items() if kind == "pooled"]
    if not alone or not pooled:
        return None
    return (comparison.reference if comparison.reference in alone else alone[0]), pooled[0]


def gap_of(comparison: Comparison, accuracy: Figure, selection: str = "last") -> float | None:
    """Return pooled training's accuracy less that of training alone, mean over seeds."""
    ends = ends_of(comparison)
    if ends is None:
        return None
    alone, pooled = (_by_seed(comparison.groups[end], accuracy, selection) for end in ends)
    gaps = [pooled[seed] - alone[seed] for seed in alone.keys() & pooled.keys()]
    return statistics.fmean(gaps) if gaps else None


def closed(
    comparison: Comparison, label: str, accuracy: Figure, selection: str = "last"
) -> Mapping[str, Any] | None:
    """Return the share of the gap that a method closes, (method - local) / (pooled - local).

    It is the ratio of means over seeds, with the deviation over seeds of the linearised ratio
    (delta method): that of (d - R g) / mean(g) for a seed's gain d and gap g.

    Parameters
    ----------
    comparison : Comparison
        With ``local`` and ``pooled`` among its runs, else there is no share.
    label : str
        The method.
    accuracy : Figure
        Personalised or global accuracy.
    selection : str
        The round that accuracies come from.

    Returns
    -------
    Mapping or None
        ``{"mean", "std", "n"}``; None for the two ends, of a gap below `LEAST`, and of a method
        that ran on other models than the ends.
    """
    ends = ends_of(comparison)
    if ends is None or label in ends:
        return None
    if any(run.summary.get("one_architecture") for run in comparison.groups[label]):
        return None
    alone, pooled, method = (
        _by_seed(comparison.groups[name], accuracy, selection) for name in (*ends, label)
    )
    seeds = sorted(alone.keys() & pooled.keys() & method.keys())
    gaps = [pooled[seed] - alone[seed] for seed in seeds]
    gains = [method[seed] - alone[seed] for seed in seeds]
    if not seeds or (gap := statistics.fmean(gaps)) < LEAST:
        return None
    ratio = statistics.fmean(gains) / gap
    rest = [(d - ratio * g) / gap for d, g in zip(gains, gaps, strict=True)]
    std = statistics.stdev(rest) if len(rest) > 1 else None
    return {"mean": ratio, "std": std, "n": len(seeds)}


def too_narrow(comparison: Comparison, accuracy: Figure, selection: str = "last") -> str:
    """Return the words for a gap below `LEAST`, in points; empty for others and without one."""
    gap = gap_of(comparison, accuracy, selection)
    return "" if gap is None or gap >= LEAST else f"{accuracy.narrow.lower()} {100 * gap:.1f}"


def _by_seed(runs: Sequence[Run], accuracy: Figure, selection: str) -> dict[int, float]:
    values = {run.seed: run.figure(accuracy, selection) for run in runs}
    return {seed: value for seed, value in values.items() if value is not None}
