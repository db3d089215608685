from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fedkt.fusion import FilteredMean, FusionRound, GeometricMedian
from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.strategies.answers.cronus import Cronus
from fedkt.strategies.answers.fedmd import FedMD

N, M, C = 9, 6, 4


@pytest.fixture
def answers() -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    honest = (torch.randn(M, C, generator=generator) + torch.tensor([3.0, 0, 0, 0])).softmax(-1)
    spread = 0.3 * torch.randn(N, M, C, generator=generator)
    rows = (honest.log() + spread).softmax(-1)
    rows[[2, 5]] = torch.eye(C)[3]
    return dict(enumerate(rows))


def by_hand(points: np.ndarray, share: float, bound: float) -> np.ndarray:
    """The filter for one sample, vector by vector."""
    left, removed = [*points], 0
    while removed < int(share * len(points)):
        mean = sum(left) / len(left)
        covariance = sum(np.outer(p - mean, p - mean) for p in left) / len(left)
        eigenvalues, vectors = np.linalg.eig(covariance)
        top = int(np.argmax(eigenvalues.real))
        if eigenvalues.real[top] <= bound:
            break
        far = max(range(len(left)), key=lambda k: abs((left[k] - mean) @ vectors[:, top].real))
        left.pop(far)
        removed += 1
    return sum(left) / len(left)


@pytest.mark.parametrize(("share", "variance"), [(0.3, 0.01), (0.12, 0.01), (0.4, 0.0005)])
def test_the_filter_equals_the_loops(uploads_of, answers, share, variance) -> None:
    rule = FilteredMean(share, variance)
    fused = Cronus(fusion=f"filtered-mean(share={share}, variance={variance})")
    assert fused._rule == rule
    ours = rule(uploads_of(answers)["public"], FusionRound()).values
    points = torch.stack([*answers.values()]).double().numpy()
    for m in range(M):
        assert np.allclose(ours[m], by_hand(points[:, m], share, 9 * variance), atol=1e-6)


def test_liars_are_left_out_and_honest_clients_stay(uploads_of, answers) -> None:
    now = FusionRound()
    FilteredMean()(uploads_of(answers)["public"], now)
    expected = [float(c in (2, 5)) for c in range(N)]
    assert now.diagnostics["filtered"].tolist() == pytest.approx(expected)


def test_a_row_is_judged_among_the_clients_that_have_it(answers) -> None:
    whole = Uploads([Upload(c, 1, {"public": Knowledge.rows("probabilities", a)})
                     for c, a in answers.items() if c != 0])  # fmt: skip
    without = Uploads([
        *whole,
        Upload(0, 1, {"public": Knowledge.rows("probabilities", answers[0][:0], torch.arange(0))}),
    ])  # fmt: skip
    for rule in (FilteredMean(), GeometricMedian()):
        one, other = (rule(u["public"], FusionRound()).values for u in (whole, without))
        assert torch.allclose(one, other, atol=1e-6)


def test_the_geometric_median_has_the_smallest_sum_of_distances(uploads_of, answers) -> None:
    ours = GeometricMedian(200)(uploads_of(answers)["public"], FusionRound()).values
    points = torch.stack([*answers.values()]).double().numpy()
    for m in range(M):
        rows = points[:, m]
        found = minimize(lambda v, at=rows: np.linalg.norm(at - v, axis=1).sum(), rows.mean(0))
        assert np.allclose(ours[m], found.x, atol=2e-3)


def test_with_the_plain_mean_it_is_fedmd(uploads_of, answers, with_options) -> None:
    ours = with_options(Cronus(fusion="mean", alone_epochs=0, rehearsal=0.0))
    theirs = FedMD(form="probabilities", distil_steps=0)
    assert ours.recipe() == theirs.recipe()
    fused = [s.fuse(uploads_of(answers)).shared["public"].values for s in (ours, theirs)]
    assert torch.equal(*fused)


def test_bytes_are_those_of_the_docstring(world, with_options) -> None:
    run = world()
    run.start(with_options(Cronus(alone_epochs=0, local_epochs=1, distil_epochs=1)), 1)
    traffic = run.reports[0].traffic
    assert (traffic.up, traffic.down_broadcast, traffic.down_unicast) == (8000, 8000, 0)
