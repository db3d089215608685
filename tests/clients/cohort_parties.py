"""Clients of one model, trained in the loop or in a cohort, and how far apart they end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedkt.clients import TorchLearner, TrainingOptions, Work
from fedkt.clients.cohorts import cohort
from fedkt.clients.cohorts.cohort import Row
from fedkt.clients.learners.making import make_learner
from fedkt.data import ClientData, Samples
from fedkt.knowledge import Knowledge
from fedkt.objectives import CrossEntropy, Distil, Proximal
from fedkt.recipe import Recipe, Train

SHAPE = (1, 8, 8)
UNEVEN = (33, 41, 8, 60, 5)  # 5 are no whole batch
BUCKETS = (12, 12, 20, 12, 20)
STEPS = {
    "learn/0": Train("private", [CrossEntropy()], epochs=2),
    "absorb/0": Train("public", [Distil()], rehearse=[CrossEntropy()], epochs=2),
    "absorb/1": Train("public", [Distil()], samples=25),
    "learn/1": Train("private", [CrossEntropy(), Proximal(0.1)], samples=20),
}


def some(seed: int, n: int, dtype: torch.dtype, labelled: bool = True) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *SHAPE, generator=generator, dtype=dtype)
    y = torch.randint(10, (n,), generator=generator) if labelled else None
    return Samples(x, y, torch.arange(n))


class Party:
    """Some clients of one model, to be trained in either way."""

    def __init__(
        self,
        model: str = "mlp",
        sizes: tuple[int, ...] = UNEVEN,
        dtype: torch.dtype = torch.float64,
        personal: bool = False,
        **options: Any,
    ) -> None:
        self.dtype = dtype
        learner = make_learner(model, SHAPE, 10)
        assert isinstance(learner, TorchLearner)
        self.learner = learner
        self.learner.follow(Recipe())
        given = {"optimiser": "sgd", "learning_rate": 0.02, "batch_size": 8, **options}
        settings = TrainingOptions(public_batch_size=16, **given)
        public = some(99, 50, dtype, labelled=False)
        own = Knowledge("weights", self.fresh(99)["model"])
        answers = torch.randn(len(sizes), 30, 10, dtype=dtype).softmax(-1)
        self.works = []
        for k, size in enumerate(sizes):
            data = ClientData(
                some(k, size, dtype), some(50 + k, 7, dtype), some(70 + k, 9, dtype),
                public, None, 10, SHAPE,
            )  # fmt: skip
            told = Knowledge.rows("probabilities", answers[k if personal else 0], range(5, 35))
            knowledge = {"public": told, "weights": own}
            self.works.append(Work(data, knowledge, settings, 0, 1, k, rounds=3))

    def fresh(self, client: int) -> dict[str, Any]:
        self.learner.reset(0, client)
        self.learner.model.to(self.dtype)
        self.learner.heads.to(self.dtype)
        return self.learner.state()

    def in_the_loop(self, steps: dict[str, Train] = STEPS) -> tuple[list[Any], list[Any]]:
        states, losses = [], []
        for client, work in enumerate(self.works):
            self.learner.load_state(self.fresh(client))
            losses.append([self.learner.train(step, work, name) for name, step in steps.items()])
            states.append(self.learner.state())
        return states, losses

    def together(
        self, steps: dict[str, Train] = STEPS, clients: tuple[int, ...] | None = None
    ) -> tuple[list[Any], list[Any]]:
        chosen = range(len(self.works)) if clients is None else clients
        rows = [Row(self.fresh(c), self.works[c]) for c in chosen]
        losses = [cohort.train(self.learner, step, rows, name) for name, step in steps.items()]
        return [row.state for row in rows], [list(one) for one in zip(*losses, strict=True)]


def tensors(state: Any) -> list[Tensor]:
    if isinstance(state, dict):
        return [t for key in sorted(state, key=str) for t in tensors(state[key])]
    return [torch.as_tensor(state)] if state is not None else []


def apart(some: Any, others: Any) -> float:
    pairs = zip(tensors(dict(enumerate(some))), tensors(dict(enumerate(others))), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)
