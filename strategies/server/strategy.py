"""The base of all strategies: a method is a recipe for the clients and a fusion.

:class:`KnowledgeStrategy` is a Flower strategy: it runs on any ``Grid``, with the same
``start`` and ``Result``. A method overrides ``recipe`` and ``fuse`` and nothing else.
"""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from logging import INFO
from typing import Any, ClassVar, Protocol

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedkt import wire
from fedkt.errors import ConfigError, KnowledgeError, NotFiniteError
from fedkt.knowledge import Fused, Knowledge, Upload, Uploads
from fedkt.options import checked
from fedkt.recipe import Recipe
from fedkt.registry import short_name
from fedkt.strategies.server import fusing
from fedkt.strategies.server.exchange import Exchange
from fedkt.strategies.server.model import ServerModel
from fedkt.strategies.server.replies import ACCURACIES, LearnFigures, accuracies
from fedkt.strategies.server.round import RoundReport, ServerOptions


class Observer(Protocol):
    """An observer of a run: progress display, checkpoints, trackers."""

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        """Handle the report of a finished round."""
        ...


class KnowledgeStrategy(Strategy):
    """A method of federated knowledge fusion.

    Subclasses define ``recipe`` (the steps and shares of clients) and ``fuse`` (uploads to fused
    knowledge) and take their hyper-parameters in ``__init__``; they need not call
    ``super().__init__``. State of a method between rounds goes into ``self.memory``, a
    dictionary of tensors, knowledge and plain values, which is saved in every checkpoint.

    Attributes
    ----------
    name : str
        The registered name; by default the lower-case class name.
    options : ServerOptions
        Options of the run, such as seed, participation and codec; to be set before ``start``.
    observers : Sequence[Observer]
        Observers, called after every round.
    """

    part: ClassVar[str] = "strategies"
    # Whether the server has a model and samples of its own (``options.server_model``).
    needs_server_model: ClassVar[bool] = False
    # Whether a round depends on the number of rounds planned (``Batch.progress``,
    # ``exchange.rounds``). Then a run made longer differs from a run planned longer.
    follows_progress: ClassVar[bool] = False
    # Class-level defaults, so that subclasses need no super().__init__().
    options: ServerOptions = ServerOptions()
    observers: Sequence[Observer] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        checked(cls)

    @abstractmethod
    def recipe(self) -> Recipe:
        """Return the recipe for the clients; constant during a run."""

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the knowledge for the clients, fused from the accepted uploads of a round.

        Parameters
        ----------
        uploads : Uploads
            At least one upload, ordered by client, all checked.

        Returns
        -------
        Fused
            Broadcast or unicast knowledge under the recipe's share names.
        """
        raise ConfigError(f"{self.title} shares knowledge but does not define fuse().")

    def fusion_flops(self, clients: int, rows: float, classes: int) -> float:
        """Return the FLOPs of a fusion whose cost grows faster than the number of clients.

        Simulations warn if it exceeds all computing of the clients; 0 for cheap fusions.

        Parameters
        ----------
        clients : int
            Number of clients in a round.
        rows : float
            Number of public samples that they share answers on.
        classes : int
            C, the width of the answers.
        """
        return 0.0

    def first(self, weights: Knowledge | None) -> Mapping[str, Knowledge]:
        """Return knowledge from the server for the clients in the first round.

        Parameters
        ----------
        weights : Knowledge, optional
            The first global weights, of methods that exchange weights.

        Returns
        -------
        Mapping[str, Knowledge]
            Knowledge by the names that the recipe lists as ``given``.
        """
        return {}

    def server_weights(self) -> Knowledge | None:
        """Return the weights of the server's model for its evaluation; None if it has none.

        By default the global weights, for methods that exchange whole weights.
        """
        for share in self.exchange.recipe.share:
            if share.whole_model:
                return self.exchange.latest.shared.get(share.name)
        return None

    @property
    def server(self) -> ServerModel:
        """The server's own model.

        Raises
        ------
        ConfigError
            If ``options.server_model`` is not set.
        """
        model = self.options.server_model
        if model is None:
            raise ConfigError(
                f"{self.title} needs a model and unlabelled samples at the server: "
                "set options.server_model."
            )
        return model

    @property
    def title(self) -> str:
        """The name for messages and tables."""
        return short_name(self.part, type(self))

    @property
    def memory(self) -> dict[str, Any]:
        """State of the method between rounds; saved in checkpoints."""
        memory: dict[str, Any] = self.__dict__.setdefault("_memory", {})
        return memory

    @property
    def settled_recipe(self) -> Recipe:
        """The recipe of the run: made by :meth:`recipe` once, on first use."""
        if "_settled_recipe" not in self.__dict__:
            self.__dict__["_settled_recipe"] = self.recipe()
        recipe: Recipe = self.__dict__["_settled_recipe"]
        return recipe

    @property
    def exchange(self) -> Exchange:
        """The exchange with the clients, made on first use."""
        if "_exchange" not in self.__dict__:
            self.__dict__["_exchange"] = Exchange(self.title, self.settled_recipe, self.options)
        exchange: Exchange = self.__dict__["_exchange"]
        return exchange

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last finished round; see ``fedkt.snapshot`` for types."""
        return {"memory": copy.deepcopy(self.memory), "exchange": self.exchange.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state; the next ``start`` continues from it."""
        self.__dict__.pop("_exchange", None)
        self.__dict__["_memory"] = copy.deepcopy(state["memory"])
        self.exchange.load_state_dict(state["exchange"])

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the method; the parameters are those of Flower's ``Strategy.start``.

        Beyond Flower's own loop it continues from a loaded state, calls the observers after
        every round, and stops when no client is left in a round. ``initial_arrays`` are the
        first global weights, for methods that exchange weights. ``evaluate_fn`` measures the
        server's model if there is one.

        Raises
        ------
        ConfigError
            If the clients do not fit the method.
        RunFailedError
            If every client fails in a round.
        """
        arrays = initial_arrays if initial_arrays is not None else ArrayRecord()
        self.exchange.rounds = self.options.schedule_rounds or num_rounds
        self.exchange.meet(grid, arrays, timeout, self.first)
        # Without a server model the first weights belong to no party, and are not evaluated.
        arrays = self._server_arrays() or ArrayRecord()
        configs = train_config or ConfigRecord(), evaluate_config or ConfigRecord()
        result, send = Result(), partial(grid.send_and_receive, timeout=timeout)
        for server_round in range(self.exchange.next_round, num_rounds + 1):
            began = time.monotonic()
            arrays, trained, evaluated = self._round(server_round, arrays, configs, grid, send)
            served = self._served(evaluate_fn, server_round, arrays) if evaluate_fn else None
            for store, metrics in (
                (result.train_metrics_clientapp, trained),
                (result.evaluate_metrics_clientapp, evaluated),
                (result.evaluate_metrics_serverapp, served),
            ):
                if metrics is not None:
                    store[server_round] = metrics
            self._finish_round(served, time.monotonic() - began)
        result.arrays = arrays
        return result

    def _round(
        self,
        server_round: int,
        arrays: ArrayRecord,
        configs: tuple[ConfigRecord, ConfigRecord],
        grid: Grid,
        send: Callable[[Iterable[Message]], Iterable[Message]],
    ) -> tuple[ArrayRecord, MetricRecord | None, MetricRecord | None]:
        """Return the server's weights after a round, and the clients' means of both messages.

        Messages and replies are freed early: with thousands of clients they take gigabytes.
        """
        messages = self.configure_train(server_round, arrays, configs[0], grid)
        replies = _handed_over(send(messages))
        del messages
        fused, trained = self.aggregate_train(server_round, replies)
        arrays = fused if fused is not None else arrays
        messages = self.configure_evaluate(server_round, arrays, configs[1], grid)
        replies = _handed_over(send(messages))
        del messages
        return arrays, trained, self.aggregate_evaluate(server_round, replies)

    def _served(
        self,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None],
        server_round: int,
        arrays: ArrayRecord,
    ) -> MetricRecord | None:
        """Return the figures of the server's model; None, with a note, if they are not finite."""
        try:
            return evaluate_fn(server_round, arrays) if len(arrays) else None
        except NotFiniteError as error:
            self.exchange.report.notes.append(f"the server's model is not measured: {error}")
            return None

    def _finish_round(self, served: MetricRecord | None, seconds: float) -> None:
        report = self.exchange.report
        report.seconds = seconds
        if served is not None and "accuracy" in served:
            report.server_accuracy = float(np.asarray(served["accuracy"]))
        self.exchange.next_round = report.round + 1
        for observer in self.observers:
            observer.round_finished(report, self)

    def summary(self) -> None:
        """Log the method and its hyper-parameters."""
        settings = {k: v for k, v in vars(self).items() if not k.startswith("_")}
        log(INFO, "\t├──> %s %s", self.title, settings)

    # --- first message of a round: learn and share ---------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages that ask the round's clients, drawn here, to learn and share."""
        exchange = self.exchange
        exchange.meet(grid, arrays, 3600, self.first)
        exchange.begin(server_round)
        if not self._has_first_message:
            return []
        recipe = exchange.recipe
        names = list(dict.fromkeys(recipe.needs("start") + recipe.needs("learn")))
        if self.options.group_effect:
            config = ConfigRecord({**config, "group-effect": True})
        return exchange.messages(MessageType.TRAIN, exchange.report.participants, names, config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the server's weights and the mean loss, after fusing the uploads that are good."""
        exchange = self.exchange
        if not self._has_first_message:
            return None, None
        asked = exchange.report.participants
        sound: list[Upload] = []
        figures: dict[int, LearnFigures] = {}
        for client, content in exchange.contents(replies, "learn", asked):
            try:
                sound.append(exchange.read_upload(client, content))
                figures[client] = LearnFigures.of(content)
            except KnowledgeError as error:
                exchange.fail(client, "share", str(error))
        uploads = Uploads(exchange.without_outliers([u for u in sound if u.client in figures]))
        del sound  # stacking frees them one by one
        exchange.stop_unless(uploads, "learn")
        for upload in uploads:
            exchange.note_leakage(upload)
        clients = list(uploads.clients)
        if exchange.recipe.share:
            clients = fusing.fuse(self, uploads)
        del uploads
        exchange.report.participants = clients
        exchange.note_learning(asked, clients)
        for client in clients:
            exchange.acknowledge(client)
            self._note(client, figures[client])
        losses = [figures[c].loss for c in clients]
        known = [loss for loss in losses if loss is not None]
        metrics = MetricRecord({"loss": float(np.mean(known))}) if known else None
        return self._server_arrays(), metrics

    def _note(self, client: int, figures: LearnFigures) -> None:
        if figures.learnt is not None:
            self.exchange.report.learnt[client] = figures.learnt
        elif figures.unmeasured is not None:
            self.exchange.fail(client, "group effect", figures.unmeasured)

    @property
    def _has_first_message(self) -> bool:
        recipe = self.exchange.recipe
        return bool(recipe.start or recipe.learn or recipe.share)

    def _server_arrays(self) -> ArrayRecord | None:
        weights = self.server_weights()
        return None if weights is None else wire.arrays_of(weights)

    # --- second message of a round: absorb and evaluate ----------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages: participants absorb the fused knowledge, all clients evaluate."""
        exchange = self.exchange
        taking_part = exchange.report.participants if exchange.recipe.absorb else []
        others = [c for c in exchange.report.clients if c not in set(taking_part)]
        names = exchange.recipe.needs("absorb")
        absorb = ConfigRecord({**config, "absorb": True})
        idle = ConfigRecord({**config, "absorb": False})
        return exchange.messages(MessageType.EVALUATE, taking_part, names, absorb) + (
            exchange.messages(MessageType.EVALUATE, others, (), idle)
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the means of the clients' accuracies."""
        exchange = self.exchange
        report = exchange.report
        for client, content in exchange.contents(replies, "absorb", report.clients):
            try:
                report.metrics[client] = accuracies(content)
            except KnowledgeError as error:
                exchange.fail(client, "evaluate", str(error))
            else:
                exchange.acknowledge(client)
        exchange.stop_unless(list(report.metrics), "absorb and evaluate")
        means = MetricRecord()
        for name in ACCURACIES:
            values = [v for v in report.per_client(name) if v is not None]
            if values:
                means[name] = float(np.mean(values))
        return means


def _handed_over(replies: Iterable[Message]) -> Iterator[Message]:
    """Yield replies without keeping those that were yielded."""
    left = list(replies)[::-1]
    del replies
    while left:
        yield left.pop()
