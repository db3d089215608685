"""Malicious clients: they train honestly and upload lies.

An :class:`AttackedGrid` stands between a strategy and any grid, and replaces the uploads of the
first clients on their way to the server. Neither the server nor any client knows of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import torch
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedkt import registry, wire
from fedkt.answers import logits_of, of_kind, probabilities_of, torch_softmax
from fedkt.codecs import uses_base
from fedkt.errors import ConfigError, FedktError, KnowledgeError, RunFailedError
from fedkt.knowledge import ANSWERS, Knowledge
from fedkt.options import given_options, hyper_parameters, plain_defaults
from fedkt.simulations.attacks import Attack, View
from fedkt.simulations.attacks.confident import confident
from fedkt.simulations.engines.grid import Before
from fedkt.simulations.experiment.config import AttackSection
from fedkt.strategies import KnowledgeStrategy
from fedkt.text import one_line
from fedkt.upload_check import Expected, check


def make_attack(section: AttackSection, num_classes: int) -> Attack:
    """Return the attack of an ``[attack]`` section, tried once.

    Parameters
    ----------
    section : AttackSection
        Kind and options.
    num_classes : int
        C.

    Returns
    -------
    callable
        From a :class:`View` to logits, or None.

    Raises
    ------
    ConfigError
        For an unknown attack or option, or one that does not fit the number of classes.
    """
    function = _function(section.kind)
    options = given_options("attack", section.kind, section.options, function, skip=1)
    attack: Attack = partial(function, **options)
    trial = torch.eye(num_classes)
    pair = torch.stack([trial, -trial])
    view = View(trial, pair, pair, trial, torch.arange(num_classes), None, 0, 1, 0)
    try:
        _lie(attack, view)
    except Exception as error:  # the attack may be a user's own
        raise ConfigError(f"attack {section.kind}: {_reason(error)}.") from error
    return attack


def resolved_attack(section: AttackSection) -> dict[str, Any]:
    """Return an ``[attack]`` section with the defaults of all options filled in."""
    defaults = plain_defaults(_function(section.kind))
    return {"kind": section.kind, "clients": section.clients, **defaults, **section.options}


def _function(kind: str) -> Attack:
    function = registry.lookup("attacks", kind)
    if not callable(function) or not hyper_parameters(function):
        raise ConfigError(f"{kind} is not an attack (a function of a View).")
    return cast(Attack, function)


class Liars:
    """The malicious clients of a run, and their state between rounds.

    Parameters
    ----------
    section : AttackSection
        Number of liars, and their attack.
    num_classes : int
        C.
    strategy : KnowledgeStrategy
        Strategy of the run, with its options. Without shares there is nothing to replace.

    Attributes
    ----------
    clients : frozenset[int]
        Ids of the liars.
    silent : frozenset[int]
        Liars whose attack uploads nothing in the current round.

    Raises
    ------
    ConfigError
        If the clients share anything but answers on the public set, or all of them lie.
    """

    def __init__(
        self, section: AttackSection, num_classes: int, strategy: KnowledgeStrategy
    ) -> None:
        recipe, options = strategy.settled_recipe, strategy.options
        if section.clients >= options.clients:
            raise ConfigError(
                f"attack.clients = {section.clients}: must be below the number of clients, "
                f"{options.clients}."
            )
        kinds = [s.kind for s in recipe.share if s.kind not in ANSWERS]
        if kinds:
            raise ConfigError(
                f"attack {section.kind}: only answers on the public set can be attacked, and "
                f"{strategy.title} shares {kinds[0]}."
            )
        ways: tuple[Literal["up", "down"], ...] = ("up", "down")
        codecs = [recipe.codec(s.name, way, options.codec) for s in recipe.share for way in ways]
        if stateful := next(filter(uses_base, codecs), None):
            raise ConfigError(
                f"attack {section.kind}: uploads cannot be replaced under the codec {stateful!r}, "
                "which refers to what was sent before."
            )
        self.clients = frozenset(range(section.clients))
        self.silent: frozenset[int] = frozenset()
        self._kind, self._attack = section.kind, make_attack(section, num_classes)
        self._classes, self._recipe, self._options = num_classes, recipe, options
        self._public_size, self._round = 0, 0
        self._first: dict[str, dict[int, Tensor]] = {s.name: {} for s in recipe.share}
        self._targets: dict[str, dict[int, Knowledge]] = {s.name: {} for s in recipe.share}

    def state_dict(self) -> dict[str, Any]:
        """Return the state between rounds; see ``fedkt.snapshot`` for types."""
        return {
            "first": {name: dict(of) for name, of in self._first.items()},
            "targets": {name: dict(of) for name, of in self._targets.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state."""
        self._first = {name: dict(of) for name, of in state["first"].items()}
        self._targets = {name: dict(of) for name, of in state["targets"].items()}

    def greet(self, public_size: int) -> None:
        """Set the number of the clients' public samples."""
        self._public_size = public_size

    def listen(self, client: int, content: RecordDict) -> None:
        """Keep the round and the fused knowledge of a message to a liar."""
        self._round = int(cast(int, content.config_records["config"]["server-round"]))
        for name, packet in wire.extract(content).items():
            fused = wire.decode(packet, partial(self._ids, name), self._codec(name, "down"))
            if name in self._targets and fused.kind in ANSWERS:
                values = probabilities_of(*_soft(fused, self._classes))
                target = Knowledge.rows("probabilities", values, fused.ids)
                self._targets[name][client] = target

    def speak(self, contents: Mapping[int, RecordDict]) -> None:
        """Replace the liars' uploads of a round.

        Parameters
        ----------
        contents : Mapping[int, RecordDict]
            The good replies by client; those of liars are changed.

        Raises
        ------
        RunFailedError
            If the attack raises, or returns values that cannot be sent.
        """
        silent = set()
        for share in self._recipe.share:
            for client, view, answers in self._views(share.name, contents):
                try:
                    packet = self._packet(share.name, view, answers)
                except Exception as error:  # the attack may be a user's own
                    where = f"attack {self._kind}, round {self._round}, client {client}"
                    raise RunFailedError(f"{where}: {_reason(error)}") from error
                if packet is None:
                    silent.add(client)
                else:
                    wire.attach(contents[client], {share.name: packet})
        self.silent = frozenset(silent)

    def _answers(self, name: str, contents: Mapping[int, RecordDict]) -> dict[int, Knowledge]:
        """Return the sound uploads by client; the server will reject the others."""
        share = next(s for s in self._recipe.share if s.name == name)
        ids = self._ids(name, self._round)
        assert ids is not None
        columns = () if share.kind == "labels" else (self._classes,)
        expected = Expected(share.kind, ids, {"values": (len(ids), *columns)})
        answers = {}
        for client in sorted(contents):
            try:
                packet = wire.extract(contents[client])[name]
                one = wire.decode(packet, partial(self._ids, name), self._codec(name, "up"))
                check(one, expected, self._classes)
            except (KeyError, KnowledgeError):
                continue
            answers[client] = one
        return answers

    def _views(
        self, name: str, contents: Mapping[int, RecordDict]
    ) -> Iterator[tuple[int, View, Knowledge]]:
        """Yield each liar with its view and its honest upload."""
        answers = self._answers(name, contents)
        logits = {c: logits_of(*_soft(one, self._classes)) for c, one in answers.items()}
        liars = [z for c, z in logits.items() if c in self.clients]
        honest = [z for c, z in logits.items() if c not in self.clients] or liars
        for client in (c for c in logits if c in self.clients):
            first = self._first[name].setdefault(client, logits[client])
            view = View(
                own=logits[client],
                honest=torch.stack(honest),
                attackers=torch.stack(liars),
                first=first,
                ids=cast(Tensor, answers[client].ids),
                target=self._targets[name].get(client),
                seed=self._options.seed,
                round=self._round,
                client=client,
            )
            yield client, view, answers[client]

    def _packet(self, name: str, view: View, answers: Knowledge) -> wire.Packet | None:
        """Return the lie of a client, of the same kind and shape as its honest answers."""
        lie = _lie(self._attack, view)
        if lie is None:
            return None
        if not torch.equal(lie, view.own):  # the truth stays as it is, to the last bit
            answers = answers.with_tensors(
                {"values": of_kind(lie, answers.kind, soft=torch_softmax)}
            )
        known = self._ids(name, self._round)
        return wire.encode(answers, self._round, known, self._codec(name, "up"))

    def _codec(self, name: str, way: Literal["up", "down"]) -> str:
        return self._recipe.codec(name, way, self._options.codec)

    def _ids(self, name: str, round_: int) -> Tensor | None:
        return self._recipe.ids(name, self._public_size, self._options.seed, round_)


class AttackedGrid(Before):
    """A grid with malicious clients.

    Parameters
    ----------
    grid : Grid
        The real grid.
    liars : Liars
        The malicious clients.
    """

    def __init__(self, grid: Grid, liars: Liars) -> None:
        super().__init__(grid)
        self._liars = liars
        self._client_of: dict[int, int] = {}  # node -> client, from the greeting

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Deliver messages; return the replies, those of liars changed."""
        sent = self._overheard(messages)
        return self._attacked(self._grid.send_and_receive(sent, timeout=timeout))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages."""
        return self._grid.push_messages(self._overheard(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have come; attackers see only replies of the same call."""
        return self._attacked(self._grid.pull_messages(message_ids))

    def _overheard(self, messages: Iterable[Message]) -> list[Message]:
        sent = list(messages)
        for message in sent:
            client = self._client_of.get(message.metadata.dst_node_id)
            if client is not None and client in self._liars.clients:
                self._liars.listen(client, message.content)
        return sent

    def _attacked(self, replies: Iterable[Message]) -> list[Message]:
        received = list(replies)
        uploads: dict[int, RecordDict] = {}
        for reply in (r for r in received if r.has_content()):
            node, kind = reply.metadata.src_node_id, reply.metadata.message_type
            if kind == MessageType.QUERY:
                about = cast(ConfigRecord, reply.content["config"])
                self._client_of[node] = int(cast(int, about["client"]))
                self._liars.greet(int(cast(int, about["public-size"])))
            elif kind == MessageType.TRAIN and node in self._client_of:
                uploads[self._client_of[node]] = reply.content
        if not uploads:
            return received
        self._liars.speak(uploads)
        gone = self._liars.silent
        return [r for r in received if self._client_of.get(r.metadata.src_node_id) not in gone]


def _lie(attack: Attack, view: View) -> Tensor | None:
    """Return the logits of an attack on a view, None for silence; only their shape is checked."""
    # A copy: an attack that works in place must not change the view of the others.
    lie = attack(replace(view, own=view.own.clone(), first=view.first.clone()))
    if lie is None:
        return None
    if not isinstance(lie, Tensor) or lie.shape != view.own.shape:
        result = list(lie.shape) if isinstance(lie, Tensor) else type(lie).__name__
        raise KnowledgeError(f"returned {result}, not logits of shape {list(view.own.shape)}")
    return lie.float()


def _reason(error: Exception) -> str:
    """Return an error on one line, with its type unless it is fedkt's."""
    text = one_line(error)
    return text if isinstance(error, FedktError) else f"{type(error).__name__}: {text}"


def _soft(answers: Knowledge, num_classes: int) -> tuple[Tensor, str]:
    """Return answers ``[M, C]`` and their kind; labels become confident logits."""
    if answers.kind == "labels":
        return confident(answers.values, num_classes), "logits"
    return answers.values, answers.kind
