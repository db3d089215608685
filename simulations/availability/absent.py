"""Clients that drop out or answer late, and the seconds that a round would take.

Rounds stay synchronous: the server waits for the slowest client in time. A client that drops out
does not get the round's first message; one that is late has trained, and its reply is dropped
and its bytes are not counted. Training alone misses the same rounds as the method beside it.
Measuring and absorbing reach every client that is asked. Everything is drawn by (seed, purpose,
round, client), so a run resumes, and is the same on every engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import numpy as np
from flwr.app import ConfigRecord, Error, Message, MessageType
from flwr.serverapp import Grid

from fedkt import wire
from fedkt.rng import numpy_rng
from fedkt.simulations.engines import _flwr_shim as shim
from fedkt.simulations.engines.grid import Before
from fedkt.simulations.experiment.config import AvailabilitySection
from fedkt.strategies.server.exchange import LATE, UNDELIVERED

ABSENT = 2  # the code of a reply that never came


class Availability:
    """The availability of the clients of one run.

    Parameters
    ----------
    options : AvailabilitySection
        Rates, distributions and the deadline.
    seed : int
        Seed of the run.
    flops : callable, optional
        From a client's id to the FLOPs before its upload and after the fusion, in a round; None
        where nobody waits for an upload: then nobody is late, and no time is measured.
    """

    def __init__(
        self,
        options: AvailabilitySection,
        seed: int,
        flops: Callable[[int], tuple[float, float]] | None,
    ) -> None:
        self.options, self._seed, self._flops = options, seed, flops
        self._seconds: dict[int, dict[str, float]] = {}  # round -> message type -> the slowest

    def drops_out(self, client: int, round_: int) -> bool:
        """Return whether a client drops out of a round."""
        draw = numpy_rng(self._seed, "drop-out", round_, client).random()
        return bool(draw < self.options.dropout)

    def seconds(self, client: int, phase: str, num_bytes: int, idle: bool = False) -> float:
        """Return the time of a client's work in a phase: FLOPs / speed + bytes / bandwidth.

        One that is ``idle`` takes no part in the round: it measures and does not train.
        """
        before, after = (0.0, 0.0) if self._flops is None else self._flops(client)
        flops = 0.0 if idle else before if phase == MessageType.TRAIN else after
        speed = self.options.flops_per_second * self._factor(client, "speed")
        rate = self.options.bytes_per_second * self._factor(client, "bandwidth")
        return flops / speed + num_bytes / rate

    def note(self, round_: int, phase: str, seconds: float) -> None:
        """Note that the server has waited for a client so long."""
        slowest = self._seconds.setdefault(round_, {})
        slowest[phase] = max(slowest.get(phase, 0.0), seconds)

    @property
    def waits(self) -> bool:
        """Whether anybody waits for the clients, so that time counts."""
        return self._flops is not None

    def round_seconds(self, round_: int) -> float | None:
        """Return the simulated seconds of a round: of its messages, the slowest client each."""
        if not self.waits:
            return None
        return sum(self._seconds.pop(round_, {}).values())

    def _factor(self, client: int, purpose: str) -> float:
        """Return a client's factor, lognormal with median 1, the same in all rounds."""
        draw = numpy_rng(self._seed, f"availability-{purpose}", 0, client).standard_normal()
        return float(np.exp(self.options.spread * draw))


class UnreliableGrid(Before):
    """A grid in front of which clients drop out and are late.

    Parameters
    ----------
    grid : Grid
        The grid that reaches every client.
    availability : Availability
        Who drops out, and the time that things take.
    """

    def __init__(self, grid: Grid, availability: Availability) -> None:
        super().__init__(grid)
        self._availability = availability
        self._client_of: dict[int, int] = {}  # node -> client, from the greeting

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Deliver messages; return the replies, and errors of clients that are absent or late."""
        sent, gone, down = [], [], dict[int, int]()
        for message in messages:
            node = message.metadata.dst_node_id
            down[node] = _bytes(message)
            if self._drops_out(message):
                gone.append(self._absent(message, "dropped out (availability.dropout)"))
            else:
                sent.append(message)
        by_node = {message.metadata.dst_node_id: message for message in sent}
        replies = self._grid.send_and_receive(sent, timeout=timeout) if sent else []
        return [*gone, *(self._timed(r, by_node, down) for r in replies)]

    def _drops_out(self, message: Message) -> bool:
        client = self._client_of.get(message.metadata.dst_node_id)
        if client is None or message.metadata.message_type != MessageType.TRAIN:
            return False
        return self._availability.drops_out(client, _round(message))

    def _absent(self, message: Message, reason: str) -> Message:
        # It is never delivered, so no grid has given it the id that the reply refers to.
        shim.number(message, f"{UNDELIVERED}{message.metadata.dst_node_id}-{_round(message)}")
        return Message(Error(ABSENT, reason), reply_to=message)

    def _timed(self, reply: Message, sent: dict[int, Message], down: dict[int, int]) -> Message:
        node, phase = reply.metadata.src_node_id, reply.metadata.message_type
        if reply.has_content() and phase == MessageType.QUERY:
            about = cast(ConfigRecord, reply.content["config"])
            self._client_of[node] = int(cast(int, about["client"]))
        client, message = self._client_of.get(node), sent.get(node)
        if client is None or message is None or not reply.has_content():
            return reply
        if not self._availability.waits or phase not in (MessageType.TRAIN, MessageType.EVALUATE):
            return reply
        round_, limit = _round(message), self._availability.options.deadline
        idle, num_bytes = _idle(message), down[node] + _bytes(reply)
        seconds = self._availability.seconds(client, phase, num_bytes, idle)
        if phase == MessageType.TRAIN and limit and seconds > limit:
            self._availability.note(round_, phase, limit)
            reason = f"late: {seconds:.3g} s, and availability.deadline is {limit:g} s"
            shim.number(message, f"{LATE}{node}-{round_}")
            return Message(Error(ABSENT, reason), reply_to=message)
        self._availability.note(round_, phase, seconds)
        return reply


def _round(message: Message) -> int:
    config = cast(ConfigRecord, message.content["config"])
    return int(cast(int, config["server-round"]))


def _idle(message: Message) -> bool:
    """Return whether a message only asks a client to measure."""
    return cast(ConfigRecord, message.content["config"]).get("absorb") is False


def _bytes(message: Message) -> int:
    """Return the bytes of the knowledge in a message, as the server meters them."""
    if not message.has_content():
        return 0
    return sum(packet.num_bytes for packet in wire.extract(message.content).values())
