"""What the figures come to: medians, ratios, targets, and the comparison with earlier ratios."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overhead import cost_at

OURS = ("ours-ray", "ours-in-process")
MARGIN = 0.25  # by which a CPU ratio may be worse than before
Results = dict[str, Any]


def median_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the medians over the repeats of one variant, and what is the same in all."""
    timed = {"cpu", "wall", "training", "peak_mb", "gemm_gflops"}
    medians = {key: statistics.median(run[key] for run in runs) for key in timed & runs[0].keys()}
    return {**runs[-1], **medians, "runs": [{k: r[k] for k in medians} for r in runs]}


def ratios_of(workloads: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return by name how many times ours a variant costs; the larger, the better for ours.

    The names are ``WORKLOAD cpu VARIANT : OURS``, with ``wall`` for wall time and ``training``
    for the CPU time of training and distillation alone against the floor's. The batch-10
    loop compares with ours at that batch size.
    """
    found = {}
    for name, variants in workloads.items():
        pairs = [
            (other, ours)
            for ours in variants
            for other in variants
            if ours.startswith("ours") and not other.startswith("ours")
        ]
        for other, ours in pairs:
            if ours.endswith("batch-10") != other.endswith("batch-10"):
                continue
            for clock in ("cpu", "wall", "training"):
                if clock in variants[other] and variants[ours].get(clock):
                    ratio = variants[other][clock] / variants[ours][clock]
                    found[f"{name} {clock} {other} : {ours}"] = ratio
    return found


def worse(now: Results, before: Results) -> list[str]:
    """Return a line for every CPU ratio that is more than 25 % worse than before.

    Wall times are left out: they tell how busy the machine is.

    Raises
    ------
    ValueError
        If the two have no ratio in common, or were not measured at the same sizes.
    """
    for name in now["workloads"].keys() & before["workloads"].keys():
        if now["workloads"][name]["case"] != before["workloads"][name]["case"]:
            raise ValueError(f"{name} was measured at another size: the ratios do not compare.")
    found, known = now.get("ratios", {}), before["ratios"]
    common = [k for k in found if k in known and " wall " not in k]
    if not common:
        raise ValueError("There is no ratio in common.")
    return [
        f"{key}: {found[key]:.3g}, before {known[key]:.3g} ({found[key] / known[key] - 1:+.0%})"
        for key in common
        if found[key] < (1 - MARGIN) * known[key]
    ]


@dataclass(frozen=True)
class Target:
    """What a full run is to show.

    Parameters
    ----------
    title : str
        For people.
    value : callable
        Finds the figure in the results; raises ``LookupError`` where it was not measured.
    bound : float
        How large it must be, at least or at most.
    at_least : bool
        Which of the two.
    """

    title: str
    value: Callable[[Results], float]
    bound: float
    at_least: bool = True

    def row(self, results: Results) -> list[str] | None:
        """Return a line of the table, None where the figure was not measured."""
        try:
            found = self.value(results)
        except LookupError:
            return None
        met = (operator.ge if self.at_least else operator.le)(found, self.bound)
        sign = "≥" if self.at_least else "≤"
        return [self.title, f"{found:.2f}", f"{sign} {self.bound:g}", "yes" if met else "NO"]


def _ratio(key: str) -> Callable[[Results], float]:
    return lambda results: float(results["ratios"][key])


def _times_floor(
    workload: str, clock: str, ours: str = "ours-in-process"
) -> Callable[[Results], float]:
    key = f"{workload} {clock} floor : {ours}"
    return lambda results: 1 / float(results["ratios"][key])


def _message_cost(results: Results) -> float:
    cost = cost_at(results["overhead"], "empty-ray")(1000)
    if cost is None:
        raise LookupError("not measured")
    return cost


def _growth(results: Results) -> float:
    few, many = (cost_at(results["overhead"], "empty-ray")(size) for size in (100, 10_000))
    if few is None or many is None:
        raise LookupError("not measured")
    return many / few


def _scaled(clients: int, key: str) -> Callable[[Results], float]:
    def value(results: Results) -> float:
        rows = [float(r[key]) for r in results["scale"] if r["clients"] == clients]
        return min(rows) if rows else _missing()

    return value


def _missing() -> float:
    raise LookupError("not measured")


TARGETS = (
    Target("W2: CPU, stock Flower ÷ ours (Ray)", _ratio("W2 cpu stock : ours-ray"), 15),
    Target("W2: wall, stock Flower ÷ ours (Ray)", _ratio("W2 wall stock : ours-ray"), 10),
    Target("W2: CPU, lean loop ÷ ours", _ratio("W2 cpu lean : ours-in-process"), 5),
    Target("W2: CPU of training, ours ÷ floor", _times_floor("W2", "training"), 4, False),
    Target("W2, compiled: CPU, lean loop ÷ ours", _ratio("W2 cpu lean : ours-compiled"), 5),
    Target(
        "W2, compiled: CPU of training, ours ÷ floor",
        _times_floor("W2", "training", "ours-compiled"),
        4,
        False,
    ),
    Target("W1: CPU, stock Flower ÷ ours (Ray)", _ratio("W1 cpu stock : ours-ray"), 1.9),
    Target("W1: CPU, lean loop ÷ ours", _ratio("W1 cpu lean : ours-in-process"), 1.4),
    Target("W1: CPU, ours ÷ floor", _times_floor("W1", "cpu"), 2, False),
    Target("W3: CPU, lean loop ÷ ours", _ratio("W3 cpu lean : ours-in-process"), 1.1),
    Target("W3: CPU, ours ÷ floor", _times_floor("W3", "cpu"), 1.35, False),
    Target("W1: CPU, typical loop ÷ ours", _ratio("W1 cpu typical : ours-in-process"), 1.8),
    Target("W2: CPU, typical loop ÷ ours", _ratio("W2 cpu typical : ours-in-process"), 15),
    Target(
        "W1, batch 10: CPU, typical loop ÷ ours",
        _ratio("W1 cpu typical-batch-10 : ours-batch-10"),
        1.8,
    ),
    Target(
        "W2, batch 10: CPU, typical loop ÷ ours",
        _ratio("W2 cpu typical-batch-10 : ours-batch-10"),
        15,
    ),
    Target("Empty recipe on Ray, 1,000 clients: CPU ms a client", _message_cost, 1, False),
    Target("The same, 10,000 clients ÷ 100", _growth, 1.25, False),
    Target("10,000 clients: seconds a round", _scaled(10_000, "wall"), 180, False),
    Target("10,000 clients: memory, MB", _scaled(10_000, "memory_mb"), 4096, False),
    Target("Fusion: part of the GEMM rate", lambda r: float(r["fusion"]["share"]), 0.8),
    Target("Fusion: work memory, MB", lambda r: float(r["fusion"]["work_mb"]), 100, False),
)
