"""One client handling one message of a round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, cast

from flwr.app import ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from torch import Tensor

from fedkt import registry, wire
from fedkt.clients.client import Client
from fedkt.clients.learners.base import Work
from fedkt.clients.personal_answer import personal_answer, settle
from fedkt.clients.phases import common_accuracy, evaluate, run_steps, share
from fedkt.clients.state import ClientState, StateStore
from fedkt.codecs import uses_base
from fedkt.data.samples import ClientData
from fedkt.declared import check_content
from fedkt.decoded import Base
from fedkt.errors import ConfigError, DiskError, NotFiniteError
from fedkt.knowledge import Knowledge
from fedkt.metrics import metrics_of
from fedkt.recipe import Recipe, Step
from fedkt.shares import Question
from fedkt.text import foreign

UNNAMED = "unnamed"  # a run whose server does not name it
CLIENT_ERROR = 2  # the code Flower uses for an exception in a ClientApp


@dataclass(frozen=True)
class Order:
    """The task in a message to a client.

    Parameters
    ----------
    trains : bool
        Whether to learn and share; else to evaluate.
    run : str
        Name of the run, which the client's state belongs to.
    recipe : Recipe
        Recipe of the method.
    codec : str
        The run's codec of the knowledge in messages.
    acknowledged : Mapping[str, int]
        The round of what the server has decoded last, by share, where codecs refer to it.
    seed, round, rounds : int
        Seed of the run, number of the round, and number of all rounds (0 if unknown).
    absorbs : bool
        Whether to absorb before evaluating.
    group_effect : bool
        Whether to measure the accuracy after learning.
    metrics : tuple[str, ...]
        The metrics to measure beside accuracy.
    """

    trains: bool
    run: str
    recipe: Recipe
    codec: str
    acknowledged: Mapping[str, int]
    seed: int
    round: int
    rounds: int
    absorbs: bool
    group_effect: bool
    metrics: tuple[str, ...] = ()

    @classmethod
    def of(cls, message: Message) -> Order:
        """Return the order in a message of type ``train`` or ``evaluate``."""
        config = cast(ConfigRecord, message.content["config"])
        seed, round_ = cast(int, config["seed"]), cast(int, config["server-round"])
        return cls(
            trains=message.metadata.message_type == MessageType.TRAIN,
            run=str(config.get("run", UNNAMED)),
            recipe=read_recipe(str(config["recipe"])),
            codec=str(config["codec"]),
            acknowledged=_acknowledged(message),
            seed=int(seed),
            round=int(round_),
            rounds=int(cast(int, config.get("num-rounds", 0))),
            absorbs=bool(config.get("absorb", False)),
            group_effect=bool(config.get("group-effect", False)),
            metrics=tuple(map(str, cast(list[str], config.get("metrics", [])))),
        )

    @property
    def phase(self) -> str:
        """The phase of the round, as states are named by it."""
        return "train" if self.trains else "evaluate"

    def ids(
        self,
        name: str,
        data: ClientData,
        round_: int,
        known: Mapping[str, Knowledge] | None = None,
    ) -> Tensor | None:
        """Return the ids of a share's rows in a round, int64 ``[M]``; see ``Recipe.ids``."""
        size = 0 if data.public is None else len(data.public)
        return self.recipe.ids(name, size, self.seed, round_, known)


@dataclass(frozen=True)
class Kept:
    """A client's stored state, apart from that of its learner.

    Parameters
    ----------
    first : str
        The ``ROUND-PHASE`` of the client's first state in this run; empty if it has none.
    started : bool
        Whether the client has run the steps of the phase ``start``.
    knowledge : Mapping[str, Knowledge]
        Fused knowledge for the next round, by share name.
    settled : bool
        Whether the client's read-out is settled for its model.
    own : Mapping[str, Any]
        What the client keeps for itself, by name.
    bases : Mapping[str, Base]
        What was decoded last, by ``"down/"`` or ``"up/"`` and share, where codecs refer to it.
    """

    first: str = ""
    started: bool = False
    knowledge: Mapping[str, Knowledge] = field(default_factory=dict)
    settled: bool = False
    own: Mapping[str, Any] = field(default_factory=dict)
    bases: Mapping[str, Base] = field(default_factory=dict)


def recall(client: Client, store: StateStore, context: Context, order: Order) -> Kept:
    """Load a client's learner with its state of before a message, or reset it; return the rest.

    Raises
    ------
    ConfigError
        If the state is lost.
    """
    state = store.get(order.run, client.id, order.round, order.phase)
    if state is None:
        since = wire.record(context.state, "fedkt", ConfigRecord) or ConfigRecord()
        if since.get("run") == order.run and int(str(since["round"])) < order.round:
            raise ConfigError(f"the state of client {client.id} in run {order.run} is lost")
        client.learner.reset(order.seed, client.id)
        return Kept()
    client.learner.load_state(state["learner"])
    bases = {key: Base(*base) for key, base in state["bases"].items()}
    rest = state["knowledge"], bool(state["settled"]), state["own"], bases
    return Kept(state["first"], bool(state["started"]), *rest)


def begin(
    client: Client,
    store: StateStore,
    message: Message,
    context: Context,
    decoded: dict[int, Knowledge] | None = None,
) -> Turn:
    """Return the turn of a client: learner loaded, knowledge of the message decoded.

    Parameters
    ----------
    client : Client
        The client.
    store : StateStore
        Store of the client's state.
    message : Message
        ``train`` (learn and share) or ``evaluate`` (absorb and evaluate).
    context : Context
        The client's Flower context.
    decoded : dict, optional
        Knowledge decoded for other clients of the same call, by the identity of its arrays. So
        a broadcast is decoded once.
    """
    order = Order.of(message)
    client.policy.check(order.recipe, order.codec, order.metrics)
    client.learner.follow(order.recipe)
    kept = recall(client, store, context, order)
    knowledge, decoded = dict(kept.knowledge), {} if decoded is None else decoded
    bases = dict(kept.bases)
    check_content(message.content, order.recipe.comes)
    for name, packet in wire.extract(message.content).items():
        key, codec = id(packet.arrays), order.recipe.codec(name, "down", order.codec)
        refers, base = uses_base(codec), kept.bases.get(f"down/{name}")
        if key not in decoded or refers:  # each client has a base of its own
            ids = partial(order.ids, name, client.data)
            decoded[key] = wire.decode(packet, ids, codec, base=base)
        knowledge[name] = decoded[key]
        if refers:
            bases[f"down/{name}"] = wire.next_base(packet, decoded[key], codec, base)
    names = order.seed, order.round, client.id
    work = Work(client.data, knowledge, client.options, *names, order.rounds, dict(kept.own))
    return Turn(client, store, context, order, kept, work, bases)


@dataclass(frozen=True)
class Turn:
    """One client handling one message: its steps, and then its answer.

    Parameters
    ----------
    client : Client
        The client; its learner is loaded with its state.
    store : StateStore
        Store of the new state.
    context : Context
        The client's Flower context.
    order : Order
        Task of the message.
    kept : Kept
        Stored state from before the message.
    work : Work
        Data of the client, and the knowledge that has arrived.
    bases : dict
        What was decoded last, the message's included; see :class:`Kept`.
    """

    client: Client
    store: StateStore
    context: Context
    order: Order
    kept: Kept
    work: Work
    bases: dict[str, Base]

    @property
    def phases(self) -> dict[str, Sequence[Step]]:
        """The steps to run before the answer, by the name of their phase, in order."""
        recipe = self.order.recipe
        if not self.order.trains:
            return {"absorb": recipe.absorb} if self.order.absorbs else {}
        start = {} if self.kept.started else {"start": recipe.start}
        return {**start, "learn": recipe.learn}

    def run(self) -> RecordDict:
        """Run the steps; return the content of the reply."""
        loss = None
        for phase, steps in self.phases.items():
            with self.named(phase):
                loss = run_steps(self.client.learner, steps, self.work, phase)
        return self.answer(loss)

    @contextmanager
    def named(self, phase: str) -> Iterator[None]:
        """Name the client and the phase in the message of a NotFiniteError."""
        try:
            yield
        except NotFiniteError as error:
            raise NotFiniteError(f"client {self.client.id}, {phase}: {error}") from error

    def answer(self, loss: float | None) -> RecordDict:
        """Return the content of the reply, upload or accuracies; keep the client's new state.

        Parameters
        ----------
        loss : float, optional
            Loss of the last step.
        """
        return self._upload(loss) if self.order.trains else self._accuracies()

    def questions(self) -> list[Question]:
        """Return what the answer will ask the learner."""
        data = self.client.data
        if self.order.trains:
            asked = [q for part in self.order.recipe.share for q in part.questions(self.work)]
            common = data.common_test if self.order.group_effect else None
            return [*asked, *([] if common is None else [Question(common.x)])]
        parts = (data.validation, data.test, data.common_test)
        return [Question(samples.x) for samples in parts if samples is not None and len(samples)]

    def _upload(self, loss: float | None) -> RecordDict:
        order = self.order
        metrics = MetricRecord({"num-examples": len(self.client.data.train)})
        if loss is not None:
            metrics["loss"] = loss
        content = RecordDict({"metrics": metrics})
        with self.named("share"):
            uploads = share(self.client.learner, order.recipe, self.work)
        if order.group_effect:
            self._learnt(content)
        packets = {}
        for name, knowledge in uploads.items():
            packets[name] = self._packet(name, knowledge)
        self.client.policy.check_upload(uploads, packets)
        wire.attach(content, packets)
        self._save(started=True)
        return content

    def _packet(self, name: str, knowledge: Knowledge) -> wire.Packet:
        """Return knowledge to upload; keep it as the server will decode it if the codec asks."""
        order, codec = self.order, self.order.recipe.codec(name, "up", self.order.codec)
        ids = order.ids(name, self.client.data, order.round, self.work.knowledge)
        base = self.bases.get(f"up/{name}")
        if base is not None and base.round != order.acknowledged.get(name):
            base = None  # the server did not get that one
        packet = wire.encode(knowledge, order.round, ids, codec, base, self.work.progress(1.0))
        if uses_base(codec):
            decoded = wire.decode(packet, lambda round_: ids, codec, base=base)
            self.bases[f"up/{name}"] = wire.next_base(packet, decoded, codec, base)
        return packet

    def _learnt(self, content: RecordDict) -> None:
        """Add the accuracy after learning, or the reason why it cannot be measured."""
        try:
            with self.named("group effect"):
                world = self.order.recipe.world
                learnt = common_accuracy(self.client.learner, self.client.data, world)
        except NotFiniteError as error:
            content["unmeasured"] = ConfigRecord({"group-effect": str(error)})
        else:
            if learnt is not None:
                content.metric_records["metrics"]["learnt-accuracy"] = learnt

    def _accuracies(self) -> RecordDict:
        client, order, kept, changed = self.client, self.order, self.kept, False
        with self.named("evaluate"):
            if order.absorbs or not kept.settled:
                changed = settle(client.learner, order.recipe, self.work)
            log_prior, readout = client.data.log_prior, order.recipe.personal
            answer = personal_answer(readout, client.learner, self.work.own, log_prior)
            metrics = metrics_of(order.metrics)
            how = client.personalised, answer, order.recipe.world, metrics
            figures = evaluate(client.learner, client.data, *how)
        # Training and measurements of the read-out are kept even where nothing was absorbed.
        if order.absorbs or (kept.first and changed):
            self._save(kept.started, settled=True)
        return RecordDict({"metrics": MetricRecord({**figures})})

    def _save(self, started: bool, settled: bool = False) -> None:
        recipe, knowledge = self.order.recipe, self.work.knowledge
        state: ClientState = {
            "learner": self.client.learner.state(),
            "started": started,
            "knowledge": {n: knowledge[n] for n in recipe.retained if n in knowledge},
            "own": dict(self.work.own),
            "bases": {key: base.content for key, base in self.bases.items()},
            "readout": recipe.readout_json,
            "settled": settled,
            **({"first": self.kept.first} if self.kept.first else {}),
        }
        order, context = self.order, self.context.state
        self.store.put(order.run, self.client.id, order.round, order.phase, state)
        if not self.kept.first:  # its first in this run
            context["fedkt"] = ConfigRecord({"run": order.run, "round": order.round})


def error_reply(error: Exception, message: Message) -> Message:
    """Return an error reply with a one-line reason.

    Raises
    ------
    DiskError
        If the error is one: a full disk is no fault of one client.
    """
    if isinstance(error, DiskError):
        raise error
    reason = foreign(f"{type(error).__name__}: {error}")
    return Message(Error(CLIENT_ERROR, reason), reply_to=message)


def _acknowledged(message: Message) -> dict[str, int]:
    """Return the rounds of what the server has decoded last, by share."""
    record = wire.record(message.content, "acknowledged", ConfigRecord)
    return {name: cast(int, round_) for name, round_ in (record or {}).items()}


def read_recipe(text: str) -> Recipe:
    """Return the recipe in a message."""
    return _recipe(text, registry.version())


@lru_cache(maxsize=16)
def _recipe(text: str, version: int) -> Recipe:
    """Return a recipe; ``version`` of the registry belongs to the key of the cache."""
    return Recipe.from_json(text)
