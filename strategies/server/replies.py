"""The figures in a client's replies, checked against their bounds."""

from __future__ import annotations

from typing import NamedTuple

from flwr.app import RecordDict

from fedkt import wire
from fedkt.errors import KnowledgeError
from fedkt.text import last_line

ACCURACIES = ("personalised-accuracy", "global-accuracy", "validation-accuracy")
LEARNT = "learnt-accuracy"  # before the fusion; only where the run asks for the group effect


class LearnFigures(NamedTuple):
    """The figures in a reply to learn: the loss, the accuracy after it, or the reason for none."""

    loss: float | None
    learnt: float | None
    unmeasured: str | None

    @classmethod
    def of(cls, content: RecordDict) -> LearnFigures:
        """Return the figures of a reply; KnowledgeError for a figure that is out of bounds."""
        metrics = content.metric_records["metrics"]
        unmeasured = content.config_records.get("unmeasured")
        return cls(
            wire.scalar(metrics, "loss"),
            wire.scalar(metrics, LEARNT, 0, 1),
            None if unmeasured is None else last_line(str(unmeasured.get("group-effect"))),
        )


def accuracies(content: RecordDict) -> dict[str, float]:
    """Return the accuracies in a reply to evaluate, by name.

    Raises
    ------
    KnowledgeError
        If there is no record of metrics, or an accuracy does not lie in [0, 1].
    """
    metrics = content.metric_records.get("metrics")
    if metrics is None:  # a client without any test data sends an empty record
        raise KnowledgeError("no metrics in the reply")
    measured = {name: wire.scalar(metrics, name, 0, 1) for name in ACCURACIES}
    return {name: value for name, value in measured.items() if value is not None}
