"""A round and its two messages: what goes to the clients, and what their replies hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedkt.context import Round
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Upload, Uploads
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
    server_round: int,
    arrays: ArrayRecord,
    grid: Grid,
    configs: tuple[ConfigRecord, ConfigRecord],
    timeout: float,
) -> tuple[ArrayRecord, MetricRecord | None, MetricRecord | None]:
    """Return the server's weights after a round, and the clients' means of both messages.

    Messages and replies are freed early: with thousands of clients they take gigabytes.
    """
    messages = strategy.configure_train(server_round, arrays, configs[0], grid)
    replies = _handed_over(grid.send_and_receive(messages, timeout=timeout))
    del messages
    fused, trained = strategy.aggregate_train(server_round, replies)
    arrays = fused if fused is not None else arrays
    messages = strategy.configure_evaluate(server_round, arrays, configs[1], grid)
    replies = _handed_over(grid.send_and_receive(messages, timeout=timeout))
    del messages
    return arrays, trained, strategy.aggregate_evaluate(server_round, replies)


def has_first_message(recipe: Recipe) -> bool:
    """Return whether clients do anything before the fusion."""
    return bool(recipe.start or recipe.learn or recipe.share)


def to_learn(exchange: Exchange, config: ConfigRecord) -> list[Message]:
    """Return the messages that ask the participants to learn and share."""
    recipe = exchange.recipe
    if not has_first_message(recipe):
        return []
    names = list(dict.fromkeys(recipe.needs("start") + recipe.needs("learn")))
    if exchange.options.group_effect:
        config = ConfigRecord({**config, "group-effect": True})
    return exchange.messages(MessageType.TRAIN, exchange.report.participants, names, config)


def read_uploads(
    exchange: Exchange, replies: Iterable[Message]
) -> tuple[Uploads, Mapping[int, LearnFigures]]:
    """Return the sound uploads of the participants, and the figures in their replies.

    Raises
    ------
    RunFailedError
        If no upload is left.
    """
    sound: list[Upload] = []
    figures: dict[int, LearnFigures] = {}
    for client, content in exchange.contents(replies, "learn", exchange.report.participants):
        try:
            sound.append(exchange.read_upload(client, content))
            figures[client] = LearnFigures.of(content)
        except KnowledgeError as error:
            exchange.fail(client, "share", str(error))
    uploads = Uploads(exchange.without_outliers([u for u in sound if u.client in figures]))
    del sound  # stacking frees them one by one
    exchange.stop_unless(uploads, "learn")
    for upload in uploads:
        exchange.note_leakage(upload)
    return uploads, figures


def note_learning(
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
    losses = [figures[c].loss for c in clients]
    known = [loss for loss in losses if loss is not None]
    return MetricRecord({"loss": float(np.mean(known))}) if known else None


def asked_for(exchange: Exchange) -> list[str]:
    """Return the metrics that clients measure in the round: tables in the last round only."""
    last = exchange.report.round == exchange.last_round
    metrics = metrics_of(exchange.options.metrics)
    return [metric.wire for metric in metrics if last or not metric.facts.axes]


def to_absorb(exchange: Exchange, config: ConfigRecord) -> list[Message]:
    """Return the messages: participants absorb the fused knowledge, all clients evaluate."""
    taking_part = exchange.report.participants if exchange.recipe.absorbs else []
    others = sorted(set(exchange.report.clients).difference(taking_part))
    names = exchange.recipe.needs("absorb")
    if metrics := asked_for(exchange):
        config = ConfigRecord({**config, "metrics": metrics})
    absorb = ConfigRecord({**config, "absorb": True})
    idle = ConfigRecord({**config, "absorb": False})
    return exchange.messages(MessageType.EVALUATE, taking_part, names, absorb) + (
        exchange.messages(MessageType.EVALUATE, others, (), idle)
    )


def read_accuracies(exchange: Exchange, replies: Iterable[Message]) -> MetricRecord:
    """Return the means of the clients' accuracies and of their other metrics.

    Raises
    ------
    RunFailedError
        If no client has any.
    """
    report, metrics = exchange.report, asked_for(exchange)
    bounds, tables = measured_by(metrics), tabled_by(metrics)
    for client, content in exchange.contents(replies, "absorb", report.clients):
        try:
            figures = figures_in(content, bounds)
            report.tables[client] = tables_in(content, tables, exchange.num_classes)
        except KnowledgeError as error:
            exchange.fail(client, "evaluate", str(error))
        else:
            report.metrics[client] = figures
            exchange.acknowledge(client)
    exchange.stop_unless(list(report.metrics), "absorb and evaluate")
    means = MetricRecord()
    for name in bounds:
        values = [v for v in report.per_client(name) if v is not None]
        if values:
            means[name] = float(np.mean(values))
    return means


def _handed_over(replies: Iterable[Message]) -> Iterator[Message]:
    """Yield replies without keeping those that were yielded."""
    left = list(replies)[::-1]
    del replies
    while left:
        yield left.pop()
