"""Who takes part, and what is sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord

from fedkt import snapshot
from fedkt.errors import ConfigError, RunFailedError
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.recipe import Load, Recipe, Weights
from fedkt.strategies.answers.knfu import KnFu
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.server.exchange import Exchange
from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.strategies.weights.fedprox import FedProx

P = 64 * 10 + 10
QUICK = {"local_epochs": 1, "distil_epochs": 1}


# --- participation -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("participation", "size"), [(1.0, 4), (0.75, 3), (0.5, 2), (0.6, 2), (0.63, 3), (0.01, 1)]
)
def test_the_number_of_participants(world, with_options, participation, size) -> None:
    run = world()
    run.start(with_options(Local(local_epochs=1), participation=participation), 3)
    for report in run.reports:
        drawn = report.participants
        assert len(drawn) == size
        assert drawn == sorted(set(drawn))
        assert set(drawn) <= {0, 1, 2, 3}


def draws(run, with_options, strategy: Any, **options: Any) -> list[list[int]]:
    run.start(with_options(strategy, participation=0.5, **options), 8)
    return [r.participants for r in run.reports]


def test_draws_depend_on_seed_and_round_and_nothing_else(world, with_options) -> None:
    first = draws(world(), with_options, Local(local_epochs=0))
    assert len({tuple(d) for d in first}) > 1
    assert set().union(*first) == {0, 1, 2, 3}
    assert draws(world(models=("mlp",)), with_options, KnFu(**QUICK)) == first
    assert draws(world(), with_options, Local(local_epochs=0), seed=4) != first


class InTurn(FedAvg):
    """Asks one client after the other."""

    def choose(self, clients):
        return [clients[(self.round.number - 1) % len(clients)]]


def test_a_method_chooses_its_clients(world, with_options) -> None:
    run = world(models=("mlp",))
    run.start(with_options(InTurn(local_epochs=0)), 5)
    assert [r.participants for r in run.reports] == [[0], [1], [2], [3], [0]]


@pytest.mark.parametrize("chosen", [[], None, [0, 7], "0", [[1]], np.array([]), np.array([[1]])])
def test_clients_that_cannot_be_chosen(world, with_options, chosen: Any) -> None:
    strategy = with_options(FedAvg(local_epochs=0))
    strategy.choose = lambda clients: chosen
    with pytest.raises(
        ConfigError, match=r"choose\(\) returned .* one of the clients \[0, 1, 2, 3\]"
    ):
        world(models=("mlp",)).start(strategy, 1)


@pytest.mark.parametrize("chosen", [np.array([2, 1]), torch.tensor([2, 1]), {1, 2}, [2, 1, 2]])
def test_clients_may_be_chosen_by_any_collection(world, with_options, chosen: Any) -> None:
    strategy, run = with_options(FedAvg(local_epochs=0)), world(models=("mlp",))
    strategy.choose = lambda clients: chosen
    run.start(strategy, 1)
    assert run.reports[0].participants == [1, 2]


def test_a_choice_that_raises_is_one_line(world, with_options) -> None:
    strategy = with_options(FedAvg(local_epochs=0))
    strategy.choose = lambda clients: clients[99]
    with pytest.raises(RunFailedError, match=r"fedavg, round 1: choose\(\) raised IndexError: "):
        world(models=("mlp",)).start(strategy, 1)


def test_everyone_evaluates_but_only_participants_train(world, with_options) -> None:
    run = world()
    run.start(with_options(KnFu(**QUICK), participation=0.5), 1)
    (report,) = run.reports
    assert set(report.metrics) == {0, 1, 2, 3}
    assert set(run.grid.snapshot()) == set(report.participants)


# --- catching up ---------------------------------------------------------------------------


class Stamped(FedAvg):
    """Fuses all weights to the number of the round, and keeps what it was sent."""

    name = "stamped"

    def __init__(self) -> None:
        super().__init__(local_epochs=0)  # so a client uploads what it was given
        self.seen: list[dict[int, float]] = []

    def fuse(self, uploads: Uploads) -> Fused:
        stack = uploads["weights"]
        value = stack.tensors["1.weight"]
        self.seen.append({c: float(value[i].mean()) for i, c in enumerate(stack.clients)})
        stamp = {n: torch.full_like(t[0], len(self.seen)) for n, t in stack.tensors.items()}
        return Fused(shared={"weights": Knowledge("weights", stamp)})


def test_clients_that_missed_rounds_get_the_newest_weights(world, with_options) -> None:
    run, strategy = world(), Stamped()
    run.start(with_options(strategy, participation=0.5), 8)
    missed = 0
    for before, report, seen in zip([None, *run.reports], run.reports, strategy.seen, strict=False):
        assert sorted(seen) == report.participants
        if before is not None:
            assert set(seen.values()) == {float(report.round - 1)}
            missed += len(set(report.participants) - set(before.participants))
    assert missed > 0  # the seed lets some clients miss rounds


@pytest.mark.parametrize("strategy", [FedAvg(1), FedProx(0.1, 1)], ids=["fedavg", "fedprox"])
def test_only_clients_that_missed_a_round_are_sent_the_weights_again(
    world, with_options, strategy
) -> None:
    run = world()
    run.start(with_options(strategy, participation=0.5), 6)
    held: set[int] = set()
    for report in run.reports:
        now = set(report.participants)
        down = 4 * P * (len(now - held) + len(now))
        assert report.traffic.down_broadcast == down
        assert report.traffic.down_unicast == 0
        assert report.traffic.up == 4 * P * len(now)
        assert report.traffic.down == down
        held = now  # only those hold the newest weights


def test_broadcast_is_one_object_for_all_receivers(world, with_options) -> None:
    strategy = with_options(FedAvg(1))
    run = world()
    exchange = Exchange("fedavg", strategy.recipe(), strategy.options)
    exchange.meet(run.grid, run.population.initial_arrays(0))
    exchange.begin(1)
    messages = exchange.messages("train", [0, 1, 2], ["weights"], ConfigRecord())
    records = {id(m.content["knowledge.weights"]) for m in messages}
    assert len(records) == 1
    assert exchange.report.traffic.down_broadcast == 3 * 4 * P


# --- weights that are not loaded where they are learnt -----------------------------------------


class Absorbed(FedAvg):
    """Averages weights that clients take up when they absorb alone."""

    def recipe(self) -> Recipe:
        learn = super().recipe().learn[1:]
        return Recipe(learn=learn, share=[Weights()], absorb=[Load()])


class OwnWeights(FedAvg):
    """Gives every client the average as its own."""

    def fuse(self, uploads: Uploads) -> Fused:
        shared = super().fuse(uploads).shared
        return Fused(personal=dict.fromkeys(uploads.clients, shared))


class Collected(FedAvg):
    """Takes weights and gives nothing back."""

    def recipe(self) -> Recipe:
        return Recipe(learn=super().recipe().learn[1:], share=[Weights()])

    def fuse(self, uploads: Uploads) -> Fused:
        return Fused()


@pytest.mark.parametrize("method", [Absorbed, OwnWeights, Collected])
@pytest.mark.parametrize("resumed", [False, True])
def test_weights_are_known_by_the_shapes_of_the_first_ones(
    world, with_options, tmp_path, method, resumed
) -> None:
    run, strategy = world(), with_options(method(local_epochs=1))
    run.start(strategy, 1)
    if resumed:
        snapshot.save(tmp_path / "state", strategy.state_dict())
        strategy = with_options(method(local_epochs=1))
        strategy.load_state_dict(snapshot.load(tmp_path / "state"))
    run.start(strategy, 3)
    assert [(r.failures, r.participants) for r in run.reports] == [([], [0, 1, 2, 3])] * 3
    assert all(r.traffic.up == 4 * 4 * P for r in run.reports)


class Halves(FedAvg):
    """Gives two clients one object, and the others one each, to learn from in the next round."""

    def recipe(self) -> Recipe:
        return replace(super().recipe(), absorb=[])

    def fuse(self, uploads: Uploads) -> Fused:
        gift = super().fuse(uploads).shared["weights"]
        single = {client: Knowledge("weights", dict(gift.tensors)) for client in (2, 3)}
        gifts = {0: gift, 1: gift, **single}
        return Fused(personal={client: {"weights": gift} for client, gift in gifts.items()})


@pytest.mark.parametrize("resumed", [False, True])
def test_one_object_for_several_clients_is_encoded_once_and_is_a_broadcast(
    world, with_options, tmp_path, resumed
) -> None:
    run, strategy = world(), with_options(Halves(local_epochs=0))
    run.start(strategy, 1)
    if resumed:
        snapshot.save(tmp_path / "state", strategy.state_dict())
        strategy = with_options(Halves(local_epochs=0))
        strategy.load_state_dict(snapshot.load(tmp_path / "state"))
    run.start(strategy, 2)
    first, second = (r.traffic for r in run.reports)
    assert (first.down_broadcast, first.down_unicast) == (4 * 4 * P, 0)
    assert (second.down_broadcast, second.down_unicast) == (2 * 4 * P, 2 * 4 * P)
