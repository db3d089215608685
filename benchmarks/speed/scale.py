"""Many clients: seconds and memory of a round with 10,000 and with 100,000 of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import measured, prepared
from meters import memory_watch
from ours import Grid, run_ours
from workloads import Case

from fedkt.clients.state import FileStore

# Variant, clients, public samples. The server holds the answers of all clients at once: of
# 100,000 on 2,000 samples these would be 8 GB and more, so that few samples are in use there.
FULL = (
    ("nearest-ray", 10_000, 2000),
    ("nearest-in-process", 10_000, 2000),
    ("averaged-in-memory", 100_000, 200),
    ("averaged-in-files", 100_000, 200),
)
QUICK = (("nearest-in-process", 200, 256),)
PRIVATE = 60


def run_scaled(case: Case, grid: Grid, strategy: str, files: bool) -> dict[str, Any]:
    """Run two rounds, measure the second, and watch the memory of all processes together.

    Parameters
    ----------
    case : Case
        What to run.
    grid : {"ray", "in-process"}
        Where the clients are.
    strategy : str
        A class of ``methods.py``.
    files : bool
        Whether client state lies in files (in-process only) instead of memory.
    """
    with memory_watch() as memory, tempfile.TemporaryDirectory(dir=case.folder) as folder:
        store = (lambda: FileStore(Path(folder))) if files else None
        found = run_ours(case, grid, strategy, store, snapshots=not files)
    return {**found, "memory_mb": max(memory, default=found["peak_mb"])}


def cases(quick: bool, largest: int | None) -> list[tuple[str, int, int]]:
    """Return what to measure, with at most ``largest`` clients."""
    return [
        (name, min(clients, largest or clients), public)
        for name, clients, public in (QUICK if quick else FULL)
    ]


def measure(name: str, clients: int, public: int, workers: int, scratch: Path) -> dict[str, Any]:
    """Return seconds of the second round and the largest memory in MB."""
    case = prepared(Case("W2", clients, PRIVATE, public, "", 2, workers), scratch)
    found = measured(name, case)
    return {"public": public, **{key: found[key] for key in ("cpu", "wall", "memory_mb")}}


def table(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the rows of a table."""
    rows = [["Many clients", "clients", "public samples", "CPU s", "wall s", "memory MB"]]
    for row in found:
        sizes = [f"{row['clients']:,}", f"{row['public']:,}"]
        figures = [f"{row['cpu']:.1f}", f"{row['wall']:.1f}", f"{row['memory_mb']:.0f}"]
        rows.append([row["variant"], *sizes, *figures])
    return rows
