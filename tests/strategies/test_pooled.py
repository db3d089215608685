from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt.errors import ConfigError
from fedkt.simulations.experiment import config as config_
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute
from fedkt.strategies.baselines.pooled import PRIOR, OfOwnPrior, Pooled

DATA = {"dataset": "digits", "partition": "dirichlet:0.5", "validation_fraction": 0.0}


def experiment(strategy: dict[str, Any], **data: Any) -> Any:
    return config_.parse({
        "rounds": 2, "models": ["linear"], "data": {**DATA, **data}, "strategy": strategy,
        "run": {"grid": "in-process"},
    })  # fmt: skip


def test_each_client_trains_on_the_data_of_all_and_keeps_its_own_prior() -> None:
    plan = prepare(experiment({"name": "pooled"}, clients=4))
    alone = prepare(experiment({"name": "local"}, clients=4)).federation
    everyone = torch.cat([alone.client(i).train.ids for i in range(4)])  # no client shares any
    for i in range(4):
        client, own = plan.federation.client(i), alone.client(i)
        assert torch.equal(client.train.ids, everyone)
        assert torch.equal(client.log_prior, own.log_prior)
        assert torch.equal(client.class_counts, own.class_counts)
        assert torch.equal(client.test.ids, own.test.ids)
        assert client.train is plan.federation.client(0).train  # held once
    assert plan.federation.describe() == alone.describe()
    assert plan.content == {**plan.content, "data": alone.fingerprint()}


def test_samples_that_clients_share_count_once() -> None:
    data = {"clients": 4, "samples_per_client": 300, "partition": "draw:0.5", "test_fraction": 0.0}
    matched = {"grid": "in-process", "personalised": "matched"}
    given = experiment({"name": "pooled"}, **data).with_values(run=matched)
    plan = prepare(given)
    alone = prepare(given.with_values(strategy={"name": "local"})).federation
    ids = torch.cat([alone.client(i).train.ids for i in range(4)]).unique()
    assert len(ids) < 1200
    assert torch.equal(plan.federation.client(2).train.ids.sort().values, ids)


def test_weights_of_classes_are_refused() -> None:
    given = experiment({"name": "pooled"}, clients=4)
    weighted = given.with_values(training={"class_weights": "balanced"})
    with pytest.raises(ConfigError, match="does not know training"):
        prepare(weighted)


def test_it_takes_as_many_steps_as_a_client_in_the_mean() -> None:
    given = {"name": "pooled", "local_epochs": 3}
    plan = prepare(experiment(given, clients=4))
    batches = [-(-len(plan.federation.client(0).train) // 32)]
    sizes = plan.federation.describe()["sizes"]["train"]
    mean = round(sum(-(-n // 32) for n in sizes) / 4)
    assert plan.experiment.strategy["local_steps"] == 3 * mean
    (step,) = plan.recipe.learn
    assert sum(step.as_train().passes(sum(sizes), 32)) == 3 * mean
    assert 3 * mean < batches[0]
    again = prepare(plan.experiment)  # resolved once is resolved for good
    assert again.experiment.strategy == plan.experiment.strategy


def test_of_one_client_it_is_training_alone(tmp_path: Path) -> None:
    rows = []
    for name in ("pooled", "local"):
        execute(prepare(experiment({"name": name}, clients=1)), tmp_path / name, label=name)
        rows.append(read_rounds(tmp_path / name))
    for ours, theirs in zip(*rows, strict=True):
        assert ours["global_accuracy"] == theirs["global_accuracy"]
        assert ours["personalised_accuracy"] == theirs["personalised_accuracy"]
        assert ours["bytes_up"] == 0


def test_the_answer_is_corrected_from_all_data_to_the_client_s_prior() -> None:
    """Bayes: p(y | x) of a mixture with priors q becomes p(y | x) π / q, normalised."""
    q, prior = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.1, 0.8])
    likelihood = torch.tensor([[0.2, 0.5, 0.1], [0.9, 0.4, 0.3]])
    mixture = (likelihood * q) / (likelihood * q).sum(1, keepdim=True)
    expected = (likelihood * prior) / (likelihood * prior).sum(1, keepdim=True)

    class Asked:
        logits = mixture.log()

    answer = OfOwnPrior().answer(
        torch.zeros(2, 1), lambda state, x: Asked(), {PRIOR: q.log()}, prior.log()
    )
    assert torch.allclose(answer.softmax(1), expected, atol=1e-6)


@pytest.mark.parametrize("model", ["mlp", "forest"])
def test_it_is_better_for_all_than_training_alone(tmp_path: Path, model: str) -> None:
    reached = {}
    for name in ("pooled", "local"):
        given = experiment({"name": name}, clients=6, partition="dirichlet:0.2")
        plan = prepare(given.with_values(models=[model]))
        execute(plan, tmp_path / name, label=name)
        reached[name] = read_rounds(tmp_path / name)[-1]["global_accuracy"]["mean"]
    assert reached["pooled"] > reached["local"] + 0.1


def test_without_a_simulation_the_epochs_are_whole() -> None:
    (step,) = Pooled(local_epochs=2).recipe().learn
    assert (step.as_train().epochs, step.as_train().least_steps) == (2, 0)
