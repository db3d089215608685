"""Sequential variants in one process: the lean loop in two memory formats, the typical loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from lean import LeanState, LeanTrainer
from meters import Laps, peak_mb
from methods import similarity_weights
from torch import Tensor
from typical import TypicalClient
from workloads import CLASSES, Case

from fedkt.data.federation import Federation
from fedkt.data.samples import ClientData


class LoopClient(Protocol):
    """One client of a sequential federation."""

    def learn(self, round_: int) -> float:
        """Train on private data; return the mean loss."""
        ...

    def answers(self, x: Tensor) -> Tensor:
        """Return probabilities for inputs."""
        ...

    def absorb(self, targets: Tensor, round_: int) -> float:
        """Distil answers on the public set; return the mean loss."""
        ...


class LeanClient:
    """A client of the lean loop; the trainer serves all of them."""

    def __init__(
        self, trainer: LeanTrainer, client: int, x: Tensor, y: Tensor, public: Tensor
    ) -> None:
        self._trainer, self._client, self._x, self._y = trainer, client, x, y
        self._public = public
        self._state: LeanState = trainer.fresh(client)

    def learn(self, round_: int) -> float:
        """Train on private data; return the mean loss."""
        return self._trainer.learn(self._state, self._x, self._y, round_, self._client)

    def answers(self, x: Tensor) -> Tensor:
        """Return probabilities for inputs."""
        return self._trainer.answers(self._state, x)

    def absorb(self, targets: Tensor, round_: int) -> float:
        """Distil answers on the public set; return the mean loss."""
        return self._trainer.absorb(self._state, self._public, targets, round_, self._client)


def run_lean(case: Case, channels_last: bool = False) -> dict[str, Any]:
    """Measure the lean loop."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    trainer, own, public, test = LeanTrainer(case.kind, layout), *_data(case)
    shared = trainer.shaped(public)
    clients = [
        LeanClient(trainer, k, one.train.x, _labels(one.train.y), shared)
        for k, one in enumerate(own)
    ]
    inputs = trainer.shaped(test[0])
    return _federate(case, clients, shared, (inputs, test[1]), lambda: trainer.steps)


def run_typical(case: Case, one_in: int = 1) -> dict[str, Any]:
    """Measure the typical loop.

    Parameters
    ----------
    case : Case
        What to measure.
    one_in : int
        Only one client in so many is run (ten at least): the loop costs each the same, so that
        the figures are scaled to all of them.
    """
    own, public, test = _data(case)
    count = min(len(own), max(10, len(own) // one_in))
    clients = [
        TypicalClient(case.kind, k, one.train.x, _labels(one.train.y), public, case.batch)
        for k, one in enumerate(own[:count])
    ]
    found = _federate(case, clients, public, test, lambda: sum(c.steps for c in clients))
    scaled = {name: found[name] * len(own) / count for name in ("cpu", "wall")}
    return {**found, **scaled}


def _federate(
    case: Case,
    clients: list[Any],
    public: Tensor,
    test: tuple[Tensor, Tensor],
    steps: Callable[[], int],
) -> dict[str, Any]:
    """Run the rounds, client by client, and measure them."""
    laps, losses, accuracies = Laps(), [], []
    answers = torch.empty(len(clients), len(public), CLASSES)
    for round_ in range(1, case.rounds + 1):
        found = []
        for k, client in enumerate(clients):
            found.append(client.learn(round_))
            answers[k] = client.answers(public)
        fused = (similarity_weights(answers) @ answers.flatten(1)).view_as(answers)
        right = []
        for k, client in enumerate(clients):
            client.absorb(fused[k], round_)
            right.append(float((client.answers(test[0]).argmax(-1) == test[1]).float().mean()))
        losses.append(sum(found) / len(found))
        accuracies.append(sum(right) / len(right))
        laps.mark()
    return {
        **laps.result(case.rounds),
        "steps": steps() / len(clients) / case.rounds,
        "clients": len(clients),
        "losses": losses,
        "accuracies": accuracies,
        "peak_mb": peak_mb(),
    }


def _data(case: Case) -> tuple[list[ClientData], Tensor, tuple[Tensor, Tensor]]:
    """Return the clients' data, the public inputs and the common test set."""
    federation = Federation.load(Path(case.folder) / "federation")
    own = [federation.client(k) for k in range(case.clients)]
    public, test = own[0].public, own[0].common_test
    assert public is not None
    assert test is not None
    return own, public.x, (test.x, _labels(test.y))


def _labels(y: Tensor | None) -> Tensor:
    assert y is not None
    return y
