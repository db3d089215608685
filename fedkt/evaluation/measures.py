"""The measures in the table of figures: functions of a round and its report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from fedkt.evaluation.leakage import Leakage, histogram_leakage
from fedkt.evaluation.transfer import (
    OverClients,
    group_effect,
    negative_transfer,
    over_clients,
    transfer,
)


class Traffic(Protocol):
    """Bytes of a round, summed over the clients."""

    up: int

    @property
    def down(self) -> int:
        """Bytes from the server."""
        ...


class Report(Protocol):
    """What figures read of the report of a round (``RoundReport`` of the strategies)."""

    clients: tuple[int, ...]
    server_accuracy: float | None
    one_model: bool
    learnt: dict[int, float]
    losses: dict[int, float]
    mean_predictions: dict[int, Tensor]
    seconds: float

    @property
    def traffic(self) -> Traffic:
        """The bytes of the round."""
        ...

    def per_client(self, metric: str) -> list[float | None]:
        """Return one metric for each client in order; None where it is missing."""
        ...


@dataclass(frozen=True)
class Round:
    """What the figures of a round are computed from.

    Parameters
    ----------
    report : Report
        The round.
    alone : Sequence[float or None], optional
        Personalised accuracy of each client in the same round of the local baseline.
    lying : Collection[int]
        Malicious clients: figures are over the others.
    label_counts : Sequence[Sequence[int]]
        True training samples of each class, clients x classes; empty if they are not known.
    simulated_seconds : float, optional
        What the round would take, where the availability of clients is simulated.
    parties : int
        How many clients there are, where lists over clients have places for others; 0: as many.
    """

    report: Report
    alone: Sequence[float | None] | None = None
    lying: Collection[int] = frozenset()
    label_counts: Sequence[Sequence[int]] = ()
    simulated_seconds: float | None = None
    parties: int = 0

    @property
    def clients(self) -> int:
        """The number of clients that bytes are divided by."""
        return self.parties or len(self.report.clients)

    def honest(self, metric: str) -> list[float | None]:
        """Return a metric of every client in order, None for those that lie."""
        values = zip(self.report.clients, self.report.per_client(metric), strict=True)
        return [None if client in self.lying else value for client, value in values]


Measure = Callable[[Round], Any]


def accuracy(metric: str) -> Measure:
    """Return the measure of an accuracy that clients report."""
    return lambda data: over_clients(data.honest(metric))


def answers(metric: str) -> Measure:
    """Return the measure of a metric that clients report; None if none of them does."""

    def measure(data: Round) -> OverClients | None:
        values = data.honest(metric)
        return None if all(value is None for value in values) else over_clients(values)

    return measure


def training_loss(data: Round) -> OverClients | None:
    """Return the loss of each client's private training; None where no client has any."""
    honest = [client not in data.lying for client in data.report.clients]
    losses = [
        data.report.losses.get(client) if known else None
        for client, known in zip(data.report.clients, honest, strict=True)
    ]
    return over_clients(losses) if any(loss is not None for loss in losses) else None


def _beside_alone(data: Round) -> tuple[Sequence[float | None], Sequence[float | None]] | None:
    """Return personalised accuracies of the clients, here and trained alone."""
    return None if data.alone is None else (data.honest("personalised-accuracy"), data.alone)


def share_worse(data: Round) -> float | None:
    """Return the share of clients that are worse than alone."""
    pair = _beside_alone(data)
    return negative_transfer(*pair)[0] if pair else None


def loss_of_worse(data: Round) -> float | None:
    """Return the mean accuracy that those clients lose."""
    pair = _beside_alone(data)
    return negative_transfer(*pair)[1] if pair else None


def transfer_of(data: Round) -> OverClients | None:
    """Return what each client gains against itself alone."""
    pair = _beside_alone(data)
    return over_clients(transfer(*pair)) if pair else None


def group_effect_of(data: Round) -> float | None:
    """Return the group effect of a round over its honest participants; None without one."""
    report = data.report
    learnt = [None if c in data.lying else report.learnt.get(c) for c in report.clients]
    served = report.server_accuracy if report.one_model else None
    return group_effect(learnt, report.per_client("global-accuracy") if served is None else served)


def leakage_of(data: Round) -> Leakage | None:
    """Return how well uploads give the label histograms away; None if these are not known."""
    if not len(data.label_counts):
        return None
    answers = data.report.mean_predictions
    # By place, as in all lists over clients.
    guesses = {
        place: answers[client]
        for place, client in enumerate(data.report.clients)
        if client in answers and client not in data.lying
    }
    return histogram_leakage(guesses, data.label_counts)
