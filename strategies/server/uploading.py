"""The uploads of a round as they arrive: decoded, checked one by one and against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from flwr.app import Message, MetricRecord, RecordDict

from fedkt import wire
from fedkt.codecs import uses_base
from fedkt.declared import check_content, check_packet, largest_size
from fedkt.decoded import Base
from fedkt.errors import KnowledgeError
from fedkt.evaluation.leakage import mean_prediction
from fedkt.knowledge import ANSWERS, Knowledge, Upload, Uploads
from fedkt.shares import Asked, Share
from fedkt.strategies.server.exchange import Exchange
from fedkt.strategies.server.forms import of_other_form
from fedkt.strategies.server.replies import LearnFigures
from fedkt.upload_check import Expected, check


def read_uploads(
    exchange: Exchange, replies: Iterable[Message]
) -> tuple[Uploads, Mapping[int, LearnFigures]]:
    """Return the sound uploads of the participants, and the figures in their replies."""
    sound: list[Upload] = []
    figures: dict[int, LearnFigures] = {}
    for client, content in exchange.contents(replies, "train", exchange.report.participants):
        try:
            sound.append(_read_upload(exchange, client, content))
            figures[client] = LearnFigures.of(content)
        except KnowledgeError as error:
            exchange.fail(client, "share", str(error))
    uploads = Uploads(_without_outliers(exchange, [u for u in sound if u.client in figures]))
    del sound  # stacking frees them one by one
    for upload in uploads:
        _note_leakage(exchange, upload)
    return uploads, figures


def _read_upload(exchange: Exchange, client: int, content: RecordDict) -> Upload:
    """Return one client's upload, decoded and checked.

    Raises
    ------
    KnowledgeError
        If the upload is not sound; the message names the reason.
    """
    packets, delivery = wire.extract(content), exchange.delivery
    knowledge: dict[str, Knowledge] = {}
    bases: dict[str, Base] = {}
    roster, round_ = exchange.roster, exchange.report.round
    exchange.report.traffic.up += sum(p.num_bytes for p in packets.values())
    check_content(content, [share.name for share in exchange.recipe.share])
    for share in exchange.recipe.share:
        if share.name not in packets:
            raise KnowledgeError(f"no knowledge called {share.name!r} in the reply")
        ids = partial(delivery.ids, share.name, known=exchange.latest.for_client(client))
        base = delivery.bases.of_server(client, share.name)
        codec = delivery.codec(share.name, "up")
        expected = _expected(exchange, share, client)
        open_bytes = exchange.options.bounds.open_bytes
        check_packet(packets[share.name], expected, codec, open_bytes)
        size = largest_size(expected, open_bytes)
        decoded = wire.decode(packets[share.name], ids, codec, round_, base, size)
        check(decoded, expected, roster.num_classes)
        knowledge[share.name] = decoded
        if uses_base(codec):
            bases[share.name] = wire.next_base(packets[share.name], decoded, codec, base)
    metrics, most = wire.record(content, "metrics", MetricRecord), exchange.options.bounds.examples
    examples = wire.scalar(metrics, "num-examples", 0, most)
    if examples is None:
        raise KnowledgeError("the reply does not say num-examples")
    delivery.bases.receive(client, bases)
    return Upload(client, int(examples), knowledge, roster[client].architecture)


def _expected(exchange: Exchange, share: Share, client: int) -> Expected:
    roster, known = exchange.roster, exchange.latest.for_client(client)
    asked = Asked(
        exchange.delivery.ids(share.name, exchange.report.round, known),
        roster.num_classes,
        roster.input_shape,
        exchange.shapes,
        known.get(share.name),
        roster[client].told,
    )
    expected = share.expected(asked)
    most = exchange.options.bounds.value
    largest = most if expected.largest is None else min(expected.largest, most)
    return replace(expected, largest=largest, partial=share.partial or expected.partial)


def _without_outliers(exchange: Exchange, uploads: Sequence[Upload]) -> list[Upload]:
    """Return the uploads that go with the others'; note the rest as failures."""
    grouped = {share.name for share in exchange.recipe.share if share.group}
    outliers = exchange.options.bounds.outliers(uploads) | of_other_form(uploads, grouped)
    for client, reason in outliers.items():
        exchange.fail(client, "share", reason)
    return [upload for upload in uploads if upload.client not in outliers]


def _note_leakage(exchange: Exchange, upload: Upload) -> None:
    """Note the mean of the client's answers, which the report shows as leakage."""
    answers = next((s.name for s in exchange.recipe.share if s.kind in ANSWERS), None)
    if answers is None:
        return
    knowledge = upload.knowledge[answers]
    if knowledge.absent < len(knowledge.values):
        mean = mean_prediction(knowledge, exchange.roster.num_classes)
        exchange.report.mean_predictions[upload.client] = mean
