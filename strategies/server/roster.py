"""The roster of a run: the clients behind a grid's nodes that fit the method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from fedkt.greeting import Facts, binding, differences
from fedkt.recipe import Recipe
from fedkt.text import foreign


@dataclass(frozen=True)
class Member:
    """A client and the facts of its greeting.

    Parameters
    ----------
    client, node : int
        The client's stable id, and the grid's id for it (which may differ from run to run).
    facts : Mapping
        Facts of its greeting; see :mod:`fedkt.greeting`.
    about, of_architecture : Mapping[str, str]
        What the parts of the recipe tell of it: those that speak about all clients, and those
        that speak about its architecture.
    """

    client: int
    node: int
    facts: Facts
    about: Mapping[str, str] = field(default_factory=dict)
    of_architecture: Mapping[str, str] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """Name and fingerprint of its model."""
        return cast(str, self.facts["architecture"])

    @property
    def told(self) -> Mapping[str, str]:
        """All that the parts of the recipe tell of it."""
        return {**self.about, **self.of_architecture}


@dataclass(frozen=True)
class LeftOut:
    """A node that takes no part in the run.

    Parameters
    ----------
    node : int
        The grid's id of the node.
    client : int, optional
        The client id in its greeting; None if another node has that id.
    reason : str
        Why it is left out.
    unfit : bool
        Whether its answer does not fit; else it failed or did not answer.
    owner : int, optional
        The node that has the client id which it claims; its claim may be good once that one left.
    """

    node: int
    client: int | None
    reason: str
    unfit: bool = True
    owner: int | None = None

    def __str__(self) -> str:
        name = f"node {self.node}" if self.client is None else f"client {self.client}"
        return f"{name}: {self.reason}"


class Roster(Mapping[int, Member]):
    """The clients of a run that have come so far, by client id, ascending.

    Parameters
    ----------
    members : Sequence[Member]
        The clients, at least one; their facts agree where the method needs it.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = {m.client: m for m in sorted(members, key=lambda m: m.client)}
        facts = members[0].facts
        self.num_classes = cast(int, facts["num-classes"])
        self.public_size = cast(int, facts["public-size"])
        shapes = Counter(member.facts["input-shape"] for member in self._members.values())
        self.input_shape = cast(tuple[int, ...], shapes.most_common(1)[0][0])

    def __getitem__(self, client: int) -> Member:
        return self._members[client]

    def __iter__(self) -> Iterator[int]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def joined_by(self, members: Sequence[Member]) -> Roster:
        """Return the roster with clients that come or come back; what all agree on stays."""
        grown = Roster([*{**self._members, **{m.client: m for m in members}}.values()])
        grown.input_shape = self.input_shape
        return grown

    @cached_property
    def about(self) -> Mapping[int, Facts]:
        """All that each client has told in its greeting, by name."""
        return {client: {**m.facts, **m.told} for client, m in self._members.items()}

    @property
    def clients(self) -> tuple[int, ...]:
        """All client ids, ascending."""
        return tuple(self._members)


def claimed(member: Member, owner: int) -> LeftOut:
    """Return a node, left out, that claims the id of another node's client."""
    reason = f"it says it is client {member.client}, as node {owner} does"
    return LeftOut(member.node, None, reason, owner=owner)


Told = Callable[[Member], tuple[Facts, Mapping[str, str]]]


def _of_all(recipe: Recipe) -> Told:
    """Return what all clients must tell alike."""
    return lambda member: (binding(member.facts, recipe), member.about)


def _of_alike(member: Member) -> tuple[Facts, Mapping[str, str]]:
    """Return what the clients of one architecture must tell alike."""
    return {}, member.of_architecture


def fitting(members: Iterable[Member], recipe: Recipe) -> tuple[list[Member], list[LeftOut]]:
    """Return the members that agree, each id once, and the others left out.

    The largest group of those that agree stays, and then of each architecture those that agree.
    """
    ordered = sorted(members, key=lambda m: (m.client, m.node))
    usual, left_out = _agreeing(ordered, _of_all(recipe))
    for architecture in dict.fromkeys(member.architecture for member in usual):
        alike = [member for member in usual if member.architecture == architecture]
        left_out += _agreeing(alike, _of_alike)[1]
    gone, kept = {node.node for node in left_out}, dict[int, Member]()
    for member in (member for member in usual if member.node not in gone):
        first = kept.setdefault(member.client, member)
        if first is not member:
            left_out.append(claimed(member, first.node))
    return list(kept.values()), left_out


def misfit(member: Member, members: Mapping[int, Member], recipe: Recipe) -> str:
    """Return the differences of a newcomer from the clients of a run, in a line; empty if none."""
    others = sorted(members.values(), key=lambda m: m.client == member.client)  # itself last
    some = next(iter(others), member)
    alike = next((m for m in others if m.architecture == member.architecture), member)
    lines = _difference(member, some, _of_all(recipe)), _difference(member, alike, _of_alike)
    return "; ".join(filter(None, lines))


def _agreeing(members: Sequence[Member], told: Told) -> tuple[list[Member], list[LeftOut]]:
    """Return the largest group of members that tell the same, and the others left out."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(repr([sorted(part.items()) for part in told(member)]), []).append(member)
    # Of equally large groups the first, which has the lowest id.
    usual = max(groups.values(), key=lambda group: len({m.client for m in group}), default=[])
    left_out = []
    for member in (m for group in groups.values() if group is not usual for m in group):
        left_out.append(LeftOut(member.node, member.client, _difference(member, usual[0], told)))
    return list(usual), left_out


def _difference(member: Member, other: Member, told: Told) -> str:
    """Return what a member tells otherwise than another, in a line; empty without any."""
    (facts, texts), (usual, usually) = told(member), told(other)
    return foreign(differences(facts, usual, texts, usually))
