"""Grids that measure, or deliver otherwise than a grid should."""

from __future__ import annotations

import operator
import random
from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import Message

from fedkt.simulations.engines.grid import InProcessGrid


class Meter(InProcessGrid):
    """Weighs the arrays in every message, by (client, round)."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.up: dict[tuple[int, int], int] = {}
        self.down: dict[tuple[int, int], int] = {}
        self.round = 0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Return the replies; meter what they and the messages carry."""
        messages = list(messages)
        for message in messages:
            config = message.content.config_records["config"]
            self.round = int(str(config.get("server-round", 0)))
            self._weigh(self.down, self.client_of(message), message)
        replies = super().send_and_receive(messages, timeout=timeout)
        for reply in replies:
            client = reply.metadata.src_node_id - messages[0].metadata.dst_node_id
            client += self.client_of(messages[0])
            self._weigh(self.up, client, reply)
        return replies

    def _weigh(self, scale: dict[tuple[int, int], int], client: int, message: Message) -> None:
        arrays = [a for r in message.content.array_records.values() for a in r.values()]
        place = client, self.round
        scale[place] = scale.get(place, 0) + sum(a.numpy().nbytes for a in arrays)


class Disorderly(InProcessGrid):
    """Delivers messages and returns replies in disorder: none is where its client's turn is."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._random = random.Random(0)

    def _handle(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        replies = super()._handle(self._deranged(messages), timeout)
        return self._deranged(sorted(replies, key=lambda r: r.metadata.src_node_id))

    def _deranged(self, messages: Sequence[Message]) -> list[Message]:
        shuffled = list(messages)
        while len(messages) > 1 and any(map(operator.is_, shuffled, messages)):
            self._random.shuffle(shuffled)
        return shuffled


class Alone(InProcessGrid):
    """Loses everything but the messages of one client on the way back from learning."""

    kept = 0

    @classmethod
    def but(cls, client: int) -> type[Alone]:
        """Return the grid that keeps this client's messages."""
        return type("AloneWith", (cls,), {"kept": client})

    def _handle(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        replies = super()._handle(messages, timeout)
        if messages[0].metadata.message_type != "train":
            return replies
        node = self.get_node_ids()[self.kept]
        return [r for r in replies if r.metadata.src_node_id == node]
