"""Class weights, clipping and augmentations in whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ALL = {
    "training__class_weights": "balanced",
    "training__clip_norm": 0.5,
    "training__augment": "flip+crop:1+noise:0.1",
}
CUTOUT = '''
"""An augmentation of the user's own."""

from dataclasses import dataclass

import torch

from fedkt import Augmentation, register


@register
@dataclass(frozen=True)
class Cutout(Augmentation):
    """A column of every image is blank."""

    lost: int = 1

    def __call__(self, x, draws):
        """Return images [B, C, H, W]."""
        column = (draws.uniform((len(x),)) * x.shape[-1]).long()
        blank = torch.arange(x.shape[-1]) == column[:, None]
        return torch.where(blank[:, None, None, :], 0.0, x)
'''


def accuracies(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [a for row in rows for a in row["personalised_accuracy"]["per_client"]]


def test_a_run_with_all_of_them_is_the_same_in_both_executors(
    run_tiny: Any, tmp_path: Path
) -> None:
    ran = {
        executor: run_tiny(tmp_path / executor, models=["mlp"], run__executor=executor, **ALL)
        for executor in ("loop", "cohort")
    }
    loop, cohort = (accuracies(tmp_path / executor) for executor in ran)
    assert loop == pytest.approx(cohort, abs=1e-6)
    run_tiny(tmp_path / "plain", models=["mlp"], run__executor="loop")
    assert accuracies(tmp_path / "plain") != loop
