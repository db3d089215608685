"""The greeting: the server asks nodes who they are and what they have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fedkt import __version__, wire
from fedkt.declared import check_content
from fedkt.errors import KnowledgeError
from fedkt.greeting import LARGEST_ID, TOLD, check_digest, read_client, read_facts, read_told
from fedkt.recipe import Recipe
from fedkt.recipe.json import FORMAT
from fedkt.strategies.server.roster import LeftOut, Member
from fedkt.text import foreign, last_line

LEFT = "left: its node is not connected"
NODE_UNAVAILABLE = 5  # the code of Flower's answer for a node that is gone

# What a client compares with its own before it reads the recipe.
VERSIONS: Mapping[str, str | int] = {"fedkt": __version__, "recipe-format": FORMAT}

Send = Callable[[list[Message]], Iterable[Message]]


@dataclass(frozen=True)
class Greeter:
    """The greeting of a round.

    Parameters
    ----------
    recipe : Recipe
        Recipe of the run.
    nodes : Mapping[int, int]
        The node of each client, as far as the options say.
    of_run : Mapping[str, str | int]
        The run's name, and the round that is next.
    send : callable
        From messages to the replies that come in time.
    learnt : Sequence[int]
        Clients that have learnt in this run, and so have a state of it.
    most_clients : int
        All ids are below.
    names : Mapping[int, str]
        The names of clients, as far as they are known.
    """

    recipe: Recipe
    nodes: Mapping[int, int]
    of_run: Mapping[str, str | int]
    send: Send
    learnt: Sequence[int] = ()
    most_clients: int = LARGEST_ID
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def round(self) -> int:
        """The round that is next."""
        return int(self.of_run["server-round"])

    def __call__(self, nodes: Sequence[int]) -> list[Member | LeftOut]:
        """Return the clients behind nodes, or why a node is left out, in the order of the nodes."""
        if not nodes:
            return []
        config = ConfigRecord({**self.of_run, **VERSIONS, "recipe": self.recipe.to_json()})
        if self.learnt:  # Flower's records hold no empty list
            config["learnt"] = list(self.learnt)
        content = RecordDict({"config": config})
        messages = [Message(content, node, MessageType.QUERY, group_id="hello") for node in nodes]
        replies = _by_receiver(messages, self.send(messages))
        return [self._introduced(node, replies.get(node)) for node in nodes]

    def _introduced(self, node: int, reply: Message | None) -> Member | LeftOut:
        """Return the client of a reply, or the node with the reason to leave it out."""
        if reply is None:
            return LeftOut(node, None, "no reply in time", unfit=False)
        if reply.has_error():
            return LeftOut(node, None, why(reply), unfit=False)
        about = wire.record(reply.content, "config", ConfigRecord) if reply.has_content() else None
        if about is None:
            return LeftOut(node, None, "its greeting has no config record")
        client = None
        try:
            client = read_client(about)
            check_content(reply.content)
            if client >= self.most_clients:
                line = f"it says it is client {client}; ids are below {self.most_clients}"
                return LeftOut(node, None, line)
            if self.nodes and self.nodes.get(client) != node:
                return LeftOut(node, None, self._other(node, client))
            if "refusal" in about:
                return LeftOut(node, client, foreign(about["refusal"]) or "no reason given")
            texts = [read_told(about, group) for group in TOLD]
            member = Member(client, node, read_facts(about), *texts)
            check_digest(about, self.recipe)
            return member
        except KnowledgeError as error:
            return LeftOut(node, client, foreign(error))

    def _other(self, node: int, client: int) -> str:
        """Return why a node is not the client that it says it is."""
        listed = {owner: c for c, owner in self.nodes.items()}
        who = f"it is {self._named(listed[node])} and" if node in listed else "it is not listed and"
        if client not in self.nodes:
            return f"{who} says it is client {client}, whom the list of clients does not have"
        return f"{who} says it is {self._named(client)} (partition-id)"

    def _named(self, client: int) -> str:
        name = self.names.get(client)
        return f"client {client}" + (f" ({name})" if name else "")


def why(reply: Message) -> str:
    """Return the reason in a reply that is an error, in one line."""
    return LEFT if reply.error.code == NODE_UNAVAILABLE else last_line(reply.error.reason)


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
