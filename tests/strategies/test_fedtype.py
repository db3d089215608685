"""FedType: conformal sets by brute force, its losses in numbers, and its limits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkt.clients import TrainingOptions, Work
from fedkt.clients.learners.making import make_learner
from fedkt.knowledge import Knowledge
from fedkt.objectives import Outputs
from fedkt.objectives.heads import answering
from fedkt.recipe import ClassCounts, Recipe, Remember
from fedkt.strategies.models.fedtype import (
    ACCURACY,
    FedType,
    PredictionSets,
    ProxyLoss,
    RankSets,
    class_scores,
    conformal_quantile,
    consensus,
    raised,
)

from .by_hand import LocalSecond, assert_equal_runs, batch_of, uploads_of_weights

RANDOM = np.random.default_rng(0)
Y = [0, 3, 1, 2]


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def score(z: np.ndarray, label: int, penalty: float, free: int) -> float:
    """Return a class's score: the mass of all that are more probable, and λ (rank - k)⁺."""
    p = softmax(z)
    before = [q for q in p if q > p[label]]
    return sum(before) + penalty * max(0, len(before) + 1 - free)


def quantile(scores: list[float], coverage: float) -> float:
    """Return the smallest score with at least (n + 1)(1 - α) scores up to it."""
    needed = (len(scores) + 1) * coverage
    if needed == 0:
        return -math.inf
    up_to = [s for s in scores if sum(t <= s for t in scores) >= needed - 1e-9]
    return min(up_to, default=math.inf)


def set_of(z: np.ndarray, limit: float, penalty: float, free: int) -> set[int]:
    return {c for c in range(len(z)) if score(z, c, penalty, free) <= limit}


@pytest.mark.parametrize(("penalty", "free"), [(0.0, 0), (0.3, 2), (1.0, 1)])
def test_the_scores_of_all_classes(penalty: float, free: int) -> None:
    """RAPS, equation 5 with u = 0, class by class."""
    z = RANDOM.normal(size=(20, 6)) * 2
    ours = class_scores(torch.tensor(z), penalty, free)
    told = [[score(row, c, penalty, free) for c in range(6)] for row in z]
    assert np.allclose(ours, told, atol=1e-12)
    assert (ours[range(20), z.argmax(1)] == penalty * max(0, 1 - free)).all()


@pytest.mark.parametrize("coverage", [0.0, 0.01, 0.5, 0.7, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("number", [0, 1, 9, 19, 29, 40])
def test_the_quantile(coverage: float, number: int) -> None:
    scores = RANDOM.random(number).round(1)  # some are equal
    ours = conformal_quantile(torch.tensor(scores), coverage)
    assert ours == quantile(scores.tolist(), coverage)


def test_sets_cover_as_often_as_they_should() -> None:
    """Split conformal prediction: at least 1 - α, of labels drawn as a wrong model thinks not."""
    z = RANDOM.normal(size=(40_000, 5))
    labels = np.array([RANDOM.choice(5, p=p) for p in softmax(0.3 * z)])
    scores = class_scores(torch.tensor(2 * z), 0.1, 2)[torch.arange(len(z)), torch.tensor(labels)]
    rates = [
        float((part[30:] <= conformal_quantile(part[:30], 0.8)).double().mean())
        for part in scores.split(100)
    ]
    assert 0.8 - 0.01 < np.mean(rates) < 0.8 + 1 / 31 + 0.01


def test_the_consensus_of_sets() -> None:
    one, other = (RANDOM.random((2, 50, 5)) < 0.5).tolist()
    told = []
    for a, b in zip(one, other, strict=True):
        proxy, private = ({c for c in range(5) if row[c]} for row in (a, b))
        whole = proxy | private if len(private) <= len(proxy) else proxy
        told.append(len(proxy & private) / len(whole) if proxy else 0)
    assert torch.allclose(consensus(torch.tensor(one), torch.tensor(other)), torch.tensor(told))


ROWS = [[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]


def ranked(z: np.ndarray) -> float:
    losses = []
    for row, sets in list(zip(z, ROWS, strict=True))[:3]:
        inside = [c for c in range(4) if sets[c]]
        outside = [c for c in range(4) if not sets[c]]
        pairs = [max(0, row[b] - row[a]) for a in inside for b in outside]
        losses.append(max(sets) * sum(pairs) / max(1, len(pairs)))
    return float(np.mean(losses))


def test_the_set_is_to_rank_before_the_others() -> None:
    """The loss over the first three samples, and its gradient by differences."""
    z = np.array([[0.3, -1, 0.8, 0.1], [1, 0.2, 0.5, -2], [1.0, 2, 3, 4], [4.0, 3, 2, 1]])
    tensor = torch.tensor(z, requires_grad=True)
    knowledge = {"sets": Knowledge.rows("features", torch.tensor(ROWS))}
    loss = RankSets()(Outputs(tensor, None, {}), batch_of(Y, [1, 1, 1, 0]), knowledge)
    assert float(loss.detach()) == pytest.approx(ranked(z), rel=1e-6)
    assert ranked(z) > 0.1
    (gradient,) = torch.autograd.grad(loss, tensor)
    for place in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[place] = 1e-5
        slope = (ranked(z + step) - ranked(z - step)) / 2e-5
        assert float(gradient[place]) == pytest.approx(slope, abs=1e-6)


def test_the_proxy_learns_from_labels_and_the_private_model() -> None:
    """CE + T² KL(softmax(z / T) ‖ softmax(z_proxy / T)); no gradient for the private model."""
    private, proxy = RANDOM.normal(size=(2, 4, 4))
    tensors = [torch.tensor(a, requires_grad=True) for a in (private, proxy)]
    with answering({"proxy": lambda weights, x: Outputs(tensors[1], None, {})}):
        loss = ProxyLoss(2.0)(Outputs(tensors[0], None, {}), batch_of(Y, [1, 1, 1, 0]), {})
    t, s = softmax(private / 2)[:3], softmax(proxy / 2)[:3]
    task = np.mean([-np.log(softmax(proxy)[i, Y[i]]) for i in range(3)])
    told = task + 4 * (t * np.log(t / s)).sum(-1).mean()
    assert float(loss.detach()) == pytest.approx(told, rel=1e-5)
    gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
    assert gradients[0] is None
    assert gradients[1] is not None


def test_lambda_rises_as_accuracy_falls() -> None:
    assert raised(0.25, 0.4) == pytest.approx(0.55)
    assert raised(0.25, -0.4) == 0.25


@pytest.mark.parametrize(
    ("coverage", "number", "held_out"),
    [(0.4, 11, True), (0.8, 4, True), (0.8, 3, False), (0.4, 0, False)],
)
def test_the_sets_of_a_client(federation, coverage: float, number: int, held_out: bool) -> None:
    """Both models calibrated on held-out samples, if there are enough; λ after a fall by 0.1."""
    recipe = FedType().recipe()
    learner = make_learner("linear", federation.input_shape, 10)
    learner.follow(recipe)
    learner.reset(0, 1)
    proxy = learner.weights(of="heads.proxy.")
    learner.load_weights(proxy.with_tensors({n: 3 * t for n, t in proxy.tensors.items()}))
    data = federation.client(0)
    data = replace(data, validation=data.test.select(torch.arange(number)))
    held = data.validation if held_out else data.train
    work = Work(data, {}, TrainingOptions(), 0, 2, 1)
    now = float((learner.predict(held.x).argmax(1) == held.y).double().mean())
    work.keep(ACCURACY, now + 0.1)
    ours = PredictionSets(coverage, 0.02, 0).make(learner, work)
    assert work.own[ACCURACY] == pytest.approx(now)
    sets = []
    for world, penalty in (("heads.proxy", 0.02 + 0.98 * 0.1), ("model", 0.02)):
        z = learner.predict(held.x, world).double().numpy()
        pairs = zip(z, held.y.tolist(), strict=True)
        limit = quantile([score(row, y, penalty, 0) for row, y in pairs], coverage)
        answers = learner.predict(data.train.x, world).double().numpy()
        sets.append([set_of(row, limit + 1e-12, penalty, 0) for row in answers])
    rows = ours.at(data.train.ids)
    assert min(map(len, sets[0])) < 10
    for row, a, b in zip(rows, *sets, strict=True):
        whole = a | b if len(b) <= len(a) else a
        told = [len(a & b) / len(whole) if c in a else 0 for c in range(10)]
        assert np.allclose(row, told)


class LocalThird(LocalSecond):
    """Local training whose training is the third step."""

    def recipe(self) -> Recipe:
        whole = super().recipe()
        return Recipe(learn=[Remember(ClassCounts(), "more"), *whole.learn])


@pytest.mark.parametrize("limit", [{"factor": 0.0}, {"coverage": 0.0}, {"coverage": 1.0}])
def test_without_sets_the_private_model_is_trained_alone(world, with_options, limit) -> None:
    ours = with_options(FedType(local_epochs=2, **limit))
    assert_equal_runs(world, ours, with_options(LocalThird(2)), rounding=True)


def test_sets_move_the_private_model(world, with_options) -> None:
    models = []
    for factor in (0.0, 1.0):
        run = world(models=("linear",))
        run.start(with_options(FedType(factor, local_epochs=1)), 2)
        models.append(run.model_of(0)["1.weight"])
    assert not torch.allclose(*models, atol=1e-3)


def test_the_mean_of_the_proxies_is_by_examples() -> None:
    told = uploads_of_weights("proxy", (10, {"w": torch.ones(2)}), (30, {"w": 5 * torch.ones(2)}))
    assert FedType().fuse(told).shared["proxy"].tensors["w"].tolist() == [4.0, 4.0]


def test_only_the_proxy_travels(world, with_options) -> None:
    run = world(models=("mlp", "linear"))
    run.start(with_options(FedType(local_epochs=1), model="mlp"), 2)
    assert [report.failures for report in run.reports] == [[], []]
    size = 4 * (64 * 64 + 64 + 64 * 10 + 10)
    told = [(r.traffic.up, r.traffic.down_broadcast, r.traffic.down_unicast) for r in run.reports]
    assert told == [(4 * size, 8 * size, 0), (4 * size, 4 * size, 0)]
