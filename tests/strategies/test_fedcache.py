"""FedCache: the cache by brute force, two rounds in NumPy, its limit, its bytes, its refusals."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from fedkt.clients.learners.base import Work
from fedkt.clients.learners.torch import TorchLearner
from fedkt.data.samples import ClientData, Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.models.builder import builder_of
from fedkt.objectives import KL, Outputs
from fedkt.rng import torch_rng
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.prototypes import fedcache
from fedkt.strategies.prototypes.fedcache import (
    FedCache,
    SampleHashes,
    SampleLabels,
    SampleLogits,
    SampleTeacher,
)
from fedkt.training import TrainingOptions

from .by_hand import assert_equal_runs, batch_of

C, H = 3, 4
Told = dict[int, tuple[np.ndarray, int, np.ndarray]]  # by sample: hash, label, logits


def drawn(seed: int, labels: dict[int, int]) -> Told:
    """Return hashes and logits of samples with some labels, by id."""
    draws = np.random.default_rng(seed)
    return {i: (draws.normal(size=H), y, draws.normal(size=C)) for i, y in labels.items()}


def upload(client: int, told: Told, first: bool = True) -> Upload:
    """Return what a client sends of samples: after its first round logits only."""
    ids, sent = torch.tensor(list(told)), len(told) if first else 0

    def rows(kind, part, *shape):
        values = torch.tensor(np.array([row[part] for row in told.values()]))
        values = values if kind == "labels" else values.float()
        return Knowledge.rows(kind, values[:sent].reshape(sent, *shape), ids[:sent])

    logits = torch.tensor(np.array([row[2] for row in told.values()])).float()
    knowledge = {
        "logits": Knowledge.rows("logits", logits, ids),
        "hashes": rows("features", 0, H),
        "labels": rows("labels", 1),
    }
    return Upload(client, len(told), knowledge)


def by_hand(cache: dict[int, Told], most: int) -> dict[tuple[int, int], np.ndarray]:
    """Return the mean logits of the most similar samples of a label, by client and sample."""
    every = {(client, i): row for client, told in cache.items() for i, row in told.items()}
    means = {}
    for place, (code, label, _) in every.items():
        near = [
            (float(code @ other / np.linalg.norm(code) / np.linalg.norm(other)), logits)
            for at, (other, y, logits) in every.items()
            if y == label and at != place
        ]
        near.sort(key=lambda pair: -pair[0])
        if near:
            means[place] = np.mean([logits for _, logits in near[:most]], 0)
    return means


def assert_sent(fused, cache: dict[int, Told], most: int) -> None:
    ours = {
        (client, i): row.numpy()
        for client, own in fused.personal.items()
        for i, row in zip(own["logits"].ids.tolist(), own["logits"].values, strict=True)
    }
    due = by_hand(cache, most)
    assert ours.keys() == due.keys()
    assert all(np.allclose(row, due[place], atol=1e-5) for place, row in ours.items())


@pytest.mark.parametrize("most", [1, 2, 16])
@pytest.mark.parametrize("chunk", [2, 256])
def test_each_sample_gets_the_mean_of_its_neighbours(monkeypatch, most, chunk) -> None:
    """Same ids at two clients, one late, one absent in round 2, a class with a single sample."""
    monkeypatch.setattr(fedcache, "CHUNK", chunk)
    cache = {0: drawn(0, {3: 0, 1: 0, 7: 1, 8: 1, 9: 1}), 2: drawn(1, {1: 0, 4: 1, 3: 1, 5: 2})}
    strategy = FedCache(neighbours=most)
    first = strategy.fuse(Uploads([upload(c, told) for c, told in cache.items()]))
    assert_sent(first, cache, most)
    assert 5 not in first.personal[2]["logits"].ids, "nobody else has class 2"

    asked = {i: cache[2][i] for i in first.personal[2]["logits"].ids.tolist()}
    changed = {i: (code, y, 2 * z + 1) for i, (code, y, z) in asked.items()}
    cache[2].update(changed)
    cache[1] = drawn(2, {1: 2, 2: 0})
    second = strategy.fuse(Uploads([upload(1, cache[1]), upload(2, changed, first=False)]))
    assert_sent(second, cache, most)
    assert 5 in second.personal[2]["logits"].ids


def test_samples_of_which_not_all_is_told_are_left_out() -> None:
    told = upload(0, drawn(0, {1: 0, 2: 0, 3: 0, 4: 0}))
    fewer = Knowledge.rows("labels", torch.zeros(3, dtype=torch.int64), [9, 3, 1])
    strategy = FedCache()
    told = Upload(0, 4, {**told.knowledge, "labels": fewer})
    assert strategy.fuse(Uploads([told])).personal[0]["logits"].ids.tolist() == [1, 3]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_is_the_divergence_from_the_sample_s_teacher(temperature) -> None:
    """T² Σ_c t_c log(t_c / s_c), a mean over three samples of which one has no teacher."""
    z = np.array([[1.0, 2.0, 3.0], [0.5, 0.0, 0.0], [9.0, 9.0, 0.0], [7.0, 1.0, 0.0]])
    told = {2: np.array([4.0, 1.0, 0.0]), 0: np.array([0.0, 3.0, 0.0])}
    due = 0.0
    for place, row in told.items():
        t, s = (np.exp(v / temperature) / np.exp(v / temperature).sum() for v in (row, z[place]))
        due += temperature**2 * (t * np.log(t / s)).sum() / 3
    known = Knowledge.rows("logits", torch.tensor(np.array(list(told.values()))), list(told))
    outputs = Outputs(torch.tensor(z), None, {})
    batch = batch_of([0, 0, 0, 0], [1.0, 1.0, 1.0, 0.0])
    loss = SampleTeacher(KL(temperature))(outputs, batch, {"logits": known})
    assert float(loss) == pytest.approx(due, rel=1e-6)


SGD = {"optimiser": "sgd", "learning_rate": 0.5, "momentum": 0.0, "batch_size": 64}


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def weights_of(tensors) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and the bias of a linear model."""
    by_size = sorted((t.double().numpy() for t in tensors.values()), key=np.size)
    return by_size[1], by_size[0]


def test_two_rounds_by_numpy(world, with_options, federation) -> None:
    """A step down CE, then one down CE + α T² KL: the gradient of the latter is α T (s - t)."""
    untrained, run = world(**SGD), world(**SGD)
    untrained.start(with_options(Local(local_epochs=0)), 1)
    alpha, temperature, most, width = 2.0, 4.0, 3, 8
    strategy = FedCache(alpha=alpha, temperature=temperature, neighbours=most, width=width)
    run.start(with_options(strategy), 2)

    projection = torch.randn(64, width, generator=torch_rng(3, "hashes")).double().numpy()
    models, data, cache = {}, {}, {}
    for client in range(4):
        train = federation.client(client).train
        x, y = train.x.flatten(1).double().numpy(), train.y.numpy()
        matrix, bias = weights_of(untrained.model_of(client))
        slope = (softmax(x @ matrix.T + bias) - np.eye(10)[y]) / len(x)
        models[client] = matrix - 0.5 * slope.T @ x, bias - 0.5 * slope.sum(0)
        data[client] = x, y, train.ids.tolist()
        z = x @ models[client][0].T + models[client][1]
        rows = zip(x @ projection, y, z, strict=True)
        cache[client] = dict(zip(data[client][2], rows, strict=True))
    means = by_hand(cache, most)
    for client, (matrix, bias) in models.items():
        x, y, ids = data[client]
        z = x @ matrix.T + bias
        slope = softmax(z) - np.eye(10)[y]
        known = [place for place, i in enumerate(ids) if (client, i) in means]
        told = np.array([means[client, ids[place]] for place in known])
        apart = softmax(z[known] / temperature) - softmax(told / temperature)
        slope[known] += alpha * temperature * apart
        slope /= len(x)
        due = matrix - 0.5 * slope.T @ x, bias - 0.5 * slope.sum(0)
        ours = weights_of(run.model_of(client))
        assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(ours, due, strict=True))


def test_without_a_teacher_it_is_local_training(world, with_options) -> None:
    ours, theirs = FedCache(alpha=0, local_epochs=2), Local(local_epochs=2)
    assert_equal_runs(world, with_options(ours), with_options(theirs), rounds=3)


@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_bytes_are_the_formula(world, with_options, federation, participation) -> None:
    run, classes, width = world(), 10, 8
    run.start(with_options(FedCache(width=width), participation=participation), 5)
    assert not any(report.failures for report in run.reports)
    hands = {c: federation.client(c).train.y.tolist() for c in range(4)}
    known: set[int] = set()
    asked: dict[int, int] = {}  # samples that have neighbours, by client
    for report in run.reports:
        now = set(report.participants)
        down = sum(asked[c] * (4 * classes + 8) for c in now & known)
        up = sum(asked[c] * 4 * classes for c in now & known)
        up += sum(len(hands[c]) * (4 * classes + 4 * width + 32) for c in now - known)
        told = report.traffic.up, report.traffic.down_unicast, report.traffic.down_broadcast
        assert told == (up, down, 0), f"round {report.round}"
        known |= now
        counts = Counter(y for c in known for y in hands[c])
        asked = {c: sum(counts[y] > 1 for y in hands[c]) for c in known}
    assert known == {0, 1, 2, 3}


# --- hashes --------------------------------------------------------------------------------------


class Frozen(nn.Module):
    """A body that may be frozen, and a head."""

    def __init__(self, trained: bool) -> None:
        super().__init__()
        self.body = nn.Linear(6, 5)
        self.body.requires_grad_(trained)
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).tanh())


def work_of(x: torch.Tensor, ids: list[int], known: dict[str, Knowledge] | None = None) -> Work:
    data = Samples(x, torch.arange(len(x)) % 2, torch.tensor(ids))
    none = data.select(torch.arange(0))
    hand = ClientData(data, none, none, None, None, 2, tuple(x.shape[1:]))
    return Work(hand, known or {}, TrainingOptions(), 3, 1, 0)


def learner_of(trained: bool) -> TorchLearner:
    learner = TorchLearner(builder_of(Frozen(trained), "frozen", (6,), 2), 2, "frozen")
    learner.reset(0, 0)
    return learner


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def test_hashes_of_features_are_those_of_a_frozen_body() -> None:
    work, share = work_of(X, [4, 0, 2, 1]), SampleHashes("features", width=0)
    learner = learner_of(trained=False)
    assert share.refuses(learner, work.data) is None
    made = share.make(learner, work)
    features = learner.model.body(X).tanh()[[1, 3, 2, 0]]
    assert made.ids.tolist() == [0, 1, 2, 4]
    assert torch.allclose(made.values, features / features.norm(dim=1, keepdim=True))


def test_a_sample_that_is_held_twice_has_one_row() -> None:
    work = work_of(X[[0, 1, 0]], [5, 2, 5])
    shares = SampleLogits(), SampleHashes(width=3), SampleLabels()
    assert [s.make(learner_of(False), work).ids.tolist() for s in shares] == [[2, 5]] * 3


def test_what_the_server_has_is_not_sent_again() -> None:
    """Then logits are of the samples that logits came of."""
    came = {"logits": Knowledge.rows("logits", torch.zeros(2, 2), [1, 4])}
    work, learner = work_of(X, [4, 0, 2, 1], came), learner_of(False)
    sent = {s.name: s.make(learner, work) for s in (SampleLogits(), SampleHashes(), SampleLabels())}
    assert {name: made.ids.tolist() for name, made in sent.items()} == {
        "logits": [1, 4],
        "hashes": [],
        "labels": [],
    }
    assert torch.allclose(sent["logits"].values, learner.predict(X)[[3, 0]])


@pytest.mark.parametrize(
    ("share", "x", "reason"),
    [
        (SampleHashes(width=6), X, "hashes of 6 numbers give away samples of 6"),
        (SampleHashes(width=0), X, "hashes of 6 numbers give away samples of 6"),
        (SampleHashes(width=2), X.log(), "samples with missing values have no hashes of inputs"),
        (SampleHashes(width=2), X.long(), "token ids have no hashes of inputs"),
        (SampleHashes("features"), X, "hashes of features need a body that is frozen"),
    ],
)
def test_hashes_that_are_refused(share, x, reason) -> None:
    assert share.refuses(learner_of(True), work_of(x, [0, 1, 2, 3]).data).startswith(reason)


def test_a_federation_whose_hashes_are_refused_does_not_begin(world, with_options) -> None:
    with pytest.raises(ConfigError, match="hashes of 64 numbers give away samples of 64"):
        world().start(with_options(FedCache(width=64)), 1)
