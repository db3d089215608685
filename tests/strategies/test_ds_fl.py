from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.strategies.answers.ds_fl import DSFL
from fedkt.strategies.answers.fedmd import FedMD


def fused(uploads_of, answers, **options) -> np.ndarray:
    return DSFL(student=False, **options).fuse(uploads_of(answers)).shared["public"].values.numpy()


@pytest.fixture
def answers() -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {c: (2 * torch.randn(7, 4, generator=generator)).softmax(-1) for c in (4, 0, 2)}


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_era_by_numpy(uploads_of, answers, temperature) -> None:
    mean = np.stack([a.double().numpy() for a in answers.values()]).mean(0)
    powers = np.exp(mean / temperature)
    expected = powers / powers.sum(1, keepdims=True)
    ours = fused(uploads_of, answers, temperature=temperature)
    assert np.allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_enhanced_era_by_numpy(uploads_of, answers, exponent) -> None:
    powers = np.stack([a.double().numpy() for a in answers.values()]).mean(0) ** exponent
    expected = powers / powers.sum(1, keepdims=True)
    ours = fused(uploads_of, answers, aggregation="enhanced-era", exponent=exponent)
    assert np.allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(("classes", "era", "enhanced"), [(10, 0.966, 0.953), (100, 0.796, 0.996)])
def test_the_sharpness_depends_on_the_number_of_classes(uploads_of, classes, era, enhanced) -> None:
    """Of a mean of 0.6 and the rest spread evenly: measured values of the two rules."""
    row = torch.full((1, classes), 0.4 / (classes - 1))
    row[0, 0] = 0.6
    assert fused(uploads_of, {0: row})[0, 0] == pytest.approx(era, abs=6e-4)
    ours = fused(uploads_of, {0: row}, aggregation="enhanced-era")[0, 0]
    assert ours == pytest.approx(enhanced, abs=6e-4)


def test_the_simple_aggregation_is_fedmd(uploads_of, answers) -> None:
    ours = DSFL("mean", distil_epochs=3, public_samples=0, student=False)
    theirs = FedMD(form="probabilities", distil_steps=0)
    assert ours.recipe() == theirs.recipe()
    average = theirs.fuse(uploads_of(answers)).shared["public"].values
    assert torch.equal(ours.fuse(uploads_of(answers)).shared["public"].values, average)
    enhanced = fused(uploads_of, answers, aggregation="enhanced-era", exponent=1.0)
    assert np.allclose(enhanced, average, atol=1e-6)


def test_limits_of_the_temperature(uploads_of, answers) -> None:
    mean = torch.stack([*answers.values()]).mean(0)
    assert np.allclose(fused(uploads_of, answers, temperature=1e-4), np.eye(4)[mean.argmax(1)])
    assert np.allclose(fused(uploads_of, answers, temperature=1e5), 0.25, atol=1e-5)


def test_classes_that_nobody_expects_are_no_nan(uploads_of) -> None:
    row = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]])
    ours = fused(uploads_of, {0: row}, aggregation="enhanced-era", exponent=40.0)
    assert np.allclose(ours, row)


def test_the_student_learns_and_is_measured(world, with_options) -> None:
    run, strategy = world(), with_options(DSFL(local_epochs=2, distil_epochs=3))
    told: list[int] = []
    strategy.observers = [run.watch]
    strategy.start(run.grid, num_rounds=2, evaluate_fn=lambda number, arrays: told.append(number))
    assert told == [1, 2]
    losses = [report.diagnostics["student_loss"] for report in run.reports]
    assert losses[1] < losses[0]
    traffic = run.reports[0].traffic
    assert (traffic.up, traffic.down_broadcast, traffic.down_unicast) == (8000, 8000, 0)


@pytest.mark.parametrize("student", [False, True])
def test_fedmds_student_touches_no_client(world, with_options, student) -> None:
    runs = [world(), world()]
    for run, on in zip(runs, (False, student), strict=True):
        strategy = FedMD(local_epochs=1, distil_epochs=1, student=on)
        run.start(with_options(strategy), 2)
    for client in range(4):
        ours, theirs = (run.model_of(client) for run in runs)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert ("student_loss" in runs[1].reports[0].diagnostics) == student
