"""The note on private training that was still under way when a run ended."""

from __future__ import annotations

from typing import Any

import pytest

from fedkt.simulations.runs.recorder import run_notes


def notes(losses: list[float], classes: int = 10) -> list[str]:
    rows: list[dict[str, Any]] = [
        {
            "round": n,
            "failures": [],
            "training_loss": {"mean": loss, "std": 0, "per_client": [loss]},
        }
        for n, loss in enumerate(losses, 1)
    ]
    return run_notes(rows, classes=classes)


@pytest.mark.parametrize(
    ("losses", "classes"),
    [
        ([2.2, 1.8, 1.4, 1.0], 10),  # 0.4 a round is 17 % of ln 10
        ([2.29, 2.28, 2.27, 2.26], 10),  # slow, and hardly begun
    ],
)
def test_it_is_said_where_the_loss_still_falls(losses: list[float], classes: int) -> None:
    (note,) = notes(losses, classes)
    assert note.startswith("private training was still under way at the end: its loss came to ")


@pytest.mark.parametrize(
    ("losses", "classes"),
    [
        ([1.0, 0.3, 0.1, 0.08, 0.06], 10),  # flat
        ([2.0, 2.5, 3.5, 5.0], 10),  # diverging: more of it would not help
        ([0.60, 0.59, 0.59, 0.59, 0.59], 2),  # noisy labels: as low as it gets
        ([2.2, 1.1], 10),  # too few rounds to tell
    ],
)
def test_it_is_not_said_elsewhere(losses: list[float], classes: int) -> None:
    assert notes(losses, classes) == []


def test_without_the_number_of_classes_nothing_is_said() -> None:
    assert notes([2.2, 1.8, 1.4, 1.0], 0) == []
