"""What either side has decoded last, for codecs that refer to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedkt.decoded import Base

Bases = dict[int, dict[str, Base]]  # by client and share


class Held:
    """What the clients and the server have decoded last, by client and share.

    A client's is kept from its reply on, which says that it has handled the message. After any
    failure of a client the server cannot know what it holds, and sends without a base. The server's
    own is named in the next message to the client. One object stands for all clients that hold the
    same.
    """

    def __init__(self) -> None:
        self._down: Bases = {}
        self._sent: Bases = {}
        self._up: Bases = {}

    def of_client(self, client: int, name: str) -> Base | None:
        """Return what a client holds."""
        return self._down.get(client, {}).get(name)

    def of_server(self, client: int, name: str) -> Base | None:
        """Return what the server holds of a client."""
        return self._up.get(client, {}).get(name)

    def acknowledgement(self, client: int) -> dict[str, int]:
        """Return the rounds of what the server holds of a client, by share."""
        return {name: base.round for name, base in self._up.get(client, {}).items()}

    def send(self, client: int, bases: Mapping[str, Base]) -> None:
        """Note what a client will hold once it has handled the message."""
        self._sent[client] = dict(bases)

    def acknowledge(self, client: int) -> None:
        """Note that a client has handled its message."""
        if sent := self._sent.pop(client, {}):
            self._down.setdefault(client, {}).update(sent)

    def forget(self, client: int) -> None:
        """Note that nobody knows what a client holds."""
        self._sent.pop(client, None)
        self._down.pop(client, None)

    def receive(self, client: int, bases: Mapping[str, Base]) -> None:
        """Note what the server has decoded of a client."""
        if bases:
            self._up.setdefault(client, {}).update(bases)

    def state_dict(self) -> dict[str, Any]:
        """Return the state; see ``fedkt.snapshot`` for types."""
        table: dict[int, Base] = {}  # an object that many clients hold is saved once
        for of_client in (*self._down.values(), *self._up.values()):
            table.update({id(base): base for base in of_client.values()})
        places = {key: place for place, key in enumerate(table)}
        return {
            "bases": [list(base.content) for base in table.values()],
            **{
                way: {c: {n: places[id(b)] for n, b in of.items()} for c, of in bases.items()}
                for way, bases in (("down", self._down), ("up", self._up))
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state."""
        table = [Base(*base) for base in state["bases"]]
        self._sent = {}
        self._down, self._up = (
            {c: {n: table[place] for n, place in of.items()} for c, of in state[way].items()}
            for way in ("down", "up")
        )
