"""The one table of figures: what a run measures, where each figure stands, how it is shown.

``rounds.jsonl``, ``summary.json``, ``comparison.csv``, the tables of reports and of the terminal,
and the panels drawn against the round derive from ``FIGURES``. A new figure of a round is one row
of it and the function that measures it from the round's report; ``csv`` needs ``summary`` too.
The metrics of a run (``run.metrics``) bring rows of their own: :func:`add_metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from fedkt.evaluation.figure import (
    ACCURACY,
    MEGABYTES,
    NUMBER,
    PERCENT,
    POINTS,
    SECONDS,
    UNITS,
    USUAL,
    Figure,
    Place,
    Row,
    Unit,
    Whole,
    spread_of,
    value_of,
)
from fedkt.evaluation.measures import (
    Round,
    accuracy,
    answers,
    group_effect_of,
    leakage_of,
    loss_of_worse,
    share_worse,
    training_loss,
    transfer_of,
)
from fedkt.evaluation.transfer import first_reached, worst_decile
from fedkt.metrics import Facts


def _per_client(row: Row, name: str) -> Sequence[float | None]:
    """Return a figure of a round by client; empty where no client has it."""
    return (row.get(name) or {}).get("per_client") or ()


def summed(name: str) -> Whole:
    """Return the sum of a figure over the rounds that have it; None where none has."""

    def total(rows: Sequence[Row], goal: float | None) -> float | None:
        values = [value for row in rows if (value := value_of(row, name)) is not None]
        return sum(values) if values else None

    return total


def rounds_to_goal(rows: Sequence[Row], goal: float | None) -> int | None:
    """Return the round that first reaches a goal of mean personalised accuracy; None if none."""
    return first_reached([value_of(row, PERSONALISED.name) for row in rows], goal)


def bytes_to_goal(rows: Sequence[Row], goal: float | None) -> float | None:
    """Return the bytes per client, both directions, up to the end of that round."""
    until = rows[: rounds_to_goal(rows, goal) or 0]
    both = [value_of(row, way.name) or 0.0 for row in until for way in (BYTES_UP, BYTES_DOWN)]
    return sum(both) if until else None


def target_accuracy(row: Row) -> float | None:
    """Return the accuracy of a method on the target domain, which the common test set is of.

    Parameters
    ----------
    row : Mapping
        Of a federation with a target domain.

    Returns
    -------
    float or None
        That of the server's model if there is one, else the mean over clients of global
        accuracy, in [0, 1].
    """
    served = value_of(row, SERVER.name)
    return value_of(row, GLOBAL.name) if served is None else served


PERSONALISED = Figure(
    "personalised_accuracy", "Personalised accuracy", PERCENT, "higher", "clients",
    accuracy("personalised-accuracy"),
    places=(*USUAL, "judged"), always=True, std_name="personalised_std", picture="accuracy",
    short="Personalised", brief="Person. %", clause="personalised accuracy",
    definition="mean over clients, each on held-out data that follows the client's own label "
    "(or domain) distribution.",
)  # fmt: skip
GLOBAL = Figure(
    "global_accuracy", "Global accuracy", PERCENT, "higher", "clients",
    accuracy("global-accuracy"),
    places=(*USUAL, "judged"), always=True, picture="accuracy",
    short="Global", brief="Global %", clause="global", yields_to="target_accuracy",
    definition="mean over clients, each on the common test set.",
)  # fmt: skip
VALIDATION = Figure(
    "validation_accuracy", "Validation accuracy", PERCENT, "higher", "clients",
    accuracy("validation-accuracy"), places=("rounds",), short="Validation",
)  # fmt: skip
SERVER = Figure(
    "server_accuracy", "Server accuracy", PERCENT, "higher", "server",
    lambda data: data.report.server_accuracy,
    places=("summary", "csv", "table", "rounds"), short="Server",
    definition="of the server's own model on the common test set, for the methods that have one.",
)  # fmt: skip
TARGET = Figure(
    "target_accuracy", "Target accuracy", PERCENT, "higher", "run",
    derived=target_accuracy, places=("summary", "table"),
    brief="Target %", clause="on the target",
    definition="in a federation with a target domain, server accuracy if there is a server model, "
    "else global accuracy; the common test set is the target's.",
)  # fmt: skip
GAP_CLOSED = Figure(
    "gap_closed", "Gap closed", PERCENT, "higher", "run",
    places=("table",), optional=True, brief="Gap %", bounds=(-math.inf, math.inf),
)  # fmt: skip
GLOBAL_GAP_CLOSED = Figure(
    "global_gap_closed", "Global gap closed", PERCENT, "higher", "run",
    places=("table",), optional=True, brief="G. gap %", bounds=(-math.inf, math.inf),
)  # fmt: skip
# Figures of a comparison with `local` and `pooled` among its runs, and of which accuracy.
OF_GAP = {GAP_CLOSED: PERSONALISED, GLOBAL_GAP_CLOSED: GLOBAL}
WORST_DECILE = Figure(
    "worst_decile", "Worst decile", PERCENT, "higher", "run",
    derived=lambda row: worst_decile(_per_client(row, PERSONALISED.name)),
    places=("summary", "csv", "table"),
    definition="mean personalised accuracy of the tenth of the clients where it is lowest, of at "
    "least one client.",
)  # fmt: skip
SPREAD = Figure(
    PERSONALISED.std_name, "Spread over clients", POINTS, "lower", "run",
    derived=lambda row: (
        None if value_of(row, PERSONALISED.name) is None else spread_of(row, PERSONALISED.name)
    ),
    places=("summary", "csv", "table"),
    definition="standard deviation of personalised accuracy over the clients.",
)  # fmt: skip
NEGATIVE_TRANSFER = Figure(
    "negative_transfer", "Negative transfer", PERCENT, "lower", "run",
    share_worse, places=("summary", "csv", "table", "rounds"), always=True,
    brief="Worse %", clause="clients worse than alone",
    definition="share of clients whose personalised accuracy is below that of the same client "
    "trained alone on as many private samples, those that are rehearsed beside public ones "
    "included.",
)  # fmt: skip
NEGATIVE_TRANSFER_LOSS = Figure(
    "negative_transfer_loss", "Mean loss of those clients", POINTS, "lower", "run",
    loss_of_worse, places=("summary",),
)  # fmt: skip
TRANSFER = Figure(
    "transfer", "Transfer", POINTS, "higher", "clients", transfer_of, places=(), bounds=(-1, 1),
)  # fmt: skip
GROUP_EFFECT = Figure(
    "group_effect", "Group effect", POINTS, "lower", "run",
    group_effect_of, places=("panel",), bounds=(-1, 1),
    axis="Before minus after the fusion (points)",
    signs=("fusing destroys →", "← fusing gains"),
    caption="Group effect (FedKA, Sun et al., 2022, Eq. 12), in percentage points of accuracy on "
    "the common test set: the mean of the clients' models after learning minus what the fusion "
    "made of them. Above zero fusing destroys information, below zero the fused model is better "
    "than its parts. Strategies that never fuse (training alone) are left out.",
)  # fmt: skip
TRAINING_LOSS = Figure(
    "training_loss", "Training loss", Unit(digits=3), "lower", "clients", training_loss, places=(),
    optional=True, bounds=(-math.inf, math.inf),
)  # fmt: skip
LEAKAGE = Figure("leakage", "Leakage", NUMBER, "", "clients", leakage_of, places=())
CORRELATION = Figure(
    "leakage.correlation", "Correlation of guess and truth", NUMBER, "lower", "clients",
    places=("panel",), picture="leakage", axis="Higher: more is given away", bounds=(-1, 1),
)  # fmt: skip
VARIATION = Figure(
    "leakage.total_variation", "Total variation between guess and truth", NUMBER, "higher",
    "clients", places=("panel",), picture="leakage", axis="Lower: more is given away",
)  # fmt: skip
UNIFORM_VARIATION = Figure(
    "leakage.total_variation_uniform", "uniform guess", NUMBER, "higher", "run", places=(),
)  # fmt: skip
BYTES_UP = Figure(
    "bytes_up", "MB up", MEGABYTES, "lower", "run",
    lambda data: data.report.traffic.up / data.clients,
    places=("summary", "csv", "table", "rounds"), whole=summed("bytes_up"),
    brief="MB up", bounds=(0, math.inf),
)  # fmt: skip
BYTES_DOWN = Figure(
    "bytes_down", "MB down", MEGABYTES, "lower", "run",
    lambda data: data.report.traffic.down / data.clients,
    places=("summary", "csv", "table", "rounds"), whole=summed("bytes_down"),
    brief="down", bounds=(0, math.inf),
)  # fmt: skip
TIME = Figure(
    "seconds", "Seconds", SECONDS, "lower", "run", lambda data: data.report.seconds,
    places=("summary", "csv", "table", "rounds"), whole=summed("seconds"),
    brief="s", yields_to="failures", bounds=(0, math.inf),
)  # fmt: skip
SIMULATED = Figure(
    "simulated_seconds", "Simulated seconds", SECONDS, "lower", "run",
    lambda data: data.simulated_seconds,
    places=("summary", "csv", "table", "rounds"), optional=True,
    whole=summed("simulated_seconds"), bounds=(0, math.inf),
    definition="with [availability]: FLOPs / speed + bytes / bandwidth of the slowest client in "
    "time; rounds are synchronous.",
)  # fmt: skip

ROUNDS_TO_GOAL = Figure(
    "rounds_to_goal", "Rounds to the goal", Unit(digits=1), "lower", "run", whole=rounds_to_goal,
    places=("summary", "csv", "table"), optional=True, clause="rounds to the goal",
    bounds=(1, math.inf),
    definition="the first round in which mean personalised accuracy reaches run.accuracy_goal.",
)  # fmt: skip
BYTES_TO_GOAL = Figure(
    "bytes_to_goal", "MB to the goal", MEGABYTES, "lower", "run", whole=bytes_to_goal,
    places=("summary", "csv", "table"), optional=True, clause="MB to the goal",
    bounds=(0, math.inf),
    definition="what a client has sent and received up to the end of that round.",
)  # fmt: skip

OF_GOAL = (ROUNDS_TO_GOAL, BYTES_TO_GOAL)  # in a summary only where the run has a goal

FIGURES: tuple[Figure, ...] = (
    *(PERSONALISED, GLOBAL, VALIDATION, SERVER, TARGET, GAP_CLOSED, GLOBAL_GAP_CLOSED),
    *(WORST_DECILE, SPREAD),
    *(NEGATIVE_TRANSFER, NEGATIVE_TRANSFER_LOSS, TRANSFER, GROUP_EFFECT, TRAINING_LOSS),
    *(LEAKAGE, CORRELATION, VARIATION, UNIFORM_VARIATION),
    *(BYTES_UP, BYTES_DOWN, TIME, SIMULATED, *OF_GOAL),
)


# The rows of metrics, by the name of the metric: those of this process's runs, or read with them.
_of_metrics: dict[str, tuple[Figure, ...]] = {}


def add_metrics(metrics: Iterable[Facts]) -> None:
    """Add the rows of metrics to the table; those of the same names are replaced.

    A metric that is a table itself has none.
    """
    for facts in metrics:
        _of_metrics[facts.name] = () if facts.axes else _rows(facts)


def _prefix(basis: Figure) -> str:
    """Return the beginning of the names of the figures on what an accuracy is on."""
    return f"{basis.narrow.lower()}_"


def _rows(facts: Facts) -> tuple[Figure, ...]:
    """Return the rows of a metric: on what personalised, global and validation accuracy are on."""
    what = facts.definition.rstrip(".")
    over = {
        PERSONALISED: f"{what}. Mean over clients, each on the samples of personalised accuracy.",
        GLOBAL: f"as personalised {facts.title}, each client on the common test set.",
        VALIDATION: "",
    }
    return tuple(
        Figure(
            _prefix(basis) + facts.name.replace("-", "_"),
            f"{basis.narrow} {facts.title}",
            UNITS[facts.unit],
            facts.better,
            "clients",
            answers(f"{basis.narrow.lower()}-{facts.name}"),
            places=VALIDATION.places if basis is VALIDATION else USUAL,
            optional=True,
            short=f"{basis.narrow} {facts.short}",
            clause=f"{basis.narrow.lower()} {facts.short}" if basis is not VALIDATION else "",
            bounds=facts.bounds,
            definition=definition,
        )
        for basis, definition in over.items()
    )


def validation_of(name: str) -> Figure:
    """Return the figure of accuracy or of a metric of the run on the clients' validation data.

    Parameters
    ----------
    name : str
        ``"accuracy"``, or the name of a metric whose rows are in the table.
    """
    rows = _of_metrics[name] if name != ACCURACY else (VALIDATION,)
    return next(figure for figure in rows if figure.name.startswith(_prefix(VALIDATION)))


def table() -> tuple[Figure, ...]:
    """Return all rows of the table, those of metrics last."""
    return (*FIGURES, *(figure for rows in _of_metrics.values() for figure in rows))


def figures_at(place: Place) -> list[Figure]:
    """Return the figures that stand in a place, in order; those of whole runs last."""
    return sorted((f for f in table() if place in f.places), key=lambda f: f.whole is not None)


def panels_of(picture: str) -> list[Figure]:
    """Return the figures that are the panels of a picture; of "", those with their own."""
    return [f for f in figures_at("panel") if f.picture == picture]


def target_first(figures: Iterable[Figure]) -> list[Figure]:
    """Return figures with accuracy on the target, the headline where there is one, in front."""
    return sorted(figures, key=lambda f: f is not TARGET)


def over_clients_at_once() -> list[str]:
    """Return the names of the figures whose rows are objects over the clients."""
    return [f.name for f in table() if f.over == "clients" and f.measure]


def measured(data: Round) -> dict[str, Any]:
    """Return the figures of a round by name, as its line of ``rounds.jsonl`` has them."""
    values = {f: f.measure(data) for f in table() if f.measure}
    return {f.name: v for f, v in values.items() if v is not None or not f.optional}
