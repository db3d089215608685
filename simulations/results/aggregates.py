"""Statistics over the seeds of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from fedkt.evaluation.figures import OF_GAP, figures_at
from fedkt.simulations.results import gap
from fedkt.simulations.results.comparison_folder import Comparison
from fedkt.simulations.results.intervals import t_interval
from fedkt.simulations.results.run_folder import Run


def aggregate(comparison: Comparison, selection: str = "last") -> list[dict[str, Any]]:
    """Return statistics over seeds, one entry for each strategy.

    Parameters
    ----------
    comparison : Comparison
        The runs.
    selection : str
        The round that the accuracies come from, one of `SELECTIONS`.

    Returns
    -------
    list[dict[str, Any]]
        Each with ``strategy``, ``n`` and ``seeds``; ``{"mean", "std", "n"}`` (sample
        standard deviation, None for one seed) or None for ``round`` and every figure of a
        comparison's table; ``about_gap``, a note on the gap that is closed, empty without one;
        ``failures``, how many there were in all;
        ``one_architecture`` and ``transductive``; ``alone``, the labels of training alone on as
        many private samples and for as many private epochs where they differ, else None; and
        ``differences``: paired over seeds, against the reference label, and against these and
        the runs' own baseline where they are other runs, each with ``against`` and, by judged
        figure, an `Interval` or None.
    """
    reference = {run.seed: run for run in comparison.groups[comparison.reference]}
    rows = []
    for label, runs in comparison.groups.items():
        row: dict[str, Any] = {"strategy": label, "n": len(runs)}
        row["seeds"] = [run.seed for run in runs]
        row["round"] = spread([run.selected(selection).get("round") for run in runs])
        for figure in figures_at("table"):
            row[figure.name] = spread([run.figure(figure, selection) for run in runs])
        for share, accuracy in OF_GAP.items():
            row[share.name] = gap.closed(comparison, label, accuracy, selection)
        row["about_gap"] = about_gap(comparison, selection)
        row["failures"] = sum(int(run.summary.get("failures") or 0) for run in runs)
        row["one_architecture"] = runs[0].summary.get("one_architecture")
        row["transductive"] = bool(runs[0].summary.get("transductive"))
        pairs = [(run, reference.get(run.seed)) for run in runs]
        baselines = [(run, base) for run in runs for base in (run.baseline(), run.same_epochs())]
        alone = [base.label for _, base in baselines[:2] if base]
        row["alone"] = alone if len(alone) == 2 else None
        row["differences"] = []
        if label != comparison.reference and runs[0].summary.get("yardstick") != "pooled":
            row["differences"].append(_difference(pairs, selection, comparison.reference))
        labels = {base.label for _, base in baselines if base} - {comparison.reference, label}
        for name in sorted(labels):
            named = [(run, base) for run, base in baselines if base and base.label == name]
            row["differences"].append(_difference(named, selection, name))
        rows.append(row)
    return rows


def about_gap(comparison: Comparison, selection: str = "last") -> str:
    """Return a sentence on the gap that methods close; empty without its two ends."""
    if (ends := gap.ends_of(comparison)) is None:
        return ""
    alone, pooled = ends
    narrow = filter(None, (gap.too_narrow(comparison, a, selection) for a in OF_GAP.values()))
    small = ", ".join(narrow)
    return (
        f"Gap closed: (method - {alone}) / ({pooled} - {alone}), of means over seeds"
        + (
            f"; not given where the gap is below {100 * gap.LEAST:.0f} points ({small})"
            if small
            else ""
        )
        + f". {pooled} trains on everybody's data: it is not federated."
    )


def _difference(
    pairs: Sequence[tuple[Run, Run | None]], selection: str, against: str
) -> dict[str, Any]:
    result: dict[str, Any] = {"against": against}
    for figure in figures_at("judged"):
        values = []
        for run, reference in pairs:
            value = run.figure(figure, selection)
            reference_value = reference.figure(figure, selection) if reference else None
            values.append(
                None if value is None or reference_value is None else value - reference_value
            )
        result[figure.name] = t_interval(values)
    return result


def spread(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Return mean, sample deviation (None for one value) and number of the known values."""
    numbers = [float(value) for value in values if value is not None]
    if not numbers:
        return None
    std = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"mean": statistics.fmean(numbers), "std": std, "n": len(numbers)}
