"""Predictions that a run keeps: its figures follow from them, by numpy and scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

import fedkt
from fedkt.errors import ConfigError
from fedkt.simulations.results.predictions import PREDICTIONS, read_predictions
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute

KEEP = {"run__keep_predictions": True}


def accuracy(part: Any) -> float:
    return float((part.logits.argmax(1) == part.labels).mean())


@pytest.mark.parametrize(
    "changes",
    [
        {"models": ["linear", "mlp", "forest"], "run__metrics": ["macro-f1"]},
        {"strategy": {"name": "fedpf", "readout": "gate"}, "data__validation_fraction": 0.2},
        {"models": ["mlp"], "strategy": {"name": "fedavg"}, "run__executor": "cohort"},
    ],
    ids=["knfu", "fedpf", "fedavg"],
)
def test_the_figures_of_the_last_round_follow_from_them(tiny: Any, tmp_path: Path, changes) -> None:
    plan = prepare(tiny(**changes, **KEEP))
    execute(plan, tmp_path, label="x")
    kept, last = read_predictions(tmp_path), read_rounds(tmp_path)[-1]
    assert sorted(kept) == [0, 1, 2]
    for client, parts in kept.items():
        data = plan.federation.client(client)
        for on, samples in (
            ("validation", data.validation),
            ("personalised", data.test),
            ("global", data.common_test),
        ):
            figure = last[f"{on}_accuracy"]
            if not len(samples):
                assert on not in parts
                continue
            part = parts[on]
            assert figure["per_client"][client] == pytest.approx(accuracy(part), abs=1e-12)
            assert part.logits.dtype == np.float32
            assert part.logits.shape == (len(samples), 10)
            assert np.array_equal(part.labels, samples.y.numpy())
            assert np.array_equal(part.ids, samples.ids.numpy())
            if "run__metrics" in changes:
                f1 = f1_score(part.labels, part.logits.argmax(1), average="macro")
                assert last[f"{on}_macro_f1"]["per_client"][client] == pytest.approx(f1, abs=1e-12)


def test_matched_accuracy_is_over_the_common_test_set(tiny: Any, tmp_path: Path) -> None:
    plan = prepare(tiny(run__personalised="matched", **KEEP))
    execute(plan, tmp_path, label="x")
    last = read_rounds(tmp_path)[-1]["personalised_accuracy"]["per_client"]
    for client, parts in read_predictions(tmp_path).items():
        part, data = parts["personalised"], plan.federation.client(client)
        assert len(part.labels) == 60
        counts = data.class_counts.numpy().astype(float)
        there = np.unique(part.labels)
        hits = part.logits.argmax(1) == part.labels
        of_classes = np.array([hits[part.labels == c].mean() for c in there])
        expected = (counts[there] * of_classes).sum() / counts[there].sum()
        assert last[client] == pytest.approx(expected, abs=1e-12)


def test_they_are_what_the_trained_clients_answer(tiny: Any, tmp_path: Path) -> None:
    plan = prepare(tiny(**KEEP))
    execute(plan, tmp_path, label="x")
    run = fedkt.load(tmp_path)
    for client, parts in run.predictions().items():
        data = plan.federation.client(client)
        for on, readout, x in (
            ("personalised", "personal", data.test.x),
            ("global", "global", data.common_test.x),
        ):
            answers = run.client(client).predict(x, readout, prepared=True)
            assert np.array_equal(answers.numpy(), parts[on].logits)


def test_a_run_that_was_stopped_keeps_the_same(tiny: Any, tmp_path: Path, stop_after: Any) -> None:
    plan = prepare(tiny(**KEEP))
    execute(plan, tmp_path / "whole", label="x")
    for after in (1, 2):
        folder = tmp_path / f"after-{after}"
        with pytest.raises(KeyboardInterrupt):
            execute(plan, folder, label="x", progress=stop_after(after))
        assert not (folder / PREDICTIONS).exists()
        execute(plan, folder, label="x")
        whole, again = read_predictions(tmp_path / "whole"), read_predictions(folder)
        assert all(
            np.array_equal(part.logits, again[client][on].logits)
            for client, parts in whole.items()
            for on, part in parts.items()
        )


def test_nothing_is_kept_unless_asked(tiny: Any, tmp_path: Path) -> None:
    execute(prepare(tiny(rounds=1)), tmp_path, label="x")
    assert not (tmp_path / PREDICTIONS).exists()
    with pytest.raises(ConfigError, match=r"run with run.keep_predictions = true"):
        fedkt.load(tmp_path).predictions()
    (tmp_path / PREDICTIONS).write_bytes(b"PK no archive")
    with pytest.raises(ConfigError, match=r"predictions.npz is damaged: "):
        read_predictions(tmp_path)
