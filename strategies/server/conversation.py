"""A round and its two messages: what goes to the clients, and what their replies hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedkt.context import Round
from fedkt.errors import KnowledgeError, NotFiniteError, RunFailedError
from fedkt.knowledge import Uploads
from fedkt.metrics import metrics_of
from fedkt.recipe import Recipe
from fedkt.strategies.server.exchange import Exchange
from fedkt.strategies.server.replies import (
    LearnFigures,
    figures_in,
    measured_by,
    tabled_by,
    tables_in,
)
from fedkt.strategies.server.round import Phase, needed
from fedkt.strategies.server.uploading import read_uploads

# What clients of a phase are asked to do.
TASKS: Mapping[Phase, str] = {"train": "learn", "evaluate": "absorb and evaluate"}


def round_of(exchange: Exchange) -> Round:
    """Return the round as it stands."""
    report, roster = exchange.report, exchange.roster
    return Round(
        number=report.round,
        total=exchange.rounds,
        clients=tuple(report.participants),
        num_classes=roster.num_classes,
        public_size=roster.public_size,
        input_shape=roster.input_shape,
        seed=exchange.options.seed,
        about=roster.about,
    )


def turn(
    strategy: Strategy,
    exchange: Exchange,
    server_round: int,
    arrays: ArrayRecord,
    grid: Grid,
    configs: tuple[ConfigRecord, ConfigRecord],
) -> tuple[ArrayRecord, MetricRecord | None, MetricRecord | None]:
    """Return the server's weights after a round, and the clients' means of both messages.

    Messages and replies are freed early: with thousands of clients they take gigabytes.
    """
    messages = list(strategy.configure_train(server_round, arrays, configs[0], grid))
    replies = _handed_over(exchange.send(grid, messages, "train"))
    del messages
    fused, trained = strategy.aggregate_train(server_round, replies)
    arrays = fused if fused is not None else arrays
    messages = list(strategy.configure_evaluate(server_round, arrays, configs[1], grid))
    replies = _handed_over(exchange.send(grid, messages, "evaluate"))
    del messages
    return arrays, trained, strategy.aggregate_evaluate(server_round, replies)


def served(
    exchange: Exchange,
    evaluate: Callable[[int, ArrayRecord], MetricRecord | None] | None,
    server_round: int,
    arrays: ArrayRecord,
) -> MetricRecord | None:
    """Return the figures of the server's model if there is one to be evaluated.

    None, with a note, if they are not finite.
    """
    report = exchange.report
    try:
        figures = evaluate(server_round, arrays) if evaluate and len(arrays) else None
    except NotFiniteError as error:
        report.notes.append(f"the server's model is not measured: {error}")
        return None
    if figures is not None and "accuracy" in figures:
        report.server_accuracy = float(np.asarray(figures["accuracy"]))
    return figures


def keep(
    result: Result,
    server_round: int,
    trained: MetricRecord | None,
    evaluated: MetricRecord | None,
    served: MetricRecord | None,
) -> None:
    """Put the figures of a round into Flower's result."""
    for store, metrics in (
        (result.train_metrics_clientapp, trained),
        (result.evaluate_metrics_clientapp, evaluated),
        (result.evaluate_metrics_serverapp, served),
    ):
        if metrics is not None:
            store[server_round] = metrics


def has_first_message(recipe: Recipe) -> bool:
    """Return whether clients do anything before the fusion."""
    return bool(recipe.start or recipe.learn or recipe.share)


def to_learn(exchange: Exchange, config: ConfigRecord, grid: Grid) -> list[Message]:
    """Return the messages that ask the participants to learn and share."""
    recipe = exchange.recipe
    if not has_first_message(recipe):
        return []
    names = list(dict.fromkeys(recipe.needs("start") + recipe.needs("learn")))
    if exchange.options.group_effect:
        config = ConfigRecord({**config, "group-effect": True})

    def make(clients: Sequence[int]) -> list[Message]:
        return exchange.messages(MessageType.TRAIN, clients, names, config)

    exchange.again = partial(exchange.resend, grid, "train", make)
    return make(exchange.report.participants)


def read_learning(
    exchange: Exchange, replies: Iterable[Message], fuse: Callable[[Uploads], list[int]]
) -> MetricRecord | None:
    """Return the mean loss of the clients if any, after fusing the uploads that are good.

    Parameters
    ----------
    exchange : Exchange
        The exchange.
    replies : Iterable[Message]
        Replies to :func:`to_learn`.
    fuse : callable
        Fuses uploads, and returns the clients whose are in it.

    Raises
    ------
    RunFailedError
        If they are too few and the options do not say to skip the round.
    """
    asked = exchange.report.participants
    uploads, figures = read_uploads(exchange, replies)
    clients = list(uploads.clients)
    fuses = enough(exchange, "train", clients, asked)
    if fuses and exchange.recipe.share:
        clients = fuse(uploads)
    del uploads
    metrics = _note_learning(exchange, asked, clients, figures)
    if not fuses:
        exchange.report.participants = []
    return metrics


def _note_learning(
    exchange: Exchange,
    asked: Sequence[int],
    clients: list[int],
    figures: Mapping[int, LearnFigures],
) -> MetricRecord | None:
    """Note which clients, of those asked, are in the fusion; return their mean loss if any."""
    exchange.note_learning(asked, clients)
    exchange.report.participants = clients
    for client in clients:
        exchange.acknowledge(client)
        learnt, unmeasured = figures[client].learnt, figures[client].unmeasured
        if learnt is not None:
            exchange.report.learnt[client] = learnt
        elif unmeasured is not None:
            exchange.fail(client, "group effect", unmeasured)
    losses = {c: loss for c in clients if (loss := figures[c].loss) is not None}
    exchange.report.losses = losses
    return MetricRecord({"loss": float(np.mean([*losses.values()]))}) if losses else None


def asked_for(exchange: Exchange) -> list[str]:
    """Return the metrics that clients measure in the round: tables in the last round only."""
    last = exchange.report.round == exchange.last_round
    metrics = metrics_of(exchange.options.metrics)
    return [metric.wire for metric in metrics if last or not metric.facts.axes]


def to_absorb(exchange: Exchange, config: ConfigRecord, grid: Grid) -> list[Message]:
    """Return the messages: participants absorb the fused knowledge, all clients evaluate."""
    taking_part = set(exchange.report.participants if exchange.recipe.absorbs else ())
    names = exchange.recipe.needs("absorb")
    if metrics := asked_for(exchange):
        config = ConfigRecord({**config, "metrics": metrics})
    absorb = ConfigRecord({**config, "absorb": True})
    idle = ConfigRecord({**config, "absorb": False})

    def make(clients: Sequence[int]) -> list[Message]:
        absorbing = [client for client in clients if client in taking_part]
        others = [client for client in clients if client not in taking_part]
        return exchange.messages(MessageType.EVALUATE, absorbing, names, absorb) + (
            exchange.messages(MessageType.EVALUATE, others, (), idle)
        )

    exchange.attendance.look(grid)  # who has left since is not waited for
    exchange.again = partial(exchange.resend, grid, "evaluate", make)
    return make(exchange.report.clients)


def read_accuracies(exchange: Exchange, replies: Iterable[Message]) -> MetricRecord:
    """Return the means of the clients' accuracies and of their other metrics.

    Raises
    ------
    RunFailedError
        If too few clients have any.
    """
    report, metrics = exchange.report, asked_for(exchange)
    bounds, tables = measured_by(metrics), tabled_by(metrics)
    for client, content in exchange.contents(replies, "evaluate", report.clients):
        try:
            figures = figures_in(content, bounds)
            report.tables[client] = tables_in(content, tables, exchange.num_classes)
        except KnowledgeError as error:
            exchange.fail(client, "evaluate", str(error))
        else:
            report.metrics[client] = figures
            exchange.acknowledge(client)
    enough(exchange, "evaluate", list(report.metrics), report.clients)
    means = MetricRecord()
    for name in bounds:
        values = [v for v in report.per_client(name) if v is not None]
        if values:
            means[name] = float(np.mean(values))
    return means


def enough(exchange: Exchange, phase: Phase, sound: Sequence[int], asked: Sequence[int]) -> bool:
    """Return whether a phase has its quorum; else note that the round is skipped.

    Raises
    ------
    RunFailedError
        If it has not, and the options do not say to skip the round; the message names the
        first client's reason.
    """
    options, report = exchange.options, exchange.report
    least = max(1, needed(options.quorum_of(phase), len(asked)))
    if len(sound) >= least:
        return True
    text = f"every client failed to {TASKS[phase]}"
    if sound:
        text = f"{len(sound)} of {len(asked)} clients came through, and {least} are needed"
        text += f" to {TASKS[phase]} ({phase}_quorum)"
    if failures := report.failures:
        text += f"; client {failures[0].client}: {failures[0].reason}"
    if options.on_quorum_missed != "skip":
        raise RunFailedError(f"{exchange.title}, round {report.round}: {text}")
    report.notes.append(f"the {phase} phase misses its quorum: {text}")
    return False


def _handed_over(replies: Iterable[Message]) -> Iterator[Message]:
    """Yield replies without keeping those that were yielded."""
    left = list(replies)[::-1]
    del replies
    while left:
        yield left.pop()
