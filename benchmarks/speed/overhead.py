"""What a message costs: rounds in which the clients have nothing, or next to nothing, to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import measured, prepared
from workloads import Case

SIZES, QUICK_SIZES = (100, 1000, 10_000), (100,)
LARGEST_STOCK = 1000  # its cost a client grows with their number
# One message a client and round (it evaluates its model on the tiny test set), then two.
VARIANTS = ("empty-ray", "empty-in-process", "exchange-ray", "exchange-in-process", "noop-stock")
QUICK_VARIANTS = ("empty-ray", "exchange-in-process")
ROUNDS = 4


def cases(quick: bool, largest: int | None) -> list[tuple[int, str]]:
    """Return what to measure: numbers of clients and variants.

    Parameters
    ----------
    quick : bool
        Whether to measure little.
    largest : int, optional
        More clients than this are left out.
    """
    sizes = [min(size, largest or size) for size in (QUICK_SIZES if quick else SIZES)]
    variants = QUICK_VARIANTS if quick else VARIANTS
    return [
        (size, name)
        for size in dict.fromkeys(sizes)
        for name in variants
        if name != "noop-stock" or size <= LARGEST_STOCK
    ]


def measure(size: int, name: str, workers: int, scratch: Path) -> dict[str, Any]:
    """Return milliseconds of CPU and wall time a client and round."""
    case = prepared(Case("W2", size, 1, 10, "", ROUNDS, workers), scratch)
    found = measured(name, case)
    return {key: 1000 * found[key] / size for key in ("cpu", "wall")}


def table(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the rows of a table: variants by numbers of clients, CPU milliseconds."""
    sizes = sorted({row["clients"] for row in found})
    rows = [["CPU ms a client and round", *(f"{size:,} clients" for size in sizes)]]
    for name in dict.fromkeys(row["variant"] for row in found):
        own = {row["clients"]: row["cpu"] for row in found if row["variant"] == name}
        rows.append([name, *(f"{own[size]:.2f}" if size in own else "–" for size in sizes)])
    return rows


def cost_at(found: Sequence[dict[str, Any]], name: str) -> Callable[[int], float | None]:
    """Return a function from a number of clients to a variant's CPU milliseconds, if measured."""
    own = {row["clients"]: float(row["cpu"]) for row in found if row["variant"] == name}
    return own.get
