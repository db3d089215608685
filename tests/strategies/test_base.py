"""What every strategy inherits, seen through real runs on the in-process grid."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Result, Strategy

from fedkt import snapshot
from fedkt.errors import ConfigError, RunFailedError
from fedkt.fusion import mean
from fedkt.knowledge import Fused, Uploads
from fedkt.machine import one_thread
from fedkt.objectives import CrossEntropy, Distil
from fedkt.recipe import Predict, Recipe, Train
from fedkt.strategies import KnowledgeStrategy, ServerOptions
from fedkt.strategies.answers.fedmd import FedMD
from fedkt.strategies.answers.knfu import KnFu
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.weights.fedavg import FedAvg

QUICK = {"local_epochs": 1, "distil_epochs": 1}
METHODS: dict[str, Callable[[], KnowledgeStrategy]] = {
    "knfu": lambda: KnFu(**QUICK),
    "knfu-all": lambda: KnFu(neighbours="all", epd_from="pre_distill", age_decay=0.5, **QUICK),
    "fedmd": lambda: FedMD(public_samples=20, transfer_epochs=1, **QUICK),
    "fedavg": lambda: FedAvg(local_epochs=1),
    "local": lambda: Local(local_epochs=1),
}


def equal(a: object, b: object) -> bool:
    """Compare nested states to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "tensors"):
        return equal(dict(a.tensors), dict(b.tensors)) and a.kind == b.kind
    return a == b


def figures(run) -> list[object]:
    return [
        (r.round, r.participants, r.metrics, r.traffic.up, r.traffic.down, r.failures)
        for r in run.reports
    ]


# --- start ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(METHODS))
def test_the_same_seed_gives_the_same_run(world, with_options, method) -> None:
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        run = world(models=("linear",))
        run.start(with_options(METHODS[method](), participation=0.75), 2)
        runs.append(run)
    assert figures(runs[0]) == figures(runs[1])
    assert equal(runs[0].grid.snapshot(), runs[1].grid.snapshot())


def test_another_seed_gives_another_run(world, with_options) -> None:
    runs = [world(), world()]
    for seed, run in enumerate(runs):
        run.start(with_options(METHODS["knfu"](), seed=seed), 1)
    assert not equal(runs[0].grid.snapshot(), runs[1].grid.snapshot())


@pytest.mark.parametrize("method", list(METHODS))
def test_flowers_own_loop_gives_the_same_run(world, with_options, method) -> None:
    ours, flowers = world(), world()
    options = {"participation": 0.5}
    one = ours.start(with_options(METHODS[method](), **options), 2)
    strategy = with_options(METHODS[method](), **options)
    arrays = flowers.population.initial_arrays(3) if method == "fedavg" else ArrayRecord()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    with one_thread():
        two: Result = Strategy.start(strategy, flowers.grid, arrays, num_rounds=2)
    for round_ in (1, 2):
        left = dict(one.evaluate_metrics_clientapp[round_])
        assert left == dict(two.evaluate_metrics_clientapp[round_])
        assert 0 < left["global-accuracy"] < 1
        trained = [dict(r.train_metrics_clientapp[round_]) for r in (one, two)]
        assert trained[0] == trained[1]
    assert equal(ours.grid.snapshot(), flowers.grid.snapshot())
    for name in one.arrays:
        assert np.array_equal(one.arrays[name].numpy(), two.arrays[name].numpy())


def test_rounds_go_on_where_the_last_start_stopped(world, with_options) -> None:
    run, straight = world(), world()
    strategy = with_options(METHODS["knfu"]())
    run.start(strategy, 1)
    run.start(strategy, 3)
    straight.start(with_options(METHODS["knfu"]()), 3)
    assert [r.round for r in run.reports] == [1, 2, 3]
    assert figures(run) == figures(straight)


def test_the_server_model_is_evaluated_each_round(world, with_options) -> None:
    run = world()
    strategy = with_options(METHODS["fedavg"]())
    strategy.observers = [run.watch]
    asked = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        asked.append((server_round, len(arrays)))
        return MetricRecord({"accuracy": server_round / 10})

    with one_thread():
        result = strategy.start(
            run.grid, run.population.initial_arrays(3), num_rounds=2, evaluate_fn=evaluate
        )
    assert asked == [(1, 2), (2, 2)]
    assert [r.server_accuracy for r in run.reports] == [0.1, 0.2]
    assert set(result.evaluate_metrics_serverapp) == {1, 2}


def test_without_a_server_model_nobody_is_asked(world, with_options) -> None:
    run = world()
    strategy = with_options(METHODS["knfu"]())
    strategy.observers = [run.watch]

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        raise AssertionError("there is no server model")

    with one_thread():
        strategy.start(run.grid, num_rounds=1, evaluate_fn=evaluate)
    assert run.reports[0].server_accuracy is None


# --- state ---------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [{}, {"optimiser": "sgd"}, {"optimiser_state": "reset"}])
@pytest.mark.parametrize("method", list(METHODS))
def test_a_resumed_run_ends_with_the_same_bits(
    world, with_options, tmp_path, method, training
) -> None:
    options = {"participation": 0.5}
    straight = world(models=("mlp",), **training)
    straight.start(with_options(METHODS[method](), **options), 5)

    first = world(models=("mlp",), **training)
    strategy = with_options(METHODS[method](), **options)
    first.start(strategy, 2)
    state = {"strategy": strategy.state_dict(), "clients": first.grid.snapshot()}
    snapshot.save(tmp_path / "state", state)
    state = snapshot.load(tmp_path / "state")

    second = world(models=("mlp",), **training)
    strategy = with_options(METHODS[method](), **options)
    strategy.load_state_dict(state["strategy"])
    second.grid.restore(state["clients"])
    second.start(strategy, 5)
    assert figures(first) + figures(second) == figures(straight)
    assert equal(second.grid.snapshot(), straight.grid.snapshot())


def test_a_state_in_memory_is_not_changed_by_later_rounds(world, with_options) -> None:
    run = world()
    strategy = with_options(METHODS["knfu-all"](), participation=0.5)
    run.start(strategy, 1)
    state = strategy.state_dict()
    ages = dict(state["memory"]["ages"])
    run.start(strategy, 3)
    assert state["memory"]["ages"] == ages


def test_a_snapshot_in_memory_is_not_changed_by_later_rounds(world, with_options) -> None:
    run = world()
    strategy = with_options(METHODS["knfu"]())
    run.start(strategy, 1)
    states = run.grid.snapshot()
    steps = {c: float(s["learner"]["optimiser"][0]["step"]) for c, s in states.items()}
    run.start(strategy, 2)
    after = {c: float(s["learner"]["optimiser"][0]["step"]) for c, s in states.items()}
    assert after == steps


# --- what a subclass must do ---------------------------------------------------------------


class Bare(KnowledgeStrategy):
    """No name, no fuse."""

    def recipe(self) -> Recipe:
        return Recipe(share=[Predict()])


class Forgetful(KnowledgeStrategy):
    """Fuses nothing for one client."""

    name = "forgetful"

    def recipe(self) -> Recipe:
        return Recipe(share=[Predict()], absorb=[Train("public", [Distil()])])

    def fuse(self, uploads: Uploads) -> Fused:
        shared = mean(uploads["public"]).shared
        return Fused(personal=dict.fromkeys(uploads.clients[:-1], shared))


def test_a_strategy_that_does_not_fuse(world, with_options) -> None:
    with pytest.raises(ConfigError, match=r"bare shares knowledge but does not define fuse\(\)"):
        world().start(with_options(Bare()), 1)


def test_a_strategy_that_forgets_a_client(world, with_options) -> None:
    with pytest.raises(ConfigError, match=r"forgetful: fuse\(\) gave client 3 no 'public'"):
        world().start(with_options(Forgetful()), 1)


@pytest.mark.parametrize("stranger", [99, "0"])
def test_knowledge_for_a_client_that_is_not_there(world, with_options, stranger: Any) -> None:
    class Misaddressed(FedMD):
        def fuse(self, uploads: Uploads) -> Fused:
            shared = mean(uploads["public"]).shared
            return Fused(shared, {stranger: shared})

    line = rf"misaddressed: fuse\(\) gave client {stranger!r}, .* its clients are \[0, 1, 2, 3\]"
    with pytest.raises(ConfigError, match=line):
        world().start(with_options(Misaddressed(local_epochs=0, distil_epochs=0)), 1)


def test_knowledge_under_a_name_that_nobody_is_sent(world, with_options) -> None:
    class Misnamed(FedMD):
        def fuse(self, uploads: Uploads) -> Fused:
            shared = mean(uploads["public"]).shared
            return Fused({**shared, "pubic": shared["public"]})

    line = r"misnamed: fuse\(\) gave everyone 'pubic', which nobody would be sent; .*: public\."
    with pytest.raises(ConfigError, match=line):
        world().start(with_options(Misnamed(local_epochs=0, distil_epochs=0)), 1)


def test_a_recipe_is_needed() -> None:
    class Empty(KnowledgeStrategy):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Empty()


def test_an_empty_recipe_only_evaluates(world, with_options) -> None:
    class Watching(KnowledgeStrategy):
        def recipe(self) -> Recipe:
            return Recipe()

    run = world()
    result = run.start(with_options(Watching()), 2)
    assert run.reports[0].metrics == run.reports[1].metrics
    assert 0 < result.evaluate_metrics_clientapp[1]["global-accuracy"] < 0.5
    assert result.train_metrics_clientapp == {}


def test_a_method_of_absorbing_only(world, with_options) -> None:
    class Absorbing(KnowledgeStrategy):
        def recipe(self) -> Recipe:
            return Recipe(absorb=[Train("private", [CrossEntropy()])])

    run = world()
    run.start(with_options(Absorbing()), 3)
    means = [np.mean(r.per_client("personalised-accuracy")) for r in run.reports]
    assert means[-1] > means[0]


def test_a_recipe_is_made_once_whatever_a_strategy_calls_its_own() -> None:
    class Named(FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self._recipe = "mean"

    strategy = Named()
    assert strategy.settled_recipe == FedAvg().recipe()
    assert strategy.settled_recipe is strategy.settled_recipe


def test_strategies_do_not_share_memory_or_options() -> None:
    one, other = KnFu(), KnFu()
    one.memory["x"] = 1
    one.options = ServerOptions(seed=9)
    assert other.memory == {}
    assert other.options.seed == 0


@pytest.mark.parametrize("participation", [0.0, -0.5, 1.5, float("nan")])
def test_participation_is_a_share(participation: float) -> None:
    with pytest.raises(ConfigError, match=r"participation must be .* in \(0, 1\]"):
        ServerOptions(participation=participation)


def test_every_client_failing_stops_the_run(world, with_options) -> None:
    def fail(client, message):
        if message == 2:
            raise RuntimeError(f"no memory on client {client.id}")
        return client

    with pytest.raises(RunFailedError) as caught:
        world(adapt=fail).start(with_options(METHODS["knfu"]()), 1)
    message = str(caught.value)
    assert "knfu, round 1: every client failed to learn" in message
    assert "client 0: RuntimeError: no memory on client 0" in message


def test_every_client_failing_to_evaluate_stops_the_run(world, with_options) -> None:
    def fail(client, message):
        if message == 3:
            raise RuntimeError("gone")
        return client

    with pytest.raises(RunFailedError, match="every client failed to absorb and evaluate"):
        world(adapt=fail).start(with_options(METHODS["knfu"]()), 1)


def test_the_summary_names_the_hyper_parameters(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("flwr")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    try:
        KnFu(beta=3.25).summary()
    finally:
        logger.removeHandler(caplog.handler)
    assert "knfu" in caplog.text
    assert "3.25" in caplog.text
