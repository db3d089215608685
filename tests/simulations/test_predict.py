"""Answers of a deployed client: what its files hold is what the run measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt.clients import FileStore, predict
from fedkt.clients.personal_answer import predict_from
from fedkt.errors import ConfigError
from fedkt.machine import one_thread
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.engines.population import Population
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.runs.plan import RUN, Plan, prepare, strategy_of
from fedkt.simulations.runs.run import server_app
from fedkt.strategies import KnowledgeStrategy, Observer, RoundReport

CLIENTS = 4


class Last(Observer):
    """Keeps the last round's report."""

    report: RoundReport

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        self.report = report


def plan_of(strategy: dict[str, Any], **run: Any) -> Plan:
    return prepare(parse({
        "rounds": 2,
        "seed": 4,
        "models": ("mlp", "cnn", "logistic"),
        "strategy": strategy,
        "data": {"clients": CLIENTS, "samples_per_client": 30, "public_samples": 40},
        "run": {"grid": "in-process", "workers": 1, **run},
    }))  # fmt: skip


def run_into(folder: Path, plan: Plan) -> RoundReport:
    population = Population(plan.population, plan.federation)
    grid = InProcessGrid(population.app(FileStore(folder)), CLIENTS)
    strategy, last = strategy_of(plan), Last()
    strategy.observers = [last]
    with one_thread():
        grid.run_server(server_app(strategy, plan, population))
    return last.report


def accuracy(answers: torch.Tensor, labels: torch.Tensor) -> float:
    return float((answers.argmax(-1) == labels).double().mean())


@pytest.mark.parametrize("participation", [1.0, 0.5])
@pytest.mark.parametrize("readout", ["raw", "prior", "mix", "gate"])
def test_the_files_answer_as_the_run_reported(
    tmp_path: Path, readout: str, participation: float
) -> None:
    section = {"name": "fedpf", "readout": readout, "local_epochs": 2, "distil_epochs": 1}
    plan = plan_of(section, participation=participation)
    report = run_into(tmp_path / "state", plan)
    later = Population(plan.population, plan.federation)  # as in a new process
    store, took_part = FileStore(tmp_path / "state"), 0
    for c in range(CLIENTS):
        client = later.client(c)
        if not store.runs(c):
            continue
        took_part += 1
        own, common = client.data.test, client.data.common_test
        measured = report.metrics[c]
        with one_thread():
            personal = predict(client, store, own.x)
            worldly = predict(client, store, common.x, readout="global")
        assert accuracy(personal, own.y) == measured["personalised-accuracy"]
        assert accuracy(worldly, common.y) == measured["global-accuracy"]
        if readout == "prior":
            logits = predict(client, store, own.x, "global")
            assert torch.allclose(personal, logits + client.data.log_prior, atol=1e-5)
    assert took_part >= CLIENTS * participation


def test_without_a_settled_readout_the_name_decides(tmp_path: Path) -> None:
    for readout, shifted in (("raw", False), ("mix", True)):
        store = FileStore(tmp_path / readout)
        plan = plan_of({"name": "fedpf", "readout": readout, "local_epochs": 1})
        run_into(tmp_path / readout, plan)
        state = store.get(RUN, 0)
        store.put(RUN, 0, 9, "train", {**state, "settled": None})
        client = Population(plan.population, plan.federation).client(0)
        x = client.data.test.x
        expected = predict(client, store, x, "global") + shifted * client.data.log_prior
        assert torch.allclose(predict(client, store, x), expected, atol=1e-6)


def test_bad_questions(tmp_path: Path) -> None:
    plan = plan_of({"name": "fedpf"})
    client = Population(plan.population, plan.federation).client(2)
    with pytest.raises(ConfigError, match="no state of client 2"):
        predict(client, FileStore(tmp_path), client.data.test.x)
    with pytest.raises(ConfigError, match="personal or global"):
        predict_from({}, client.learner, client.data.log_prior, client.data.test.x, "loud")
