"""Class weights, clipping and augmentations in whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.experiment import config
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute

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


NEAR = """
from sklearn.neighbors import KNeighborsClassifier


def near(shape, classes):
    return KNeighborsClassifier()
"""


def run(tiny: Any, folder: Path, **changes: Any) -> Path:
    """Execute the tiny experiment with changes; return its folder."""
    execute(prepare(tiny(**changes)), folder, label="x")
    return folder


def accuracies(folder: Path) -> list[float]:
    return [a for row in read_rounds(folder) for a in row["personalised_accuracy"]["per_client"]]


def test_a_run_with_all_of_them_is_the_same_in_both_executors(tiny: Any, tmp_path: Path) -> None:
    found = {
        executor: accuracies(
            run(tiny, tmp_path / executor, models=["mlp"], run__executor=executor, **ALL)
        )
        for executor in ("loop", "cohort")
    }
    assert found["loop"] == pytest.approx(found["cohort"], abs=1e-6)
    assert accuracies(run(tiny, tmp_path / "plain", models=["mlp"])) != found["loop"]
    again = config.parse(config.load(tmp_path / "cohort" / "config.toml"))
    assert prepare(again).experiment.run.plan == {"mlp": "cohort:3"}
    assert again.training.clip_norm == 0.5


def test_what_a_classifier_cannot_follow_is_said_or_refused(tiny: Any, tmp_path: Path) -> None:
    mixed = run(tiny, tmp_path / "mixed", models=["mlp", "forest"], rounds=1, **ALL)
    notes = json.loads((mixed / "summary.json").read_text(encoding="utf-8"))["notes"]
    said = [note for note in notes if note.startswith("training.")]
    assert [note.partition(":")[0] for note in said] == [
        "training.clip_norm has no effect on forest",
        "training.augment has no effect on forest",
    ]
    prepare(tiny(models=["forest"], training__class_weights="balanced"))
    file = tmp_path / "near.py"
    file.write_text(NEAR, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"training.class_weights has no effect on .*near"):
        prepare(tiny(models=[f"{file}:near"], training__class_weights="balanced"))
    with pytest.raises(ConfigError, match=r"training.clip_norm has no effect on forest: no model"):
        prepare(tiny(models=["forest"], training__clip_norm=1.0))


@pytest.mark.parametrize("augment", ["flip", "noise:0.1+crop:1"])
def test_images_are_flipped_and_cropped_only(tiny: Any, tmp_path: Path, augment: str) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 5)).astype("float32")
    np.savez(tmp_path / "table.npz", x=rows, y=(rows[:, 0] > 0).astype(int))
    table = {"data__dataset": str(tmp_path / "table.npz"), "models": ["mlp"]}
    with pytest.raises(ConfigError, match=r"training.augment = .* is for images; a sample here is"):
        prepare(tiny(**table, training__augment=augment))
    prepare(tiny(**table, training__augment="noise:0.1"))


def test_an_augmentation_in_a_file(tiny: Any, tmp_path: Path) -> None:
    """In both executors; the file is part of the run's content."""
    file = tmp_path / "mine.py"
    file.write_text(CUTOUT, encoding="utf-8")
    augment = {"training__augment": f"flip+{file}:Cutout(lost=1)", "models": ["mlp"]}
    plan = prepare(tiny(**augment, run__executor="cohort"))
    assert plan.experiment.run.plan == {"mlp": "cohort:3"}
    assert str(file) in plan.files
    loop = accuracies(run(tiny, tmp_path / "a", **augment, run__executor="loop"))
    assert loop == pytest.approx(
        accuracies(run(tiny, tmp_path / "b", **augment, run__executor="cohort")), abs=1e-6
    )


def test_an_augmentation_that_changes_the_shape_is_refused(tiny: Any, tmp_path: Path) -> None:
    file = tmp_path / "halving.py"
    file.write_text(
        CUTOUT.replace("torch.where(blank[:, None, None, :], 0.0, x)", "x[..., ::2]"),
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match="shape and dtype must stay; of"):
        prepare(tiny(models=["mlp"], training__augment=f"{file}:Cutout"))


def test_an_augmentation_that_mixes_rows_keeps_a_network_in_the_loop(
    tiny: Any, tmp_path: Path
) -> None:
    """In a cohort it would see the padding."""
    file = tmp_path / "mixing.py"
    file.write_text(
        CUTOUT.replace("torch.where(blank[:, None, None, :], 0.0, x)", "x - x.mean(0)"),
        encoding="utf-8",
    )
    changes = {"training__augment": f"{file}:Cutout", "models": ["mlp"], "run__executor": "cohort"}
    assert prepare(tiny(**changes)).experiment.run.plan == {"mlp": "loop"}
