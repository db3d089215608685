from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.clients import LearnerModels, TrainingOptions
from fedkt.knowledge import Knowledge
from fedkt.shares.cached import PredictFresh, newest
from fedkt.shares.ids import public_ids
from fedkt.strategies.answers.ds_fl import DSFL
from fedkt.strategies.answers.scarlet import Scarlet

SIZE, SEED = 50, 3


def asked_by_hand(samples: int, duration: int, rounds: int) -> list[list[int]]:
    """Return the samples that each round asks for, by a dictionary of the ages of labels."""
    made: dict[int, int] = {}
    asked = []
    for number in range(1, rounds + 1):
        drawn = public_ids(SIZE, samples, SEED, number).tolist()
        new = [x for x in drawn if x not in made or number > made[x] + duration]
        made.update(dict.fromkeys(new, number))
        asked.append(new)
    return asked


@pytest.mark.parametrize(("samples", "duration"), [(20, 0), (20, 2), (20, 50), (0, 2)])
def test_a_label_is_asked_for_again_when_it_is_old(samples, duration) -> None:
    share = PredictFresh(samples=samples, duration=duration)
    ours = [share.ids(SIZE, SEED, number).tolist() for number in range(1, 9)]
    assert ours == asked_by_hand(samples, duration, 8)


def test_the_cache_takes_the_newest() -> None:
    old = Knowledge.rows("probabilities", torch.eye(3), [7, 2, 5])
    new = Knowledge.rows("probabilities", torch.full((2, 3), 1 / 3), [9, 2])
    merged = newest(old, new)
    assert merged.ids.tolist() == [2, 5, 7, 9]
    assert merged.values[[1, 2]].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert torch.equal(merged.values[[0, 3]], new.values)


def watched(strategy, seen: list) -> None:
    fuse = strategy.fuse

    def fusing(uploads):
        fused = fuse(uploads)
        seen.append((uploads["public"], fused))
        return fused

    strategy.fuse = fusing


def test_labels_are_sharpened_means_by_numpy(world, with_options) -> None:
    strategy, seen = with_options(Scarlet(local_epochs=1, distil_epochs=1, exponent=3.0)), []
    watched(strategy, seen)
    world().start(strategy, 1)
    stack, fused = seen[0]
    powers = stack.values.double().numpy().mean(0) ** 3
    expected = powers / powers.sum(1, keepdims=True)
    for own in fused.personal.values():
        assert np.allclose(own["public"].values, expected, atol=1e-5)


def test_bytes_fall_to_nothing_while_all_labels_are_cached(world, with_options) -> None:
    run = world()
    run.start(with_options(Scarlet(duration=2, local_epochs=1, distil_epochs=1)), 4)
    up = [report.traffic.up for report in run.reports]
    down = [report.traffic.down_broadcast for report in run.reports]
    whole = 4 * (4 * 50 * 10)
    assert up == down == [whole, 0, 0, whole]
    losses = [report.diagnostics["student_loss"] for report in run.reports]
    assert None not in losses, "cached labels teach"


def test_clients_that_were_away_get_what_they_lack(world, with_options) -> None:
    run, seen = world(), []
    options = {"duration": 9, "local_epochs": 1, "distil_epochs": 1, "public_samples": 20}
    strategy = with_options(Scarlet(**options), participation=0.5)
    watched(strategy, seen)
    run.start(strategy, 6)
    assert not any(report.failures for report in run.reports)
    labels: dict[int, torch.Tensor] = {}
    for (_, fused), report in zip(seen, run.reports, strict=True):
        for own in fused.personal.values():
            labels.update(zip(own["public"].ids.tolist(), own["public"].values, strict=True))
        drawn = public_ids(SIZE, 20, SEED, report.round)
        assert set(fused.personal) == set(report.participants)
        assert set(drawn.tolist()) <= set(labels)
    for client, state in run.grid.snapshot().items():
        last = max(r.round for r in run.reports if client in r.participants)
        targets = state["own"]["targets"]
        assert targets.ids.tolist() == public_ids(SIZE, 20, SEED, last).tolist()
        if last == 6:
            for x, row in zip(targets.ids.tolist(), targets.values, strict=True):
                assert torch.allclose(row, labels[x], atol=1e-6)


def test_without_a_cache_it_is_ds_fl(world, with_options) -> None:
    """In batches of all public samples, because their order is another."""
    common = {"local_epochs": 1, "distil_epochs": 2, "public_samples": 20}
    methods = Scarlet(0, **common), DSFL("enhanced-era", **common)
    maker = LearnerModels("linear", TrainingOptions("sgd", 0.05, 0.0, public_batch_size=20))
    runs, students = [], []
    for method in methods:
        run = world(optimiser="sgd", learning_rate=0.05, momentum=0.0, public_batch_size=20)
        strategy = with_options(method, models=maker)
        run.start(strategy, 3)
        runs.append(run)
        students.append(strategy.server_weights().tensors)
    pairs = [(students[0], students[1])]
    pairs += [(runs[0].model_of(c), runs[1].model_of(c)) for c in range(4)]
    for ours, theirs in pairs:
        assert all(torch.allclose(t, theirs[name], atol=1e-5) for name, t in ours.items())
    assert [r.traffic.up for r in runs[0].reports] == [r.traffic.up for r in runs[1].reports]
