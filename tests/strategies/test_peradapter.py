"""PerAda: its steps by hand, what the server distils, its limits, and who is sent the backbone."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.clients import LearnerModels, TrainingOptions
from fedkt.knowledge import Uploads
from fedkt.objectives import CrossEntropy
from fedkt.recipe import ClassCounts, Load, Recipe, Remember, Train
from fedkt.strategies.weights.lg_fedavg import LGFedAvg
from fedkt.strategies.weights.peradapter import PerAdapter

from .by_hand import assert_equal_runs, uploads_of_weights

RATE = 0.5
SGD = {"optimiser": "sgd", "learning_rate": RATE, "momentum": 0.0}
HEAD, BODY = ("3.weight", "3.bias"), ("1.weight", "1.bias")  # of the model mlp
A, B = 64 * 10 + 10, 64 * 64 + 64
SHAPES = {"3.weight": (10, 64), "3.bias": (10,)}


class Seen(PerAdapter):
    """PerAda that remembers what arrived and what the server's model learnt."""

    def fuse(self, uploads):
        (model,) = self.model.values()
        train, self.uploads, self.first_model = model.train, list(uploads), model.weights().tensors

        def watched(step: Any, knowledge: Any, *names: Any) -> Any:
            self.mean, self.answer = model.weights().tensors, knowledge["teacher"].values
            self.loss = train(step, knowledge, *names)
            return self.loss

        model.train = watched
        fused = super().fuse(uploads)
        model.train, self.w = train, model.weights().tensors
        return fused


def logits(x: Tensor, *models: Mapping[str, Tensor]) -> Tensor:
    """Return the answers of the model mlp; weights of later models go before those of earlier."""
    w = dict(ChainMap(*reversed(models)))
    return F.relu(x.flatten(1) @ w["1.weight"].T + w["1.bias"]) @ w["3.weight"].T + w["3.bias"]


def stepped(data: Any, rest: Mapping[str, Tensor], at: Mapping[str, Tensor], pull=0.0, w=None):
    """Return a part after a step down the gradient of CE + λ/2 ‖v - w‖²."""
    v = {n: t.clone().requires_grad_() for n, t in at.items()}
    loss = F.cross_entropy(logits(data.x, rest, v), data.y)
    if pull:
        loss = loss + pull / 2 * sum(((t - w[n]) ** 2).sum() for n, t in v.items())
    slopes = torch.autograd.grad(loss, list(v.values()))
    return {n: at[n] - RATE * slope for n, slope in zip(v, slopes, strict=True)}


def softened(z: Tensor) -> np.ndarray:
    """Return softmax(z / 2)."""
    powers = np.exp(z.double().numpy() / 2)
    return powers / powers.sum(1, keepdims=True)


def close(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors of the second are those of the first."""
    return all(torch.allclose(one[n], t, atol=1e-5) for n, t in other.items())


def part_of(model: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    return {n: model[n] for n in names}


@pytest.mark.parametrize(("only", "part", "rest"), [("@head", HEAD, BODY), ("1.", BODY, HEAD)])
def test_two_rounds_by_hand(world, with_options, federation, only, part, rest) -> None:
    """v ← v - η (∇F(v) + λ (v - w)), w ← w - η ∇F(w), then w is averaged and distilled.

    The server's loss is T² KL(softmax(z̄ / T) ‖ softmax(z / T)), and 0 for the last layer, where
    mean answers are those of the mean.
    """
    run = world(models=("mlp",), **SGD, batch_size=40)  # one batch
    method = Seen(0.4, only, local_epochs=1, distil_epochs=1, temperature=2.0)
    maker = LearnerModels("mlp", TrainingOptions(public_batch_size=50))
    strategy = with_options(method, models=maker)
    run.start(strategy, 1)
    assert run.reports[0].failures == []
    backbone, w = part_of(strategy.first_model, rest), part_of(strategy.first_model, part)
    data = {c: federation.client(c).train for c in range(4)}
    told = {c: stepped(data[c], backbone, w) for c in data}
    for client, expected in told.items():  # v is w at the beginning
        assert close(run.model_of(client), {**expected, **backbone})
        arrived = strategy.uploads[client].knowledge["weights"].tensors
        assert set(arrived) == set(part)
        assert close(arrived, expected)
    mean = {n: torch.stack([each[n] for each in told.values()]).mean(0) for n in part}
    assert close(strategy.mean, {**mean, **backbone})
    x = federation.client(0).public.x
    answers = [logits(x, backbone, each) for each in (*told.values(), mean)]
    teacher = torch.stack(answers[:4]).mean(0)
    assert torch.allclose(strategy.answer, teacher, atol=1e-5)
    t, s = softened(teacher), softened(answers[4])
    loss = float(4 * (t * np.log(t / s)).sum(1).mean())
    assert (loss > 1e-5) == (part == BODY)
    assert strategy.loss == pytest.approx(loss, rel=1e-3, abs=1e-7)
    assert close(strategy.w, backbone)
    v, w = told, part_of(strategy.w, part)
    run.start(strategy, 2)
    for client in data:
        expected = stepped(data[client], backbone, v[client], 0.4, w)
        assert close(run.model_of(client), {**expected, **backbone})
        assert close(
            strategy.uploads[client].knowledge["weights"].tensors,
            stepped(data[client], backbone, w),
        )


def test_the_mean_is_by_examples(world, with_options) -> None:
    strategy = with_options(PerAdapter(distil_epochs=0), model="mlp")
    strategy.start(world(models=("mlp",)).grid, num_rounds=0)
    one, five = ({n: torch.full(s, v) for n, s in SHAPES.items()} for v in (1.0, 5.0))
    told = uploads_of_weights("weights", (10, one), (30, five))
    (kind,) = strategy.model
    fused = strategy.fuse(Uploads([replace(upload, architecture=kind) for upload in told]))
    tensors = fused.shared["weights"].tensors
    assert {n: t.unique().tolist() for n, t in tensors.items()} == {n: [4.0] for n in HEAD}
    assert set(fused.shared["backbone"].tensors) == set(BODY)


class Alone(PerAdapter):
    """The part trained alone, from the server's first weights; nothing comes back to it."""

    def recipe(self) -> Recipe:
        whole = super().recipe()
        train = Train("private", [CrossEntropy()], epochs=self.local_epochs, only=self.only)
        learn = [Remember(ClassCounts()), train]
        begin = [Load("backbone"), Load("weights")]
        return Recipe(start=begin, learn=learn, share=whole.share, given=whole.given)


def test_without_lambda_the_own_part_is_trained_alone(world, with_options) -> None:
    ours, theirs = (
        with_options(kind(lam=0.0, local_epochs=2, distil_epochs=1), model="mlp")
        for kind in (PerAdapter, Alone)
    )
    assert_equal_runs(world, ours, theirs, rounding=True)


def test_without_distillation_the_shared_part_is_that_of_lg_fedavg(world, with_options) -> None:
    """Without a backbone, and with batches of all samples, whose order does not matter."""
    parts = []
    for method in (PerAdapter(local_epochs=2, distil_epochs=0), LGFedAvg(local_epochs=2)):
        strategy = with_options(method)
        world(**SGD, batch_size=40).start(strategy, 2)
        latest = strategy.exchange.latest.shared
        parts.append(latest.get("weights") or latest["head"])
    for name, tensor in parts[0].tensors.items():
        assert torch.allclose(tensor, parts[1].tensors[name], atol=1e-5)


class InTurn(Seen):
    """Asks one client after the other."""

    def choose(self, clients):
        return [clients[(self.round.number - 1) % len(clients)]]


def test_who_begins_later_has_the_same_backbone(world, with_options) -> None:
    """Each client is sent it once, in the round in which it begins; the server may have stopped."""
    run = world(models=("mlp",))
    strategy = with_options(InTurn(local_epochs=0, distil_epochs=1), model="mlp")
    run.start(strategy, 2)
    again = with_options(InTurn(local_epochs=0, distil_epochs=1), model="mlp")
    again.load_state_dict(strategy.state_dict())
    run.start(again, 5)
    assert not any(report.failures for report in run.reports)
    down = [report.traffic.down for report in run.reports]
    assert down == [4 * (A + B)] * 4 + [4 * A]
    for client in range(4):
        assert all(torch.equal(run.model_of(client)[n], again.w[n]) for n in BODY)


def test_bytes(world, with_options) -> None:
    run = world(models=("mlp",))
    run.start(with_options(PerAdapter(local_epochs=1, distil_epochs=1), model="mlp"), 2)
    told = [(r.traffic.up, r.traffic.down_broadcast, r.traffic.down_unicast) for r in run.reports]
    assert told == [(4 * 4 * A, 4 * 4 * (A + B), 0), (4 * 4 * A, 4 * 4 * A, 0)]
