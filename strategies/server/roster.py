"""The roster of a run: the clients behind a grid's nodes that fit the method."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedkt import __version__, wire
from fedkt.declared import check_content
from fedkt.errors import ConfigError, FedktError, KnowledgeError, RunFailedError
from fedkt.greeting import (
    TOLD,
    Facts,
    binding,
    check_digest,
    differences,
    read_client,
    read_facts,
    read_told,
)
from fedkt.recipe import Recipe
from fedkt.recipe.json import FORMAT
from fedkt.strategies.server.round import ServerOptions
from fedkt.text import foreign, last_line

logger = logging.getLogger("fedkt")

POLL_SECONDS = 0.05
NAMED = 3  # clients that an error names


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
    """

    node: int
    client: int | None
    reason: str
    unfit: bool = True

    def __str__(self) -> str:
        name = f"node {self.node}" if self.client is None else f"client {self.client}"
        return f"{name}: {self.reason}"


class Roster(Mapping[int, Member]):
    """The clients of a run by client id, ascending; it does not change during a run.

    Parameters
    ----------
    members : Sequence[Member]
        The clients, at least one; their facts agree where the method needs it.
    left_out : Sequence[LeftOut]
        Nodes that came and take no part.
    """

    def __init__(self, members: Sequence[Member], left_out: Sequence[LeftOut] = ()) -> None:
        self._members = {m.client: m for m in sorted(members, key=lambda m: m.client)}
        self.left_out = tuple(left_out)
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

    @cached_property
    def about(self) -> Mapping[int, Facts]:
        """All that each client has told in its greeting, by name."""
        return {client: {**m.facts, **m.told} for client, m in self._members.items()}

    @property
    def clients(self) -> tuple[int, ...]:
        """All client ids, ascending."""
        return tuple(self._members)


# What a client compares with its own before it reads the recipe.
VERSIONS: Mapping[str, str | int] = {"fedkt": __version__, "recipe-format": FORMAT}


def meet(
    grid: Grid,
    recipe: Recipe,
    method: str,
    options: ServerOptions,
    timeout: float,
    of_run: Mapping[str, str | int],
) -> Roster:
    """Wait for the clients, greet them, and return the roster of those that fit.

    ``of_run`` goes with the greeting: the run's name and the round that is next.

    Where clients differ in facts that must agree, the largest group of equal clients stays; of
    equally large groups the one with the lowest id.

    Raises
    ------
    RunFailedError
        If too few clients come, answer and fit (``options.quorum``).
    ConfigError
        If too few are left because clients do not fit the method or each other.
    """
    nodes = _wait_for_nodes(grid, options)
    config = ConfigRecord({**of_run, **VERSIONS, "recipe": recipe.to_json()})
    content = RecordDict({"config": config})
    messages = [Message(content, node, MessageType.QUERY, group_id="hello") for node in nodes]
    replies = _by_receiver(messages, grid.send_and_receive(messages, timeout=timeout))
    came: list[Member] = []
    left_out: list[LeftOut] = []
    for node in nodes:
        answer = _introduced(node, replies.get(node), recipe)
        if isinstance(answer, Member):
            came.append(answer)
        else:
            left_out.append(answer)
    members, unfit = _fitting(came, recipe)
    left_out += unfit
    taken = {member.client for member in members}
    left_out = sorted(
        (replace(gone, client=None) if gone.client in taken else gone for gone in left_out),
        key=lambda gone: gone.node,
    )
    if len(members) < options.needed(max(options.clients, len(nodes))):
        raise _too_few(len(members), len(nodes), left_out, method, options)
    for gone in left_out:
        logger.warning("left out of %s: %s", method, gone)
    return Roster(members, left_out)


def _wait_for_nodes(grid: Grid, options: ServerOptions) -> list[int]:
    deadline, wanted = time.monotonic() + options.wait, max(options.clients, 1)
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= wanted:
            return nodes
        if time.monotonic() > deadline:
            text = f"Only {len(nodes)} of {wanted} clients came within {options.wait:g} s."
            if len(nodes) < options.needed(wanted):
                raise RunFailedError(text)
            logger.warning(text)
            return nodes
        time.sleep(POLL_SECONDS)


def _by_receiver(messages: Iterable[Message], replies: Iterable[Message]) -> dict[int, Message]:
    """Return the first reply to each message by the node that the message went to.

    The source in a reply does not count: Flower itself answers for a node that is gone.
    """
    receivers = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
    first: dict[int, Message] = {}
    for reply in replies:
        node = receivers.get(reply.metadata.reply_to_message_id)
        if node is not None:
            first.setdefault(node, reply)
    return first


def _introduced(node: int, reply: Message | None, recipe: Recipe) -> Member | LeftOut:
    """Return the client of a reply to the greeting, or the node with the reason to leave it out."""
    if reply is None:
        return LeftOut(node, None, "no reply in time", unfit=False)
    if reply.has_error():
        return LeftOut(node, None, last_line(reply.error.reason), unfit=False)
    about = wire.record(reply.content, "config", ConfigRecord) if reply.has_content() else None
    if about is None:
        return LeftOut(node, None, "its greeting has no config record")
    client = None
    try:
        client = read_client(about)
        check_content(reply.content)
        if "refusal" in about:
            return LeftOut(node, client, foreign(about["refusal"]) or "no reason given")
        texts = [read_told(about, group) for group in TOLD]
        member = Member(client, node, read_facts(about), *texts)
        check_digest(about, recipe)
        return member
    except KnowledgeError as error:
        return LeftOut(node, client, foreign(error))


def _fitting(members: Iterable[Member], recipe: Recipe) -> tuple[list[Member], list[LeftOut]]:
    """Return the members that agree, each id once, and the others left out.

    The largest group of those that agree stays, and then of each architecture those that agree.
    """
    ordered = sorted(members, key=lambda m: (m.client, m.node))
    usual, left_out = _agreeing(ordered, lambda m: (binding(m.facts, recipe), m.about))
    for architecture in dict.fromkeys(member.architecture for member in usual):
        alike = [member for member in usual if member.architecture == architecture]
        left_out += _agreeing(alike, lambda m: ({}, m.of_architecture))[1]
    gone, kept = {node.node for node in left_out}, dict[int, Member]()
    for member in (member for member in usual if member.node not in gone):
        first = kept.setdefault(member.client, member)
        if first is not member:
            reason = f"it says it is client {member.client}, as node {first.node} does"
            left_out.append(LeftOut(member.node, None, reason))
    return list(kept.values()), left_out


def _agreeing(
    members: Sequence[Member], told: Callable[[Member], tuple[Facts, Mapping[str, str]]]
) -> tuple[list[Member], list[LeftOut]]:
    """Return the largest group of members that tell the same, and the others left out."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(repr([sorted(part.items()) for part in told(member)]), []).append(member)
    # Of equally large groups the first, which has the lowest id.
    usual = max(groups.values(), key=lambda group: len({m.client for m in group}), default=[])
    left_out = []
    for member in (m for group in groups.values() if group is not usual for m in group):
        (facts, texts), (usual_facts, usually) = told(member), told(usual[0])
        reason = foreign(differences(facts, usual_facts, texts, usually))
        left_out.append(LeftOut(member.node, member.client, reason))
    return list(usual), left_out


def _too_few(
    members: int, nodes: int, left_out: Sequence[LeftOut], method: str, options: ServerOptions
) -> FedktError:
    """Return the error of a run that cannot start; a ConfigError if a client does not fit."""
    text = f"{method} cannot start"
    if left_out:
        text = f"{method} cannot run on {'; '.join(map(str, left_out[:NAMED]))}"
    if len(left_out) > NAMED:
        text += f"; and on {len(left_out) - NAMED} more"
    if options.quorum != "strict":
        expected = max(options.clients, nodes)
        needed = options.needed(expected)
        text += f"; {members} of {expected} clients are left and {needed} are needed"
    unfit = any(node.unfit for node in left_out)
    return ConfigError(f"{text}.") if unfit else RunFailedError(f"{text}.")
