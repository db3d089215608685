"""The figures in a client's replies, checked against their bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedkt import wire
from fedkt.declared import check_content
from fedkt.errors import KnowledgeError
from fedkt.metrics import Facts, metrics_of
from fedkt.text import last_line

SAMPLES = ("personalised", "global", "validation")  # what accuracies and metrics are taken on
LEARNT = "learnt-accuracy"  # before the fusion; only where the run asks for the group effect


class LearnFigures(NamedTuple):
    """The figures in a reply to learn: the loss, the accuracy after it, or the reason for none."""

    loss: float | None
    learnt: float | None
    unmeasured: str | None

    @classmethod
    def of(cls, content: RecordDict) -> LearnFigures:
        """Return the figures of a reply; KnowledgeError for a figure that is out of bounds."""
        metrics = wire.record(content, "metrics", MetricRecord)
        unmeasured = wire.record(content, "unmeasured", ConfigRecord)
        return cls(
            wire.scalar(metrics, "loss"),
            wire.scalar(metrics, LEARNT, 0, 1),
            None if unmeasured is None else last_line(str(unmeasured.get("group-effect"))),
        )


def measured_by(metrics: Sequence[str]) -> Mapping[str, tuple[float, float]]:
    """Return the names of the numbers in a reply to evaluate, each with its bounds.

    Parameters
    ----------
    metrics : Sequence[str]
        Those that the clients measure beside accuracy, as texts for the wire.
    """
    bounds = {"accuracy": (0.0, 1.0)}
    bounds |= {m.facts.name: m.facts.bounds for m in metrics_of(metrics) if not m.facts.axes}
    return {f"{on}-{name}": both for name, both in bounds.items() for on in SAMPLES}


def figures_in(content: RecordDict, bounds: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return the accuracies in a reply to evaluate, and the figures of metrics, by name.

    Parameters
    ----------
    content : RecordDict
        The reply.
    bounds : Mapping[str, tuple[float, float]]
        The names of the figures with their bounds; see :func:`measured_by`.

    Raises
    ------
    KnowledgeError
        If there is no record of them, or one is not finite or out of its bounds.
    """
    record = wire.record(content, "metrics", MetricRecord)
    if record is None:  # a client without any test data sends an empty record
        raise KnowledgeError("no metrics in the reply")
    check_content(content)
    values = {
        name: wire.scalar(record, name, max(low, -wire.FLOAT32), min(high, wire.FLOAT32))
        for name, (low, high) in bounds.items()
    }
    return {name: value for name, value in values.items() if value is not None}


def tabled_by(metrics: Sequence[str]) -> Mapping[str, Facts]:
    """Return the names of the tables in a reply to evaluate, each with the facts on its metric.

    Parameters
    ----------
    metrics : Sequence[str]
        Those that the clients are asked for, as texts for the wire.
    """
    every = [m.facts for m in metrics_of(metrics) if m.facts.axes]
    return {f"{on}-{f.name}": f for f in every for on in SAMPLES if f.stands_on(on)}


def tables_in(
    content: RecordDict, facts: Mapping[str, Facts], num_classes: int
) -> dict[str, Tensor]:
    """Return the metrics in a reply to evaluate that are tables, float64, by name.

    Parameters
    ----------
    content : RecordDict
        The reply, with a record of metrics.
    facts : Mapping[str, Facts]
        Of the tables; see :func:`tabled_by`.
    num_classes : int
        C: tables are ``[C]`` or ``[C, C]``.

    Raises
    ------
    KnowledgeError
        If one has another shape, or holds what is infinite or out of its bounds.
    """
    record, tables = wire.record(content, "metrics", MetricRecord), {}
    for name, about in facts.items():
        shape, (low, high) = about.shape(num_classes), about.bounds
        bounds = max(low, -wire.FLOAT32), min(high, wire.FLOAT32)
        values = wire.numbers(record, name, math.prod(shape), *bounds)
        if values is not None:
            tables[name] = torch.tensor(values, dtype=torch.float64).view(shape)
    return tables
