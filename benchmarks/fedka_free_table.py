"""Weight-free FedKA against every client alone, from a run of ``benchmarks/fedka_free.toml``.

    python benchmarks/fedka_free_table.py RUN_DIR

Prints accuracy on the target's test part after the last round, in per cent, mean and standard
deviation over seeds: the server's own model, the clients' networks after they have learnt from the
votes, and the same networks trained on their own domain alone.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedkt.simulations.results.run_folder import load_run

Row = list[Sequence[float]]  # by column, one number a seed


def last_rounds(cell: Path, label: str) -> Iterator[dict[str, Any]]:
    """Yield the last round of each seed of a strategy."""
    for run in sorted((cell / "runs").glob(f"{label}-seed*")):
        yield load_run(run).rounds[-1]


def row_of(cell: Path) -> Row:
    """Return the columns of one target."""
    free, alone = list(last_rounds(cell, "fedka-free")), list(last_rounds(cell, "source-only"))
    by_client = [one["global_accuracy"]["per_client"] for one in alone]
    return [
        [one["server_accuracy"] for one in free],
        [statistics.mean(one["global_accuracy"]["per_client"]) for one in free],
        *([accuracies[k] for accuracies in by_client] for k in range(len(by_client[0]))),
        [max(accuracies) for accuracies in by_client],
    ]


def shown(values: Sequence[float]) -> str:
    """Return mean ± standard deviation in per cent."""
    spread = 100 * statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {spread:.1f}"


def main() -> None:
    """Print the table of a run directory."""
    cells = sorted(p for p in (Path(sys.argv[1]) / "cells").iterdir() if p.is_dir())
    rows = {cell.name: row_of(cell) for cell in cells}
    columns = len(next(iter(rows.values())))
    alone = [f"client {k} alone" for k in range(columns - 3)]
    heads = ["Target", "fedka-free, server", "fedka-free, clients", *alone, "best client alone"]
    print("| " + " | ".join(heads) + " |")
    print("| --- |" + " ---: |" * columns)
    for name, row in rows.items():
        print("| → " + " | ".join([name, *map(shown, row)]) + " |")
    # The average over the targets of each seed, then mean and deviation over seeds.
    by_column = [zip(*(row[c] for row in rows.values()), strict=True) for c in range(columns)]
    average = [[statistics.mean(seed) for seed in column] for column in by_column]
    print("| " + " | ".join(["Average", *map(shown, average)]) + " |")


if __name__ == "__main__":
    main()
