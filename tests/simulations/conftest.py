"""Tiny federations of real parts, and the command line in this process."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch

from fedkt.knowledge import Knowledge
from fedkt.simulations.cli import main as cli
from fedkt.simulations.experiment import config
from fedkt.simulations.experiment.config import Experiment
from fedkt.simulations.report.pages import write_comparison_report
from fedkt.simulations.results.checkpoints import newest
from fedkt.simulations.results.comparison_folder import Comparison
from fedkt.simulations.results.run_folder import Run
from fedkt.simulations.runs.progress import Silent

from .run_folders import LEVELS, write_comparison

TINY: dict[str, Any] = {
    "rounds": 2,
    "models": ["linear", "mlp"],
    "strategy": {"name": "knfu", "local_epochs": 1, "distil_epochs": 1},
    "data": {
        "clients": 3,
        "samples_per_client": 30,
        "public_samples": 40,
        "test_samples": 60,
    },
    "training": {"learning_rate": 0.02},
    "run": {"grid": "in-process"},
}


@dataclass(frozen=True)
class Answer:
    """What a command left: its exit code, its output and its errors."""

    code: int
    out: str
    err: str


def invoke(*arguments: object) -> Answer:
    """Run ``fedkt`` in this process; anything but ``sys.exit`` comes through."""
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["fedkt", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        return Answer(int(stop.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
    raise AssertionError("main() returned")


def values_of(**changes: Any) -> dict[str, Any]:
    """Return the tiny experiment with changes; ``__`` stands for the dot of a key's path."""
    values = copy.deepcopy(TINY)
    for path, value in changes.items():
        config.set_path(values, path.replace("__", "."), value)
    return values


@pytest.fixture(scope="session")
def fedkt() -> Callable[..., Answer]:
    return invoke


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Experiment]:
    """Make tiny experiments: ``tiny(rounds=3, data__clients=4)``."""
    return lambda **changes: config.parse(values_of(**changes))


@pytest.fixture(scope="session")
def write_toml() -> Callable[..., Path]:
    """Write a tiny experiment: ``write_toml(folder, rounds=3)``."""

    def write(folder: Path, **changes: Any) -> Path:
        path = folder / "tiny.toml"
        path.write_text(tomli_w.dumps(values_of(**changes)), encoding="utf-8")
        return path

    return write


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, where figures are not the point: they take most of a tiny run's time."""

    def path_only(folder: Path) -> Path:
        return Path(folder) / "report.html"

    monkeypatch.setattr("fedkt.simulations.cli.commands.write_run_report", path_only)
    monkeypatch.setattr("fedkt.simulations.cli.commands.write_comparison_report", path_only)


def read_figures(folder: Path) -> list[dict[str, Any]]:
    """Read all that a run measured, wall time aside."""
    lines = (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="session")
def figures() -> Callable[[Path], list[dict[str, Any]]]:
    return read_figures


@pytest.fixture(scope="session")
def final_state() -> Callable[[Path], Any]:
    """Read a run's newest checkpoint in a form that ``==`` compares bit for bit."""

    def read(folder: Path) -> Any:
        saved = newest(folder / "checkpoints", at_most=10**6)
        assert saved is not None
        return comparable(saved)

    return read


class StopAfter(Silent):
    """Presses Ctrl-C when a round is done; -1 for none. Notes where runs begin."""

    def __init__(self, round_: int) -> None:
        self._round = round_
        self.first_rounds: list[int] = []

    def run_started(self, label: str, rounds: int, clients: int, first_round: int) -> None:
        self.first_rounds.append(first_round)

    def round_finished(
        self, round_: int, personalised: float | None, global_: float | None
    ) -> None:
        if round_ == self._round:
            raise KeyboardInterrupt


@pytest.fixture(scope="session")
def stop_after() -> type[StopAfter]:
    """Stop a run: ``execute(..., progress=stop_after(2))``."""
    return StopAfter


@pytest.fixture(scope="session")
def plain_state() -> Callable[[Any], Any]:
    return comparable


def comparable(value: Any) -> Any:
    """Replace tensors by their bytes."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, Knowledge):
        return value.kind, comparable(dict(value.tensors)), comparable(value.ids)
    if isinstance(value, dict):
        return {key: comparable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(one) for one in value]
    return value


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Grids set torch's threads; a test must not leave them changed."""
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


# --- made-up results of several cells, for tables and figures ----------------------------------

STRATEGIES = ("local", "fedavg", "knfu(beta=2)", "vote")


def _made_up_run(
    label: str,
    seed: int,
    accuracy: float,
    *,
    target: str = "",
    effects: tuple[float, ...] = (0.2, 0.1, -0.1),
    served: float | None = None,
    **summary: Any,
) -> Run:
    """Return a run of as many rounds as there are group effects."""
    rows = [
        {"round": number, "group_effect": 0.0 if label == "local" else effect}
        for number, effect in enumerate(effects, 1)
    ]
    last = {
        "round": len(rows),
        "personalised_accuracy": accuracy + 0.05,
        "global_accuracy": accuracy,
        "server_accuracy": served,
        "target_accuracy": (accuracy if served is None else served) if target else None,
    }
    selected = {**last, "global_accuracy": accuracy - 0.01}
    known = {"strategy": label, "label": label, "seed": seed}
    about = {"target": target} if target else {}
    figures = {"last": last, "validation_selected": selected}
    return Run(Path(label), {}, rows, {**known, **figures, **summary}, about)


def _made_up_cells(
    cells: tuple[str, ...],
    *,
    targets: bool = False,
    labels: tuple[str, ...] = STRATEGIES,
    seeds: int = 3,
) -> dict[str, Comparison]:
    """Return believable results by cell; with targets a cell is named "base → TARGET"."""
    results = {}
    for place, cell in enumerate(cells):
        groups = {}
        for rank, label in enumerate(labels):
            rng = np.random.default_rng([place, rank])
            values = 0.4 + 0.02 * place + 0.02 * rank + rng.normal(0, 0.01, seeds)
            groups[label] = [
                _made_up_run(label, seed, float(v), target=cell if targets else "")
                for seed, v in enumerate(values)
            ]
        name = f"base → {cell}" if targets else cell
        results[name] = Comparison(Path(cell), {}, groups)
    return results


@pytest.fixture(scope="session")
def made_up() -> SimpleNamespace:
    """Make results up: ``made_up.cells(names, targets=True)``, ``made_up.run("a", 0, 0.5)``."""
    return SimpleNamespace(run=_made_up_run, cells=_made_up_cells, strategies=STRATEGIES)


@pytest.fixture(scope="module")
def comparison_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("comparison")
    return write_comparison(home, list(LEVELS), 3)


@pytest.fixture(scope="module")
def comparison_page(comparison_dir: Path) -> str:
    return write_comparison_report(comparison_dir).read_text(encoding="utf-8")
