"""A recorded run, replayed with one reply changed; every message goes through Flower's bytes.

What the clients replied is recorded once. A replay gives the same replies to a new strategy object,
but for what a test changes, so that a case takes milliseconds. What the server knows after it, and
every byte that it sends, is compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from flwr.app import Array, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedkt.simulations.engines import _flwr_shim as shim
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.runs.plan import Plan
from fedkt.testing.kit import Method, Outcome, difference, federate, leaves, plan_for

CLIENTS, ODD, ROUNDS, STRUCK = 4, 2, 3, 2
Place = tuple[int, str, int]  # round, type of message, client
Change = Callable[[RecordDict], RecordDict | None]


def through_bytes(message: Message) -> Message:
    """Return a message as it arrives over a network: as Flower's objects, each in bytes by its id.

    Equal objects are sent once, and arrays are cut into chunks.
    """
    objects = get_all_nested_objects(message)
    contents = {name: one.deflate() for name, one in objects.items()}
    arrived = inflate_object_from_contents(message.object_id, contents)
    assert isinstance(arrived, Message)
    shim.number(arrived, message.metadata.message_id)
    return arrived


def plan(method: Method, **run: Any) -> Plan:
    return plan_for(method, clients=CLIENTS, rounds=ROUNDS, batch=64, **run)


class Recording(InProcessGrid):
    """Keeps what the clients replied."""

    kept: ClassVar[dict[Place, RecordDict]]

    def _handle(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        replies = super()._handle([through_bytes(m) for m in messages], timeout)
        for message, reply in zip(messages, replies, strict=True):
            self.kept[_place(self, message)] = reply.content
        return replies


class Replaying(InProcessGrid):
    """Gives the recorded replies, one of them changed; keeps what is sent."""

    recorded: ClassVar[dict[Place, RecordDict]]
    changes: ClassVar[dict[Place, Change]]
    sent: ClassVar[list[Any]]

    def _handle(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        replies = []
        for message in messages:
            place = _place(self, message)
            self.sent.append((place, leaves(_plain(through_bytes(message).content))))
            content: RecordDict | None = _copy(self.recorded[place])
            if place in self.changes:
                assert content is not None
                content = self.changes[place](content)
            if content is not None:
                replies.append(through_bytes(Message(content, reply_to=message)))
        return replies


@dataclass
class Replay:
    """What came out of a replay."""

    outcome: Outcome
    sent: list[Any]
    fate: list[tuple[int, int, str]] = field(init=False)  # round, client, reason

    def __post_init__(self) -> None:
        self.fate = [
            (r.round, f.client, f.reason) for r in self.outcome.reports for f in r.failures
        ]

    @property
    def known(self) -> dict[str, Any]:
        """All that the server knows and has sent, but for what a failure is called.

        The bytes that came up are counted as they came, rubbish too.
        """
        assert self.outcome.strategy is not None
        rows = []
        for row in self.outcome.rows:
            kept = {k: v for k, v in row.items() if k not in ("failures", "bytes_up", "traffic")}
            down = {k: v for k, v in row["traffic"].items() if "up" not in k}
            rows.append(
                {**kept, "down": down, "failing": sorted(f["client"] for f in row["failures"])}
            )
        return {
            "rows": rows,
            "sent": self.sent,
            "strategy": self.outcome.strategy.state_dict(),
            "fused": {n: (f.shared, f.personal) for n, f in self.outcome.fused.items()},
        }


@lru_cache
def recorded(method: Method) -> dict[Place, RecordDict]:
    """Return the clients' replies of an undisturbed run."""
    grid = type("RecordingOne", (Recording,), {"kept": {}})
    federate(plan(method), grid=grid)
    kept: dict[Place, RecordDict] = grid.kept
    return kept


def replay(method: Method, changes: Mapping[Place, Change], **run: Any) -> Replay:
    """Run a new strategy object on the recorded replies, but for the changes.

    ``run`` is the experiment's section of that name.
    """
    members = {"recorded": recorded(method), "changes": changes, "sent": []}
    grid = type("ReplayingOne", (Replaying,), members)
    outcome = federate(plan(method, **run), grid=grid)
    return Replay(outcome, grid.sent)


@lru_cache
def silent(method: Method, kind: str, *clients: int) -> Replay:
    """Return the replay in which clients do not reply to one message; by default the odd one."""
    return replay(method, {(STRUCK, kind, c): lambda content: None for c in clients or (ODD,)})


def apart(one: Replay, other: Replay) -> str | None:
    """Say where two replays differ in a single bit; None if nowhere."""
    return difference(one.known, other.known)


def _place(grid: InProcessGrid, message: Message) -> Place:
    config = message.content.config_records["config"]
    kind = message.metadata.message_type
    return int(config.get("server-round", 0)), kind, grid.client_of(message)


def _copy(content: RecordDict) -> RecordDict:
    """Return a copy whose records may be replaced, and changed."""
    return RecordDict({name: type(record)(dict(record)) for name, record in content.items()})


def _plain(content: RecordDict) -> dict[str, Any]:
    """Return all that a message holds, of arrays the type, the shape and a digest of the bytes."""

    def plain(value: Any) -> Any:
        if isinstance(value, Array):
            return value.dtype, value.shape, hashlib.sha256(value.data).hexdigest()
        return value

    return {n: {key: plain(v) for key, v in record.items()} for n, record in content.items()}
