"""The Flower ClientApp: one for every method, in simulation and in deployment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from logging import DEBUG
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary

from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.logger import log
from torch import Tensor

from fedkt import wire
from fedkt.clients.learner import Learner, TrainingOptions, Work
from fedkt.clients.phases import common_accuracy, evaluate, refuses, run_steps, share
from fedkt.clients.readouts import Settled, settle, unsettled
from fedkt.clients.state import ClientState, MemoryStore, StateStore
from fedkt.data.samples import ClientData, Samples
from fedkt.errors import ConfigError
from fedkt.recipe import Recipe

CLIENT_ERROR = 2  # the code Flower uses for an exception in a ClientApp


@dataclass(frozen=True)
class Client:
    """One party.

    Parameters
    ----------
    id : int
        Stable over restarts; orders the clients at the server.
    learner : Learner
        What it trains; may be shared with other clients of one process.
    data : ClientData
        What it trains on.
    options : TrainingOptions
        How.
    personalised : {"split", "matched"}
        How personalised accuracy is measured; see ``phases.evaluate``.
    """

    id: int
    learner: Learner
    data: ClientData
    options: TrainingOptions = field(default_factory=TrainingOptions)
    personalised: str = "split"


class KnowledgeClientApp(ClientApp):
    """A ClientApp and the store of its clients' state (for checkpoints)."""

    store: StateStore


def client_app(
    connect: Callable[[Context], Client], store: StateStore | None = None
) -> KnowledgeClientApp:
    """Make the ClientApp that follows any recipe.

    Parameters
    ----------
    connect : callable
        Returns the client that a Flower context (its ``node_config``) stands for.
    store : StateStore, optional
        Where client state lives; in memory by default. Deployed nodes need a
        :class:`~fedkt.clients.state.FileStore`, because Flower runs every message in a
        new process.

    Returns
    -------
    KnowledgeClientApp
        Handles ``query`` (who are you), ``train`` (learn and share) and ``evaluate``
        (absorb and evaluate). An exception becomes an error reply with its one-line
        reason and leaves the client's state as it was.
    """
    app = KnowledgeClientApp()
    app.store = store if store is not None else MemoryStore()

    @app.query()
    def hello(message: Message, context: Context) -> Message:
        return _guarded(lambda: _hello(connect(context), message), message)

    @app.train()
    def learn(message: Message, context: Context) -> Message:
        return _guarded(
            lambda: _Turn(connect(context), app.store, message, context).learn(), message
        )

    @app.evaluate()
    def absorb(message: Message, context: Context) -> Message:
        return _guarded(
            lambda: _Turn(connect(context), app.store, message, context).absorb(), message
        )

    return app


def predict(
    client: Client,
    store: StateStore,
    x: Tensor,
    readout: Literal["personal", "global"] = "personal",
) -> Tensor:
    """Return what a client's model answers, after a run or during one.

    All that is needed is the client and the store that its ClientApp kept its state in: how
    the client answers for itself is part of that state. Its learner is left loaded with it.

    Parameters
    ----------
    client : Client
        With the same learner and training data as in the run.
    store : StateStore
        On a deployed node the :class:`~fedkt.clients.state.FileStore` of its folder.
    x : Tensor
        float32 ``[n, ...]``, preprocessed as the training data.
    readout : {"personal", "global"}
        For the client's own distribution of classes, as personalised accuracy is measured; or
        for the world, as global accuracy is.

    Returns
    -------
    Tensor
        Logits, float32 ``[n, C]``; their softmax estimates p(y | x).

    Raises
    ------
    ConfigError
        If the store does not know the client, or for an unknown read-out.
    """
    if readout not in ("personal", "global"):
        raise ConfigError(f"readout must be personal or global, not {readout!r}.")
    state = store.get(client.id)
    if state is None:
        raise ConfigError(f"The store has no state of client {client.id}: it never took part.")
    client.learner.load_state(state["learner"])
    logits = client.learner.predict(x)
    if readout == "global":
        return logits
    kept = state["settled"]
    settled = unsettled(state["readout"]) if kept is None else Settled.from_state(kept)
    return settled.readout(client.learner, client.data.log_prior)(x, logits)


class _Turn:
    """One client handling one message."""

    def __init__(
        self, client: Client, store: StateStore, message: Message, context: Context
    ) -> None:
        config = cast(ConfigRecord, message.content["config"])
        self.client, self.store, self.context = client, store, context
        self.recipe = _recipe(str(config["recipe"]))
        self.codec, self.absorbs = str(config["codec"]), bool(config.get("absorb", False))
        self.group_effect = bool(config.get("group-effect", False))
        self.seed, self.round = (
            int(cast(int, config["seed"])),
            int(cast(int, config["server-round"])),
        )
        client.learner.follow(self.recipe)
        self.started, self.knowledge = self._load()
        for name, packet in wire.extract(message.content).items():
            self.knowledge[name] = wire.decode(packet, partial(self._ids, name), self.codec)
        names = self.seed, self.round, client.id
        rounds = int(cast(int, config.get("num-rounds", 0)))
        self.work = Work(client.data, self.knowledge, client.options, *names, self.losses, rounds)

    def learn(self) -> RecordDict:
        """Learn, share, and return the upload."""
        learner, work = self.client.learner, self.work
        if not self.started:
            run_steps(learner, self.recipe.start, work, "start")
        loss = run_steps(learner, self.recipe.learn, work, "learn")
        metrics = MetricRecord({"num-examples": len(self.client.data.train)})
        if loss is not None:
            metrics["loss"] = loss
        content = RecordDict({"metrics": metrics})
        uploads = share(learner, self.recipe, work)
        if self.group_effect:
            learnt = common_accuracy(learner, self.client.data)
            if learnt is not None:
                metrics["learnt-accuracy"] = learnt
        wire.attach(content, {
            name: wire.encode(one, self.round, self._ids(name, self.round), self.codec)
            for name, one in uploads.items()
        })  # fmt: skip
        self._save(started=True)
        return content

    def absorb(self) -> RecordDict:
        """Absorb what came, evaluate, and return the accuracies."""
        if self.absorbs:
            run_steps(self.client.learner, self.recipe.absorb, self.work, "absorb")
        client, settled = self.client, self.settled
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


def _hello(client: Client, message: Message) -> RecordDict:
    recipe = _recipe(str(cast(ConfigRecord, message.content["config"])["recipe"]))
    public = client.data.public
    about = ConfigRecord({
        "client": client.id,
        "architecture": client.learner.architecture,
        "num-classes": client.learner.num_classes,
        "public-size": 0 if public is None else len(public),
        "public-digest": "none" if public is None else _digest(public),
    })  # fmt: skip
    if recipe.needs_images:
        about["input-shape"] = list(client.data.input_shape)
    refusal = client.learner.refuses(recipe) or refuses(recipe, client.data)
    if refusal:
        about["refusal"] = refusal
    return RecordDict({"config": about})


def _guarded(handle: Callable[[], RecordDict], message: Message) -> Message:
    """Turn an exception into an error reply with a one-line reason."""
    try:
        return Message(handle(), reply_to=message)
    except Exception as error:
        log(DEBUG, "client failed", exc_info=error)
        text = " ".join(str(error).split())
        return Message(Error(CLIENT_ERROR, f"{type(error).__name__}: {text}"), reply_to=message)


@lru_cache(maxsize=16)
def _recipe(text: str) -> Recipe:
    return Recipe.from_json(text)


_digests: WeakKeyDictionary[Samples, str] = WeakKeyDictionary()


def _digest(samples: Samples) -> str:
    if samples not in _digests:
        content = samples.x.contiguous().numpy().tobytes()
        _digests[samples] = hashlib.sha256(content).hexdigest()[:16]
    return _digests[samples]
