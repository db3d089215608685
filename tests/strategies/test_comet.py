from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fedkt.fusion.clustering import k_means
from fedkt.objectives import CrossEntropy
from fedkt.recipe import Weighted
from fedkt.strategies.answers.comet import Comet
from fedkt.strategies.answers.fedmd import FedMD

M, C = 5, 3


def best_partition(points: np.ndarray, k: int) -> set[frozenset[int]]:
    """Return the partition of the smallest sum of squares, by trying every one."""

    def cost(labels: tuple[int, ...]) -> float:
        groups = [points[[i for i, x in enumerate(labels) if x == g]] for g in set(labels)]
        return sum(((g - g.mean(0)) ** 2).sum() for g in groups)

    labels = min(itertools.product(range(k), repeat=len(points)), key=cost)
    return {frozenset(i for i, x in enumerate(labels) if x == g) for g in set(labels)}


@pytest.fixture
def answers() -> dict[int, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    centre = torch.randn(2, M, C, generator=rng)[[0, 1, 1, 0, 1]]
    logits = 2 * centre + 0.4 * torch.randn(5, M, C, generator=rng)
    return dict(zip((1, 2, 4, 7, 8), logits.softmax(-1), strict=True))


def fused(method, with_options, uploads_of, answers) -> dict[int, torch.Tensor]:
    strategy = with_options(method)
    strategy.__dict__["_supposed"] = SUPPOSED
    told = strategy.fuse(uploads_of(answers))
    return {c: told.for_client(c)["public"].values for c in answers}


class Supposed:
    seed, number = 3, 1


SUPPOSED = Supposed()


def test_clients_get_the_mean_of_their_cluster(with_options, uploads_of, answers) -> None:
    points = torch.stack([*answers.values()]).double().numpy()
    clients = [*answers]
    ours = fused(Comet(), with_options, uploads_of, answers)
    for group in best_partition(points.reshape(5, -1), 2):
        for place in group:
            mean = points[sorted(group)].mean(0)
            assert np.allclose(ours[clients[place]], mean, atol=1e-6)


def test_each_sample_has_clusters_of_its_own(with_options, uploads_of, answers) -> None:
    points = torch.stack([*answers.values()]).double().numpy()
    clients = [*answers]
    ours = fused(Comet(by="sample"), with_options, uploads_of, answers)
    right = 0
    for m in range(M):
        for group in best_partition(points[:, m], 2):
            for place in group:
                mean = points[sorted(group), m].mean(0)
                right += np.allclose(ours[clients[place]][m], mean, atol=1e-6)
    assert right >= 4 * 5, "k-means finds the best of nearly all"


@pytest.mark.parametrize("by", ["client", "sample"])
def test_one_cluster_is_fedmd_and_many_are_oneself(with_options, uploads_of, answers, by) -> None:
    ours = Comet(1, by, rehearsal=0.0)
    theirs = FedMD(form="probabilities").fuse(uploads_of(answers)).shared["public"].values
    assert ours.recipe().absorb[0].rehearse == ()
    for own in fused(ours, with_options, uploads_of, answers).values():
        assert torch.equal(own, theirs)
    for c, own in fused(Comet(9, by), with_options, uploads_of, answers).items():
        assert torch.allclose(own, answers[c], atol=1e-6)


def test_k_means_keeps_empty_centres_and_equal_points() -> None:
    points = torch.zeros(1, 4, 2)
    nearest = k_means(points, 3, torch.Generator().manual_seed(0))
    assert nearest.tolist() == [[0, 0, 0, 0]]


def test_the_loss_is_that_of_the_paper() -> None:
    (step,) = Comet(factor=0.5, rehearsal=2.0).recipe().absorb
    assert step.terms[0].factor == 0.5
    assert step.rehearse == (Weighted(2.0, CrossEntropy()),)


def test_bytes_are_those_of_the_docstring(world, with_options) -> None:
    for by in ("client", "sample"):
        run = world()
        run.start(with_options(Comet(2, by, local_epochs=1, distil_epochs=1)), 1)
        traffic = run.reports[0].traffic
        assert traffic.up == traffic.down == 8000
        if by == "sample":
            assert traffic.down_unicast == 8000
