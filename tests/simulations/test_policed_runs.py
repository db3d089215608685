"""A client that lets less out than a method asks for, among others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Context

from fedkt.clients import Client, Policy, client_app
from fedkt.machine import one_thread
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.engines.population import Population
from fedkt.simulations.runs.plan import prepare, strategy_of
from fedkt.simulations.runs.run import server_app
from fedkt.strategies import KnowledgeStrategy, Observer, RoundReport


def test_it_is_left_out_with_its_reason_and_the_others_go_on(tiny: Any, tmp_path: Path) -> None:
    plan = prepare(tiny(strategy={"name": "fedavg"}, models=["linear"]))
    population, reports = Population(plan.population, plan.federation), []

    def connect(context: Context) -> Client:
        client = population.connect(context)
        return replace(client, policy=Policy()) if client.id == 1 else client

    class Last(Observer):
        def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
            reports.append(report)

    strategy = strategy_of(plan)
    strategy.options = replace(strategy.options, quorum="majority")
    strategy.observers = [Last()]
    grid = InProcessGrid(client_app(connect, sent=tmp_path / "sent.jsonl"), 3)
    with one_thread():
        grid.run_server(server_app(strategy, plan, population))
    assert [report.participants for report in reports] == [[0, 2], [0, 2]]
    (note,) = [note for note in reports[0].notes if "policy" in note]
    assert "client 1" in note
    assert note.endswith("its policy allows shares predict, not weights")
