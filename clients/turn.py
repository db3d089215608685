"""One client handling one message of a round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, Literal, cast

from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from torch import Tensor

from fedkt import registry, wire
from fedkt.clients.client import Client
from fedkt.clients.learners.base import Work
from fedkt.clients.phases import common_accuracy, evaluate, public_inputs, run_steps, share
from fedkt.clients.settling import Settled, settle
from fedkt.clients.state import ClientState, StateStore
from fedkt.errors import ConfigError, NotFiniteError
from fedkt.knowledge import Knowledge
from fedkt.recipe import Predict, Recipe, Step

Kind = Literal["train", "evaluate"]


class Turn:
    """One client handling one message: its steps, and then its answer.

    Parameters
    ----------
    client : Client
        Loaded with its state here.
    store : StateStore
        Where the state is.
    message : Message
        ``train`` (learn and share) or ``evaluate`` (absorb and evaluate).
    context : Context
        The client's.
    decoded : dict, optional
        What was decoded for other clients of the same call, by the identity of its arrays: a
        broadcast is decoded once.
    """

    def __init__(
        self,
        client: Client,
        store: StateStore,
        message: Message,
        context: Context,
        decoded: dict[int, Knowledge] | None = None,
    ) -> None:
        config = cast(ConfigRecord, message.content["config"])
        self.client, self.store, self.context = client, store, context
        self.kind: Kind = (
            "train" if message.metadata.message_type == MessageType.TRAIN else "evaluate"
        )
        self.recipe = read_recipe(str(config["recipe"]))
        self.codec, self.absorbs = str(config["codec"]), bool(config.get("absorb", False))
        self.group_effect = bool(config.get("group-effect", False))
        self.seed, self.round = (
            int(cast(int, config["seed"])),
            int(cast(int, config["server-round"])),
        )
        client.learner.follow(self.recipe)
        self.started, self.knowledge = self._load()
        decoded = {} if decoded is None else decoded
        for name, packet in wire.extract(message.content).items():
            key = id(packet.arrays)
            if key not in decoded:
                decoded[key] = wire.decode(packet, partial(self._ids, name), self.codec)
            self.knowledge[name] = decoded[key]
        names = self.seed, self.round, client.id
        rounds = int(cast(int, config.get("num-rounds", 0)))
        self.work = Work(client.data, self.knowledge, client.options, *names, self.losses, rounds)

    @property
    def phases(self) -> dict[str, Sequence[Step]]:
        """The steps to run before the answer, by the name of their phase, in order."""
        if self.kind == "evaluate":
            return {"absorb": self.recipe.absorb} if self.absorbs else {}
        start = {} if self.started else {"start": self.recipe.start}
        return {**start, "learn": self.recipe.learn}

    def run(self) -> RecordDict:
        """Run the steps and answer."""
        loss = None
        for phase, steps in self.phases.items():
            with self.named(phase):
                loss = run_steps(self.client.learner, steps, self.work, phase)
        return self.answer(loss)

    @contextmanager
    def named(self, phase: str) -> Iterator[None]:
        """Say in which phase, and of which client, something was not finite."""
        try:
            yield
        except NotFiniteError as error:
            raise NotFiniteError(f"client {self.client.id}, {phase}: {error}") from error

    def answer(self, loss: float | None) -> RecordDict:
        """Return the upload, or the accuracies, and keep the client's new state.

        Parameters
        ----------
        loss : float, optional
            Of the last step.
        """
        return self._upload(loss) if self.kind == "train" else self._accuracies()

    def questions(self) -> list[Tensor]:
        """Return the inputs that the learner will be asked about for the answer."""
        data = self.client.data
        if self.kind == "train":
            asked = [
                public_inputs(one, self.work)
                for one in self.recipe.share
                if isinstance(one, Predict) and data.public is not None
            ]
            common = data.common_test if self.group_effect else None
            return [*asked, *([] if common is None else [common.x])]
        held = (data.validation, data.test, data.common_test)
        return [samples.x for samples in held if samples is not None and len(samples)]

    def _upload(self, loss: float | None) -> RecordDict:
        learner, work = self.client.learner, self.work
        metrics = MetricRecord({"num-examples": len(self.client.data.train)})
        if loss is not None:
            metrics["loss"] = loss
        content = RecordDict({"metrics": metrics})
        with self.named("share"):
            uploads = share(learner, self.recipe, work)
        if self.group_effect:
            self._learnt(content)
        wire.attach(content, {
            name: wire.encode(one, self.round, self._ids(name, self.round), self.codec)
            for name, one in uploads.items()
        })  # fmt: skip
        self._save(started=True)
        return content

    def _learnt(self, content: RecordDict) -> None:
        """Add the accuracy after learning, or why there is none: measuring changes no model."""
        try:
            with self.named("group effect"):
                learnt = common_accuracy(self.client.learner, self.client.data)
        except NotFiniteError as error:
            content["unmeasured"] = ConfigRecord({"group-effect": str(error)})
        else:
            if learnt is not None:
                content.metric_records["metrics"]["learnt-accuracy"] = learnt

    def _accuracies(self) -> RecordDict:
        client, settled = self.client, self.settled
        with self.named("evaluate"):
            if self.absorbs or settled is None:
                settled = settle(client.learner, self.recipe, self.work)
            readout = settled.readout(client.learner, client.data.log_prior)
            metrics = evaluate(client.learner, client.data, client.personalised, readout)
        # What was trained or measured for the read-out is kept even where nothing was absorbed.
        if self.absorbs or (self.known and self.settled is None and settled.own):
            self._save(self.started, settled)
        return RecordDict({"metrics": MetricRecord({**metrics})})

    def _ids(self, name: str, round_: int) -> Any:
        public = self.client.data.public
        size = 0 if public is None else len(public)
        return wire.share_ids(self.recipe, name, size, self.seed, round_)

    def _load(self) -> tuple[bool, dict[str, Any]]:
        record = self.context.state.config_records.get("fedkt")
        self.handle = None if record is None else str(record["state"])
        state = self.store.get(self.client.id, self.handle)
        if state is None and self.handle is not None:
            raise ConfigError(f"the state of client {self.client.id} is lost: {self.handle}")
        self.known, self.settled, self.losses = state is not None, None, None
        if state is None:
            self.client.learner.reset(self.seed, self.client.id)
            return False, {}
        if state["settled"] is not None:
            self.settled = Settled.from_state(state["settled"])
        self.losses = state["losses"]
        self.client.learner.load_state(state["learner"])
        return bool(state["started"]), dict(state["knowledge"])

    def _save(self, started: bool, settled: Settled | None = None) -> None:
        # Other knowledge is used up within its round; what the server gives for learning alone
        # comes anew with every fusion.
        once = set(self.recipe.given) - set(self.recipe.needs("absorb"))
        kept = set(self.recipe.needs("learn")) - once
        state: ClientState = {
            "learner": self.client.learner.state(),
            "started": started,
            "knowledge": {n: k for n, k in self.knowledge.items() if n in kept},
            "readout": self.recipe.readout,
            "settled": None if settled is None else settled.state(),
            "losses": self.losses if settled is None else settled.losses,
        }
        handle = self.store.put(self.client.id, state, self.handle)
        self.context.state["fedkt"] = ConfigRecord({"state": handle})


def read_recipe(text: str) -> Recipe:
    """Return the recipe that a message carries."""
    return _recipe(text, registry.version())


@lru_cache(maxsize=16)
def _recipe(text: str, version: int) -> Recipe:
    """Return a recipe as the registry had it; ``version`` is of the registry."""
    return Recipe.from_json(text)
