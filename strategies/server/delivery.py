"""The way down: the fused knowledge that is due to clients, encoded once for all that get it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

from flwr.app import RecordDict
from torch import Tensor

from fedkt import wire
from fedkt.codecs import uses_base
from fedkt.decoded import Base
from fedkt.knowledge import Fused, Knowledge
from fedkt.recipe import Recipe
from fedkt.strategies.server.bases import Held
from fedkt.strategies.server.round import ServerOptions, Traffic

_Made = tuple[wire.Packet, Base | None]  # the second where a codec refers to it
Made = dict[tuple[str, int, int], _Made]  # by the identity of knowledge and base


class Delivery:
    """The latest fused knowledge, and the version of it that each client holds.

    Parameters
    ----------
    recipe : Recipe
        Recipe of the run.
    options : ServerOptions
        Options of the run.
    """

    def __init__(self, recipe: Recipe, options: ServerOptions) -> None:
        self._recipe, self._options = recipe, options
        self.public_size = 0  # of every client's public set, after the greeting
        self.latest = Fused()
        self.version = 0  # the round in which `latest` was fused; 0 is before the first
        self.bases = Held()
        self._holdings: dict[int, dict[str, int]] = {}  # client -> share name -> version
        self._sent: dict[int, dict[str, int]] = {}  # the same for the messages of this phase
        self._metered: dict[int, tuple[int, int]] = {}  # their bytes by unicast and broadcast

    def state_dict(self) -> dict[str, Any]:
        """Return the state after a finished round; see ``fedkt.snapshot`` for types."""
        return {
            "version": self.version,
            "held": {c: dict(h) for c, h in self._holdings.items()},
            "bases": self.bases.state_dict(),
            "fused": _by_reference(self.kept()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state."""
        self.version = state["version"]
        self._holdings = {c: dict(h) for c, h in state["held"].items()}
        self.bases.load_state_dict(state["bases"])
        self.latest = _of_references(state["fused"])

    def kept(self) -> Fused:
        """Return the fused knowledge that later rounds read."""
        keep = {*self._recipe.needs("start"), *self._recipe.needs("learn")}
        return Fused(
            {n: k for n, k in self.latest.shared.items() if n in keep},
            {
                client: {n: k for n, k in own.items() if n in keep}
                for client, own in self.latest.personal.items()
            },
        )

    def accept(self, fused: Fused, version: int) -> None:
        """Set the latest fused knowledge."""
        self.latest, self.version = fused, version

    def codec(self, name: str, way: Literal["up", "down"]) -> str:
        """Return the codecs of knowledge on its way."""
        return self._recipe.codec(name, way, self._options.codec)

    def ids(
        self, name: str, round_: int, known: Mapping[str, Knowledge] | None = None
    ) -> Tensor | None:
        """Return the ids of a share's rows in a round; see ``Recipe.ids``."""
        return self._recipe.ids(name, self.public_size, self._options.seed, round_, known)

    def attach(
        self,
        content: RecordDict,
        client: int,
        names: Iterable[str],
        made: Made,
        traffic: Traffic,
    ) -> None:
        """Put the named knowledge that a client does not hold yet into a message, and meter it.

        Parameters
        ----------
        content : RecordDict
            Content of the message.
        client : int
            The receiver.
        names : Iterable[str]
            Names of the knowledge.
        made : dict
            Packets of the phase, added to: grids recognise a broadcast by identity.
        traffic : Traffic
            Bytes of the round, added to.
        """
        due, holdings = self.latest.for_client(client), self._holdings.get(client, {})
        packets, bases, several = {}, {}, self.latest.of_several
        unicast = broadcast = 0
        for name in names:
            if name not in due or holdings.get(name) == self.version:
                continue
            knowledge, base = due[name], self.bases.of_client(client, name)
            key = name, id(knowledge), id(base)
            if key not in made:
                made[key] = self._encode(name, knowledge, base)
            packets[name], decoded = made[key]
            if decoded is not None:
                bases[name] = decoded
            if id(knowledge) in several:
                broadcast += packets[name].num_bytes
            else:
                unicast += packets[name].num_bytes
        traffic.down_unicast += unicast
        traffic.down_broadcast += broadcast
        self._metered[client] = unicast, broadcast
        self.bases.send(client, bases)
        self._sent[client] = dict.fromkeys(packets, self.version)
        wire.attach(content, packets)

    def take_back(self, client: int, traffic: Traffic) -> None:
        """Note that what was sent to a client last has not been delivered."""
        unicast, broadcast = self._metered.pop(client, (0, 0))
        traffic.down_unicast -= unicast
        traffic.down_broadcast -= broadcast
        self._sent.pop(client, None)

    def acknowledge(self, client: int) -> None:
        """Note that a client holds what was sent to it."""
        self._holdings.setdefault(client, {}).update(self._sent.get(client, {}))
        self.bases.acknowledge(client)

    def _encode(self, name: str, knowledge: Knowledge, base: Base | None) -> _Made:
        """Return knowledge as a packet, and as its receivers will hold it if the codec asks."""
        ids, codec = partial(self.ids, name), self.codec(name, "down")
        packet = wire.encode(knowledge, self.version, ids(self.version), codec, base)
        if not uses_base(codec):
            return packet, None
        decoded = wire.decode(packet, ids, codec, base=base)
        return packet, wire.next_base(packet, decoded, codec, base)


def _by_reference(fused: Fused) -> dict[str, Any]:
    """Return fused knowledge as a list of its objects, and the place of each client's in it.

    So the same object for several clients is the same after a resume.
    """
    gifts = [fused.shared, *fused.personal.values()]
    table = {id(knowledge): knowledge for gift in gifts for knowledge in gift.values()}
    places = {key: place for place, key in enumerate(table)}

    def referred(gift: Mapping[str, Knowledge]) -> dict[str, int]:
        return {name: places[id(knowledge)] for name, knowledge in gift.items()}

    personal = {client: referred(gift) for client, gift in fused.personal.items()}
    return {"objects": list(table.values()), "shared": referred(fused.shared), "personal": personal}


def _of_references(state: Mapping[str, Any]) -> Fused:
    """Return the fused knowledge that :func:`_by_reference` has written."""

    def gift(places: Mapping[str, int]) -> dict[str, Knowledge]:
        return {name: state["objects"][place] for name, place in places.items()}

    personal = {client: gift(places) for client, places in state["personal"].items()}
    return Fused(gift(state["shared"]), personal)
