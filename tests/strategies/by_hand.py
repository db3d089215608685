"""Uploads, batches and outputs written out by hand, and runs that must end alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedkt.knowledge import CLASS_KINDS, Knowledge, Upload, Uploads
from fedkt.objectives import Batch, Outputs
from fedkt.recipe import ClassCounts, Recipe, Remember
from fedkt.strategies import KnowledgeStrategy
from fedkt.strategies.baselines.local import Local

Rows = dict[int, tuple[list[float], int]]  # by class or sample: values and count


def uploads_of_rows(name: str, kind: Any, *clients: Rows) -> Uploads:
    """Return an upload of rows, with their counts, for each client."""
    each = []
    for client, rows in enumerate(clients):
        values = torch.tensor([row for row, _ in rows.values()])
        counts = torch.tensor([n for _, n in rows.values()]) if kind in CLASS_KINDS else None
        knowledge = Knowledge(kind, {"values": values}, torch.tensor(list(rows)), counts)
        each.append(Upload(client, 1, {name: knowledge}))
    return Uploads(each)


def uploads_of_weights(name: str, *clients: tuple[int, dict[str, Tensor]]) -> Uploads:
    """Return an upload of weights for each client, given its examples and tensors."""
    return Uploads([
        Upload(client, examples, {name: Knowledge("weights", tensors)})
        for client, (examples, tensors) in enumerate(clients)
    ])  # fmt: skip


def batch_of(y: Sequence[int], weight: Sequence[float] | None = None) -> Batch:
    """Return a batch with labels, the ids 0, 1, ... and weights, which are 1 by default."""
    labels, ones = torch.tensor(y), [1.0] * len(y)
    return Batch(torch.zeros(len(y), 3), labels, torch.arange(len(y)), torch.tensor(weight or ones))


class Asked:
    """Outputs whose ``ask`` returns given tensors, as logits and features, by name of weights."""

    def __init__(self, logits: Tensor, features: Tensor, **others: Tensor) -> None:
        def ask(weights: Knowledge, x: Tensor) -> Outputs:
            (name,) = weights.tensors
            return Outputs(others[name], others[name], {})

        self.outputs = Outputs(logits, features, {}, ask=ask)
        self.knowledge = {n: Knowledge("weights", {n: torch.zeros(1)}) for n in others}


def assert_equal_runs(
    world: Any,
    one: KnowledgeStrategy,
    other: KnowledgeStrategy,
    model: str = "mlp",
    rounding: bool = False,
    rounds: int = 2,
    **training: Any,
) -> None:
    """Require that two strategies leave every client the same model after some rounds.

    Parameters
    ----------
    world : callable
        The fixture.
    one, other : KnowledgeStrategy
        The strategies, with their options.
    model : str
        The clients' model.
    rounding : bool
        Whether they may differ by rounding, of plain gradient descent; else not by a bit.
    rounds : int
        Number of rounds.
    **training
        Options of the training.
    """
    sgd = {"optimiser": "sgd", "learning_rate": 0.05, "momentum": 0.0}
    training = {**(sgd if rounding else {}), **training}
    runs = []
    for strategy in (one, other):
        run = world(models=(model,), **training)
        run.start(strategy, rounds)
        assert not any(report.failures for report in run.reports)
        runs.append(run)
    for client in range(4):
        theirs = runs[1].model_of(client)
        for name, tensor in runs[0].model_of(client).items():
            if name in theirs:  # heads are of one method alone
                same = torch.allclose(tensor, theirs[name], atol=1e-5 if rounding else 0, rtol=0)
                assert same, f"client {client}: {name}"


class LocalSecond(Local):
    """Local training whose training is the second step, with the batches of a method that loads."""

    def recipe(self) -> Recipe:
        """Return the recipe, which keeps class counts first."""
        whole = super().recipe()
        return Recipe(learn=[Remember(ClassCounts()), *whole.learn])
