"""Who is there: the clients behind a grid's nodes, and whether they fit the method."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedkt.errors import ConfigError, RunFailedError
from fedkt.recipe import Recipe
from fedkt.strategies.rounds import ServerOptions
from fedkt.text import last_line

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Member:
    """One client, as it described itself.

    Parameters
    ----------
    client, node : int
        Its own stable id, and the grid's id for it (which may differ from run to run).
    architecture : str
        Name and fingerprint of its model.
    num_classes, public_size : int
        What its model answers and how many public samples it holds.
    public_digest : str
        Hash of its public inputs.
    input_shape : tuple[int, ...]
        The shape of its samples; empty unless the recipe needs images.
    """

    client: int
    node: int
    architecture: str
    num_classes: int
    public_size: int
    public_digest: str
    input_shape: tuple[int, ...] = ()


class Roster(Mapping[int, Member]):
    """The clients of a run by client id, ascending; it does not change during a run."""

    def __init__(self, members: list[Member]) -> None:
        self._members = {m.client: m for m in sorted(members, key=lambda m: m.client)}
        self._by_node = {m.node: m for m in members}
        first = members[0]
        self.num_classes, self.public_size = first.num_classes, first.public_size
        self.input_shape = first.input_shape

    def __getitem__(self, client: int) -> Member:
        return self._members[client]

    def __iter__(self) -> Iterator[int]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    @property
    def clients(self) -> tuple[int, ...]:
        """All client ids, ascending."""
        return tuple(self._members)

    def client_of(self, node: int) -> int | None:
        """Return the client behind a node, if it is one of ours."""
        member = self._by_node.get(node)
        return None if member is None else member.client


def meet(grid: Grid, recipe: Recipe, method: str, options: ServerOptions, timeout: float) -> Roster:
    """Wait for the clients, ask each who it is, and check that all fit the method.

    Raises
    ------
    RunFailedError
        If too few clients come or one does not answer.
    ConfigError
        If a client refuses the recipe, or the clients do not fit together.
    """
    nodes = _wait_for_nodes(grid, options)
    content = RecordDict({"config": ConfigRecord({"recipe": recipe.to_json()})})
    messages = [Message(content, node, MessageType.QUERY, group_id="hello") for node in nodes]
    replies = list(grid.send_and_receive(messages, timeout=timeout))
    members, refusals = [], []
    for reply in replies:
        if reply.has_error():
            raise RunFailedError(f"A client cannot take part: {last_line(reply.error.reason)}")
        about = reply.content["config"]
        members.append(_member(reply.metadata.src_node_id, cast(ConfigRecord, about)))
        if "refusal" in about:
            refusals.append((members[-1].client, str(about["refusal"])))
    if len(replies) < len(nodes):
        raise RunFailedError(f"{len(nodes) - len(replies)} of {len(nodes)} clients did not answer.")
    if refusals:
        client, reason = min(refusals)
        raise ConfigError(f"{method} cannot run on client {client}: {reason}")
    _check_together(members, recipe, method)
    return Roster(members)


def _wait_for_nodes(grid: Grid, options: ServerOptions) -> list[int]:
    deadline = time.monotonic() + options.wait
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= max(options.clients, 1):
            return nodes
        if time.monotonic() > deadline:
            raise RunFailedError(
                f"Only {len(nodes)} of {max(options.clients, 1)} clients came within "
                f"{options.wait:g} s."
            )
        time.sleep(POLL_SECONDS)


def _member(node: int, about: ConfigRecord) -> Member:
    return Member(
        client=int(cast(int, about["client"])),
        node=node,
        architecture=str(about["architecture"]),
        num_classes=int(cast(int, about["num-classes"])),
        public_size=int(cast(int, about["public-size"])),
        public_digest=str(about["public-digest"]),
        input_shape=tuple(int(n) for n in cast(list[int], about.get("input-shape", []))),
    )


def _check_together(members: list[Member], recipe: Recipe, method: str) -> None:
    ids = [m.client for m in members]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ConfigError(f"Two nodes say they are client {twice}; client ids must be unique.")
    if len({m.num_classes for m in members}) > 1:
        raise ConfigError("The clients' models do not answer the same number of classes.")
    if recipe.needs_public:
        if any(m.public_size == 0 for m in members):
            raise ConfigError(f"{method} needs a public set and a client has none.")
        if len({m.public_digest for m in members}) > 1:
            raise ConfigError("The clients do not hold the same public set (contents differ).")
    shapes = {m.input_shape for m in members}
    if recipe.needs_images and (len(shapes) > 1 or len(min(shapes)) != 3):
        raise ConfigError(f"{method} shares styles; the clients' images must have one shape.")
    architectures = sorted({m.architecture.partition("#")[0] for m in members})
    if recipe.needs_one_architecture and len({m.architecture for m in members}) > 1:
        raise ConfigError(
            f"{method} exchanges weights and needs one architecture; "
            f"the clients have {', '.join(architectures)}."
        )
