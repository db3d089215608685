"""FedGKT: a step of the server and of a client in numbers, rows by sample id, and its limit."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedkt.clients import LearnerModels, TrainingOptions
from fedkt.clients.learners.making import make_learner
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.readouts import ReadOut
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.prototypes.fedgkt import KEPT, FedGKT, JointAnswer, PrivateRows

from .by_hand import assert_equal_runs

MLP = 64 * 64 + 64 + 64 * 10 + 10
WHOLE = {"optimiser": "sgd", "learning_rate": 0.3, "momentum": 0.0, "public_batch_size": 10_000}
RATE = WHOLE["learning_rate"]


class Keeping(FedGKT):
    """Keeps what it saw and made, by round."""

    def fuse(self, uploads):
        before = self.model["server"].weights().tensors
        fused = super().fuse(uploads)
        vars(self).setdefault("_told", []).append((list(uploads), before, fused))
        return fused


@pytest.fixture
def plain(with_options):
    """Return a maker of strategies whose server's training is plain gradient descent."""

    def make(strategy, **options):
        models = LearnerModels("mlp", TrainingOptions(**WHOLE))
        return with_options(strategy, models=models, **options)

    return make


def softmax(logits):
    exponents = np.exp(logits)
    return exponents / exponents.sum(-1, keepdims=True)


def hidden_and_logits(model, x):
    """Return the features and the logits of an mlp, in NumPy."""
    w = {n: t.double().numpy() for n, t in model.items()}
    hidden = np.maximum(x.flatten(1).double().numpy() @ w["1.weight"].T + w["1.bias"], 0)
    return hidden, hidden @ w["3.weight"].T + w["3.bias"]


def test_clients_tell_features_labels_and_logits_of_each_sample(world, plain, federation) -> None:
    strategy, run = plain(Keeping(local_epochs=2)), world(models=("mlp",))
    run.start(strategy, 1)
    for upload in strategy._told[0][0]:
        data, told = federation.client(upload.client).train, upload.knowledge
        samples = data.at_ids(told["features"].ids)
        assert sorted(samples.ids.tolist()) == sorted(data.ids.tolist())
        features, logits = hidden_and_logits(run.model_of(upload.client), samples.x)
        assert np.allclose(told["features"].values, features, atol=1e-5)
        assert np.allclose(told["logits"].at(samples.ids), logits, atol=1e-5)
        assert torch.equal(told["labels"].at(samples.ids), samples.y)


def test_a_step_of_the_server(world, plain) -> None:
    """CE + β T² KL(softmax(z_c / T) ‖ softmax(z_s / T)), all samples of all clients at once."""
    beta, temperature = 0.6, 2.0
    strategy = plain(
        Keeping(beta=beta, temperature=temperature, server="linear", server_epochs=1, alpha=0)
    )
    world(models=("mlp",)).start(strategy, 1)
    uploads, before, fused = strategy._told[0]
    told = [u.knowledge for u in uploads]
    x, y, z_c = (
        np.concatenate([k[name].values.numpy() for k in told])
        for name in ("features", "labels", "logits")
    )
    w, b = (before[f"1.{n}"].double().numpy() for n in ("weight", "bias"))
    z_s = x @ w.T + b
    off = softmax(z_s) - np.eye(10)[y]
    off += beta * temperature * (softmax(z_s / temperature) - softmax(z_c / temperature))
    w, b = w - RATE * off.T @ x / len(y), b - RATE * off.mean(0)
    for upload in uploads:
        ids = upload.knowledge["features"].ids
        answers = upload.knowledge["features"].values.numpy() @ w.T + b
        assert np.allclose(fused.personal[upload.client]["logits"].at(ids), answers, atol=1e-4)
    assert np.allclose(fused.shared["server"].tensors["1.weight"], w, atol=1e-5)


def test_a_step_of_a_client(world, plain, federation) -> None:
    """CE + α T² KL(softmax(z_s / T) ‖ softmax(z_c / T)), z_s of the sample itself."""
    alpha, temperature = 0.7, 2.0
    strategy = plain(Keeping(alpha=alpha, temperature=temperature, local_epochs=1))
    run = world(models=("mlp",), **WHOLE, batch_size=1000)
    run.start(strategy, 1)
    before = {client: run.model_of(client) for client in range(4)}
    run.start(strategy, 2)
    for client in range(4):
        samples = federation.client(client).train
        hidden, z_c = hidden_and_logits(before[client], samples.x)
        z_s = strategy._told[0][2].personal[client]["logits"].at(samples.ids).double().numpy()
        off = softmax(z_c) - np.eye(10)[samples.y]
        off += alpha * temperature * (softmax(z_c / temperature) - softmax(z_s / temperature))
        step = RATE * off.T @ hidden / len(samples)
        told = before[client]["3.weight"].double().numpy() - step
        assert np.abs(step).max() > 1e-3
        assert np.allclose(run.model_of(client)["3.weight"], told, atol=1e-5)


def test_without_the_servers_logits_it_is_local_training(world, with_options) -> None:
    ours = with_options(FedGKT(alpha=0, joint=False, common_start=False), model="mlp")
    assert_equal_runs(world, ours, with_options(Local(3), model="mlp"), rounds=3)


@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_clients_of_an_architecture_begin_alike(world, with_options, participation) -> None:
    strategy, run = (
        with_options(FedGKT(local_epochs=0), model="mlp", participation=participation),
        world(models=("mlp", "cnn")),
    )
    run.start(strategy, 5)
    assert not any(report.failures for report in run.reports)
    seen = {client for report in run.reports for client in report.participants}
    assert seen == {0, 1, 2, 3}
    for one, other in ((0, 2), (1, 3)):
        theirs = run.model_of(other)
        assert all(torch.equal(t, theirs[n]) for n, t in run.model_of(one).items())


def test_a_client_that_was_away_keeps_its_answers_and_its_ids(world, with_options) -> None:
    strategy = with_options(Keeping(local_epochs=1), model="mlp", participation=0.5)
    run = world(models=("mlp",))
    run.start(strategy, 5)
    known, answers = {}, {}
    for report, (uploads, _, fused) in zip(run.reports, strategy._told, strict=True):
        assert report.failures == []
        assert sorted(u.client for u in uploads) == report.participants
        due = 0
        for upload in uploads:
            ids = upload.knowledge["features"].ids
            due += len(ids) * (4 * 64 + 4 * 10 + 8 + (0 if upload.client in known else 24))
            assert known.setdefault(upload.client, ids.tolist()) == ids.tolist()
            answers[upload.client] = fused.personal[upload.client]["logits"].values
        assert report.traffic.up == due
        for client, values in answers.items():
            assert torch.equal(fused.personal[client]["logits"].values, values)


@pytest.mark.parametrize("joint", [True, False])
def test_bytes(world, with_options, federation, joint) -> None:
    strategy, run = with_options(FedGKT(joint=joint, local_epochs=1), "mlp"), world(("mlp",))
    run.start(strategy, 2)
    n = sum(len(federation.client(client).train) for client in range(4))
    large = 4 * 4 * (64 * 128 + 128 + 128 * 10 + 10) if joint else 0
    up = n * (4 * 64 + 4 * 10 + 8)
    assert [r.traffic.up for r in run.reports] == [up + 24 * n, up]
    assert [r.traffic.down_unicast for r in run.reports] == [0, n * (4 * 10 + 8)]
    assert [r.traffic.down_broadcast for r in run.reports] == [4 * 4 * MLP + large, large]


def test_the_personal_answer_is_the_joint_models(world, with_options, federation) -> None:
    strategy, run = with_options(FedGKT(server="linear"), model="mlp"), world(models=("mlp",))
    run.start(strategy, 2)
    large = strategy.model["server"].weights().tensors
    for client in range(4):
        own = run.grid.snapshot()[client]["own"]
        assert all(torch.equal(t, large[n]) for n, t in own[KEPT].tensors.items())
        test = federation.client(client).test
        hidden, _ = hidden_and_logits(run.model_of(client), test.x)
        logits = hidden @ large["1.weight"].numpy().T + large["1.bias"].numpy()
        right = float((logits.argmax(1) == test.y.numpy()).mean())
        assert run.reports[-1].metrics[client]["personalised-accuracy"] == pytest.approx(right)


def test_before_the_servers_model_is_there_a_client_answers_alone() -> None:
    answers = SimpleNamespace(logits=torch.eye(2), features=torch.ones(2, 3))
    readout: ReadOut = JointAnswer("mlp")
    assert torch.equal(
        readout.answer(torch.zeros(2, 1), lambda *_: answers, {}, torch.zeros(2)), torch.eye(2)
    )


def test_a_sample_that_is_held_twice_has_one_row(federation) -> None:
    data = federation.client(0)
    twice = replace(data, train=data.train.select(torch.tensor([3, 1, 3])))
    learner = make_learner("mlp", federation.input_shape, 10)
    learner.reset(0, 0)
    work = SimpleNamespace(data=twice, knowledge={})
    rows = PrivateRows("labels").make(learner, work)
    assert rows.ids.tolist() == sorted(twice.train.ids[:2].tolist())
    sent = Knowledge.rows("logits", torch.zeros(2, 10), twice.train.ids[:2])
    work.knowledge["logits"] = sent
    assert torch.equal(PrivateRows("features").make(learner, work).ids, sent.ids)


def test_what_cannot_be_is_refused(world, with_options, federation) -> None:
    learner = make_learner("linear", federation.input_shape, 10)
    refusal = PrivateRows("features").refuses(learner, federation.client(0))
    assert refusal == "its features are the inputs, which would leave the device"
    strategy = with_options(FedGKT(server="logistic"), model="mlp")
    with pytest.raises(ConfigError, match=r"'logistic' is no network, and the large model"):
        world(models=("mlp",)).start(strategy, 1)
