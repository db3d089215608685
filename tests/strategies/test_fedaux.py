from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.strategies.weights.fedaux import Certainty, FedAUX, certainty
from fedkt.strategies.weights.feddf import FedDF


@pytest.mark.parametrize("penalty", [0.01, 0.3])
def test_scores_are_those_of_logistic_regression(penalty) -> None:
    rng = torch.Generator().manual_seed(0)
    own = torch.randn(20, 3, generator=rng) + torch.tensor([1.0, 0, 0])
    public = 2 * torch.randn(30, 3, generator=rng)
    rows = np.concatenate([torch.cat([own, public]).double().numpy(), np.ones((50, 1))], 1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    fit = LogisticRegression(C=1 / (penalty * 50), fit_intercept=False, tol=1e-10, max_iter=1000)
    fit.fit(rows, np.arange(50) < 20)
    expected = fit.predict_proba(rows[20:])[:, 1]
    ours = certainty(own, public, penalty)
    assert np.allclose(ours, expected, atol=1e-4)
    assert float(ours[public[:, 0].argmax()]) > float(ours[public[:, 0].argmin()])


def told(scores: torch.Tensor) -> Uploads:
    return Uploads([
        Upload(c, 1, {"certainty": Knowledge.rows("features", row[:, None])})
        for c, row in enumerate(scores)
    ])  # fmt: skip


def test_the_teacher_is_weighted_by_sample() -> None:
    rng = torch.Generator().manual_seed(0)
    z, s = torch.randn(3, 4, 2, generator=rng), torch.rand(3, 4, generator=rng)
    ours = FedAUX().teacher(told(s), z)
    for m in range(4):
        expected = sum(float(s[i, m]) * z[i, m] for i in range(3)) / float(s[:, m].sum())
        assert torch.allclose(ours[m], expected, atol=1e-6)


def test_equal_scores_are_feddf() -> None:
    z = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    for level in (0.0, 0.3):
        uploads = told(torch.full((3, 4), level))
        assert torch.allclose(FedAUX().teacher(uploads, z), FedDF().teacher(uploads, z), atol=1e-6)


def test_scores_stay_the_same_and_bytes_are_those_of_the_docstring(world, with_options) -> None:
    run = world()
    strategy, seen = with_options(FedAUX(local_epochs=1, distil_epochs=1)), []
    fuse = strategy.fuse

    def watched(uploads: Uploads):
        seen.append(uploads["certainty"].values)
        return fuse(uploads)

    strategy.fuse = watched
    run.start(strategy, 2)
    assert torch.equal(*seen)
    assert seen[0].std() > 0.001
    weights = 4 * (64 * 10 + 10)
    assert run.reports[0].traffic.up == 4 * (weights + 4 * 50)
    assert run.reports[1].traffic.down_broadcast == 4 * weights


def test_the_share_says_that_it_is_of_private_data() -> None:
    assert Certainty().private
