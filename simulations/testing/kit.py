"""What the laws share: small federations, runs that are watched, and exact comparison."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkt.clients import KnowledgeClientApp
from fedkt.clients.learners.making import make_learner
from fedkt.data.federation import Federation
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.machine import one_thread
from fedkt.recipe import Recipe
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.engines.population import Population
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.experiment.references import read_strategy
from fedkt.simulations.runs.plan import Plan, prepare, strategy_of
from fedkt.simulations.runs.recorder import round_row
from fedkt.simulations.runs.run import server_app
from fedkt.strategies import KnowledgeStrategy, Observer, RoundReport
from fedkt.strategies.construction import make_strategy, strategy_class
from fedkt.strategies.server.fused_check import check_form
from fedkt.strategies.server.fusing import with_readout

SEED = 3
MIXED = ("cnn", "mlp", "forest")  # two networks and a model without gradients
BATCH = 8
CLASSES, INPUT_SHAPE = 10, (1, 8, 8)  # of digits


@dataclass(frozen=True)
class Method:
    """A strategy under test: ``knfu``, ``knfu(beta=2)``, ``mine.py:Mine``; and what runs it."""

    reference: str
    executor: str = "auto"
    chosen: tuple[str, ...] = ()  # models; empty: a mixture

    def __str__(self) -> str:
        return self.reference.rpartition("/")[2].replace(" ", "")

    @cached_property
    def section(self) -> dict[str, Any]:
        """Return the strategy's section of a configuration.

        Options that the reference does not give are as the method wants to be tried.
        """
        given = read_strategy(self.reference)
        return {**strategy_class(str(given["name"])).tried_with, **given}

    def make(self) -> KnowledgeStrategy:
        """Return a new object."""
        return make_strategy(self.section)

    @cached_property
    def recipe(self) -> Recipe:
        """Return its recipe."""
        return self.make().recipe()

    @property
    def exempt(self) -> Mapping[str, str]:
        """Return the laws that it cannot keep, by name, each with the reason."""
        return self.make().exempt

    @cached_property
    def title(self) -> str:
        """Return its name for people."""
        return self.make().title

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Return the models asked for, else the richest mixture of quick ones that fit."""
        if self.chosen:
            return self.chosen
        return ("cnn",) if self.recipe.needs_one_architecture else self._mixture("logistic")

    @cached_property
    def slow_models(self) -> tuple[str, ...]:
        """Return the same with a model that is random in itself."""
        if self.chosen:
            return self.chosen
        return ("cnn",) if self.recipe.needs_one_architecture else self._mixture("forest")

    def _mixture(self, estimator: str) -> tuple[str, ...]:
        learner = make_learner(estimator, INPUT_SHAPE, CLASSES)
        return ("cnn", "mlp") if learner.refuses(self.recipe) else ("cnn", "mlp", estimator)


def plan_for(
    method: Method,
    *,
    clients: int = 4,
    models: Sequence[str] = ("mlp",),
    rounds: int = 2,
    federation: Federation | None = None,
    seed: int = SEED,
    batch: int = BATCH,
    **run: Any,
) -> Plan:
    """Prepare a small experiment on digits, or the same on another federation.

    Batches are small enough for every client to have several, unless ``batch`` says
    otherwise; ``run`` is the section of that name.
    """
    plan = prepare(parse({
        "seed": seed,
        "rounds": rounds,
        "models": tuple(models),
        "strategy": method.section,
        "data": {
            "clients": clients,
            "samples_per_client": 24,
            "public_samples": 40,
            "test_samples": 60,
        },
        "training": {"batch_size": batch, "public_batch_size": 2 * batch},
        "run": {"grid": "in-process", "workers": 1, "executor": method.executor, **run},
    }))  # fmt: skip
    return plan if federation is None else replace(plan, federation=federation)


def deal(federation: Federation, hands: Sequence[Sequence[Sequence[int]]]) -> Federation:
    """Return the federation with other hands: rows of the pool (train, validation, test)."""
    parts = [np.asarray(rows, dtype=np.int64) for hand in hands for rows in hand]
    ends = np.cumsum([len(rows) for rows in parts]).reshape(-1, 3)
    starts = np.concatenate([[0], ends[:-1, 2]])
    return replace(
        federation,
        rows=np.concatenate(parts),
        bounds=np.column_stack([starts, ends]).astype(np.int64),
        token="",  # the content is another, and its name is made of it
    )


@dataclass
class Outcome(Observer):
    """All that came out of a run; also the observer that collects it."""

    engine: InProcessGrid
    reports: list[RoundReport] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    fused: dict[int, Fused] = field(default_factory=dict)
    strategy: KnowledgeStrategy | None = None
    until: int | None = None

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        """Keep the report, the row of figures and the clients' states."""
        self.reports.append(report)
        self.rows.append(figures(round_row(report, None)))
        self.states.append(leaves(self.engine.snapshot()))
        if report.round == self.until:
            raise _StoppedError


class _StoppedError(Exception):
    """The run has come as far as it was to come."""


Fuse = Callable[[Uploads], Fused]
MakeApp = Callable[[Population], KnowledgeClientApp]


def federate(
    plan: Plan,
    app: MakeApp = Population.app,
    grid: type[InProcessGrid] = InProcessGrid,
    globally: int = 0,
    until: int | None = None,
    saved: Mapping[str, Any] | None = None,
) -> Outcome:
    """Run a plan in this process and watch it.

    ``app`` and ``grid`` are where a test puts misbehaviour and measurement in. ``globally``
    seeds the global generators: whoever draws from them gets other numbers for another one.
    ``until``: the round after which the run is stopped; ``saved``: the checkpoint it goes on from.
    """
    random.seed(globally)
    np.random.seed(globally)
    torch.manual_seed(globally)
    population = Population(plan.population, plan.federation)
    engine = grid(app(population), plan.federation.num_clients)
    strategy = strategy_of(plan)
    outcome = Outcome(engine, strategy=strategy, until=until)
    if saved is not None:
        strategy.load_state_dict(saved["strategy"])
        engine.restore(saved["clients"])
    strategy.observers = [outcome]
    fuse: Fuse = strategy.fuse

    def watched(uploads: Uploads) -> Fused:
        fused, readout = fuse(uploads), strategy.settled_recipe.personal
        check_form(strategy.exchange, fused)
        whole = with_readout(readout, uploads, fused)
        outcome.fused[strategy.exchange.report.round] = whole
        return fused

    first = strategy.first

    def watched_first(weights: Knowledge | None) -> Fused:
        made = first(weights)
        outcome.fused[0] = made
        return made

    vars(strategy).update(fuse=watched, first=watched_first)
    with one_thread(), suppress(_StoppedError):
        engine.run_server(server_app(strategy, plan, population))
    return outcome


def figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of ``rounds.jsonl`` without its times."""
    kept = {k: v for k, v in row.items() if k != "seconds"}
    return dict(json.loads(json.dumps(kept)))


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Flatten nested state into path -> tensor or plain value; a later change has no effect."""
    if isinstance(value, Tensor):
        return {path: value.detach().clone()}
    if isinstance(value, Knowledge):
        value = {"kind": value.kind, **value.tensors, "ids": value.ids, "counts": value.counts}
    if isinstance(value, Mapping):
        pairs = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(str(i), v) for i, v in enumerate(value)]
    else:
        return {path: value}
    return {p: leaf for k, v in pairs for p, leaf in leaves(v, f"{path}/{k}").items()}


def of_client(states: Mapping[str, Any], client: int) -> dict[str, Any]:
    """Return the leaves that belong to one client."""
    return {p: leaf for p, leaf in states.items() if p.startswith(f"/{client}/")}


def model_of(outcome: Outcome, client: int, round_: int = 0) -> dict[str, Any]:
    """Return what a client has learnt by a round (0: the last), without what it merely keeps."""
    parts = "/learner/model/", "/learner/classifier"
    state = of_client(outcome.states[round_ - 1], client)
    return {path: leaf for path, leaf in state.items() if any(part in path for part in parts)}


def difference(one: Any, other: Any) -> str | None:
    """Say where two states or figures differ in a single bit; None if nowhere."""
    a, b = leaves(one), leaves(other)
    if a.keys() != b.keys():
        return f"only one of them has {', '.join(sorted(a.keys() ^ b.keys())[:3])}"
    for path, leaf in a.items():
        text = _leaf_difference(leaf, b[path])
        if text:
            return f"{path}: {text}"
    return None


def _leaf_difference(a: Any, b: Any) -> str | None:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return f"{a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
        if a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes():
            return None
        apart = (a.double() - b.double()).abs()
        return f"{int((apart != 0).sum())} of {a.numel()} numbers, by up to {float(apart.max()):g}"
    if isinstance(a, bytes) and isinstance(b, bytes):
        return None if a == b or _answers(a) == _answers(b) else "the classifiers answer otherwise"
    same = a == b or (a != a and b != b)  # NaN is the same figure as NaN
    return None if same and type(a) is type(b) else f"{a!r} and {b!r}"


def _answers(pickled: bytes) -> bytes | None:
    """Return what a fitted classifier answers: equal ones need not pickle to equal bytes."""
    classifier = pickle.loads(pickled)
    if classifier is None:
        return None
    probe = np.random.default_rng(0).random((50, classifier.n_features_in_), dtype=np.float32)
    answers: bytes = np.asarray(classifier.predict_proba(probe)).tobytes()
    return answers


def assert_same(one: Outcome, other: Outcome, law: str) -> None:
    """Require that two runs agree in every figure and every bit of the clients' states."""
    found = difference(one.rows, other.rows)
    assert found is None, f"{law}; but the figures differ at round index {found}"
    found = difference(one.states, other.states)
    assert found is None, f"{law}; but the clients' states differ at round index {found}"


def assert_sound(outcome: Outcome, rounds: int, law: str) -> None:
    """Require a run in which nobody failed and all numbers are finite."""
    assert len(outcome.rows) == rounds, f"{law}; but {len(outcome.rows)} of {rounds} rounds ran"
    for row in outcome.rows:
        assert not row["failures"], f"{law}; but clients failed: {row['failures']}"
        for name in ("personalised_accuracy", "global_accuracy", "validation_accuracy"):
            for client, value in enumerate(row[name]["per_client"]):
                fine = value is None or 0 <= value <= 1
                assert fine, f"{law}; but client {client} has {name} {value}"
        everyone = row["global_accuracy"]["per_client"]
        assert None not in everyone, f"{law}; but not everyone was evaluated: {everyone}"
    for path, leaf in outcome.states[-1].items():
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            assert bool(torch.isfinite(leaf).all()), f"{law}; but {path} holds NaN or infinity"
