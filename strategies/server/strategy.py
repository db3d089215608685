"""The base of all strategies: a method is a recipe for the clients and a fusion.

:class:`KnowledgeStrategy` is a Flower strategy: it runs on any ``Grid``, with the same
``start`` and ``Result``. A method overrides ``recipe`` and ``fuse`` and nothing else.
"""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from logging import INFO
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedkt import wire
from fedkt.codecs import follows_progress
from fedkt.context import Round, ServerNet, ServerSamples
from fedkt.errors import ConfigError, of_class
from fedkt.knowledge import Fused, Kind, Knowledge, Uploads
from fedkt.options import checked
from fedkt.recipe import Recipe
from fedkt.registry import short_name
from fedkt.strategies.server import conversation, fusing
from fedkt.strategies.server.exchange import Exchange
from fedkt.strategies.server.model import (
    ServerModel,
    ServerModels,
    declarations,
    first_weights,
    new_model,
)
from fedkt.strategies.server.round import Phase, RoundReport, ServerOptions


class Observer:
    """An observer of a run: progress display, checkpoints, trackers. By itself it does nothing."""

    def phase_began(self, phase: Phase, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        """Handle the beginning of a phase of a round, before its messages are sent.

        Parameters
        ----------
        phase : {"greeting", "train", "evaluate"}
            The phase. Clients are greeted in rounds in which nodes are new, or back.
        report : RoundReport
            The round as it stands: its number, its clients and, after the greeting, participants.
        strategy : KnowledgeStrategy
            The strategy.
        """

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        """Handle the report of a finished round."""


class KnowledgeStrategy(Strategy):
    """A method of federated knowledge fusion.

    Subclasses define ``recipe`` (the steps and shares of clients) and ``fuse`` (uploads to fused
    knowledge) and take their hyper-parameters in ``__init__``; they need not call
    ``super().__init__``. State of a method between rounds goes into ``self.memory``, a
    dictionary of tensors, knowledge and plain values, which is saved in every checkpoint.

    Attributes
    ----------
    name : str
        The registered name; by default the class name in kebab case.
    options : ServerOptions
        Options of the run, such as seed, participation and codec; to be set before ``start``.
    observers : Sequence[Observer]
        Observers, called before every phase and after every round.
    """

    part: ClassVar[str] = "strategies"
    # Yardsticks of others: clients train alone, or (in simulations) each on the data of all.
    alone: ClassVar[bool] = False
    pools: ClassVar[bool] = False
    # Whether the server works on public samples of its own (``samples.public``).
    needs_samples: bool = False
    # The server's model that is evaluated; None: the global weights, if there are any.
    serves: str | None = None
    # Laws of ``fedkt.testing`` that it cannot keep, by name, each with the reason.
    exempt: ClassVar[Mapping[str, str]] = {}
    # Options with which ``fedkt.testing`` tries it, where its defaults train for long.
    tried_with: ClassVar[Mapping[str, Any]] = {}
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
            Broadcast or unicast knowledge under the recipe's share names; without those of the
            read-out's shares, which the read-out fuses.
        """
        if set(self.settled_recipe.share) <= set(self.settled_recipe.personal.shares()):
            return Fused()
        raise ConfigError(f"{self.title} shares knowledge but does not define fuse().")

    def models(self) -> Mapping[str, ServerNet]:
        """Return the models at the server by name; called once, after the greeting.

        They are then in ``self.model``, untrained, and in every checkpoint.
        """
        return {}

    def choose(self, clients: Sequence[int]) -> Sequence[int]:
        """Return the clients that take part in the round, ``self.round.number``.

        By default a part of them is drawn uniformly, as large as ``options.participation`` says.

        Parameters
        ----------
        clients : Sequence[int]
            The clients of the run, ascending.
        """
        return self.exchange.drawn(clients)

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

    def first(self, weights: Knowledge | None) -> Fused:
        """Return knowledge from the server for the clients in the first round.

        Parameters
        ----------
        weights : Knowledge, optional
            The first global weights, of methods that exchange weights.

        Returns
        -------
        Fused
            Knowledge by the names that the recipe lists as ``given``, and by those of shares that
            begin with knowledge of the server's: for all clients, or by client.
        """
        return Fused()

    def remarks(self, training: Collection[str]) -> Sequence[str]:
        """Return lines for the reader of a run's figures, such as on options that do not suit.

        Parameters
        ----------
        training : Collection[str]
            The clients' options of training, as ``TrainingOptions.told``.
        """
        return ()

    def server_weights(self) -> Knowledge | None:
        """Return the weights of the server's model for its evaluation; None if it has none.

        Those of the model that ``serves``, else the global weights of methods that exchange them.
        """
        if self.serves is not None:
            return self.model[self.serves].weights()
        for share in self.exchange.recipe.share:
            if share.whole(self.exchange.recipe.world):
                return self.exchange.latest.shared.get(share.name)
        return None

    @property
    def model(self) -> ServerModels:
        """The models at the server by name, built in the order of :meth:`models`.

        Raises
        ------
        ConfigError
            If the deployer gives no maker of models, or one cannot be built or is not declared.
        """
        self._models.build(self._declared, self._made)
        return self._models

    @property
    def _models(self) -> ServerModels:
        models: ServerModels = self.__dict__.setdefault("_server_models", ServerModels())
        return models

    def _declared(self) -> Mapping[str, ServerNet]:
        return declarations(self.title, self.models, lambda: self.serves)

    def _made(self, name: str, net: ServerNet, number: int) -> ServerModel:
        given = self.settled_recipe, self.samples, lambda: self.round
        return new_model(self.title, self.options.models, name, net, number, *given)

    @property
    def samples(self) -> ServerSamples:
        """The samples at the server: public, labelled, validation; of length 0 where none are."""
        return self.options.samples

    @property
    def round(self) -> Round:
        """The round as it stands: its number and clients, and what the clients are."""
        supposed: Round | None = self.__dict__.get("_supposed")
        return supposed or conversation.round_of(self.exchange)

    @property
    def fused_kinds(self) -> Mapping[str, Kind]:
        """The kinds of fused knowledge by name, where they are not those of the shares."""
        return {}

    @property
    def has_models(self) -> bool:
        """Whether the method declares models at the server."""
        return type(self).models is not KnowledgeStrategy.models

    def declared(self, supposed: Round) -> Mapping[str, ServerNet]:
        """Return the models at the server for a round that is not there, for checks before it."""
        copied = copy.copy(self)
        copied.__dict__["_supposed"] = supposed
        return copied._declared()

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
            made = self.recipe()  # a user's may return anything
            line = f"recipe() must return a Recipe, not {type(made).__name__}."
            self.__dict__["_settled_recipe"] = of_class(made, Recipe, line).for_the_wire()
        recipe: Recipe = self.__dict__["_settled_recipe"]
        return recipe

    @property
    def follows_progress(self) -> bool:
        """Whether a round depends on the number of rounds planned.

        Then a run made longer differs from a run planned longer. Schedules in the recipe and in
        codecs, and terms with ``follows_progress``, say so by themselves; a class whose server
        reads the number of rounds sets ``follows_progress = True``.
        """
        return self.settled_recipe.follows_progress or follows_progress(self.options.codec, True)

    @property
    def exchange(self) -> Exchange:
        """The exchange with the clients, made on first use."""
        if "_exchange" not in self.__dict__:
            begins = self._phase_begins
            made = Exchange(self.title, self.settled_recipe, self.options, begins)
            self.__dict__["_exchange"] = made
        exchange: Exchange = self.__dict__["_exchange"]
        return exchange

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last finished round; see ``fedkt.snapshot`` for types."""
        states = self._models.states()
        return {
            "memory": copy.deepcopy(self.memory),
            "exchange": self.exchange.state_dict(),
            **({"models": states} if states else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state; the next ``start`` continues from it."""
        self.__dict__.pop("_exchange", None)
        self.__dict__["_memory"] = copy.deepcopy(state["memory"])
        self.__dict__["_server_models"] = ServerModels(state.get("models"))
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

        Beyond Flower's own loop it continues from a loaded state, greets clients that come late or
        come back, calls the observers, and does as the options say where a round misses its quorum.
        ``initial_arrays`` are the first global weights, for methods that exchange weights.
        ``evaluate_fn`` measures the server's model if there is one.

        Raises
        ------
        ConfigError
            If the clients do not fit the method, or an observer is none.
        RunFailedError
            If too few clients are left in a round (``options.on_quorum_missed``).
        """
        for observer in self.observers:
            of_class(observer, Observer, f"{type(observer).__name__} is no fedkt Observer.")
        arrays = initial_arrays if initial_arrays is not None else ArrayRecord()
        self.exchange.rounds = self.options.schedule_rounds or num_rounds
        self.exchange.last_round = num_rounds
        self.exchange.timeout = timeout
        self._meet(grid, arrays)
        # Without a server model the first weights belong to no party, and are not evaluated.
        arrays = self._server_arrays() or ArrayRecord()
        configs = train_config or ConfigRecord(), evaluate_config or ConfigRecord()
        result = Result()
        for server_round in range(self.exchange.next_round, num_rounds + 1):
            began = time.monotonic()
            arrays, trained, evaluated = conversation.turn(
                self, self.exchange, server_round, arrays, grid, configs
            )
            served = conversation.served(self.exchange, evaluate_fn, server_round, arrays)
            conversation.keep(result, server_round, trained, evaluated, served)
            self._finish_round(time.monotonic() - began)
        result.arrays = arrays
        return result

    def _meet(self, grid: Grid, arrays: ArrayRecord) -> None:
        """Greet new clients, build the server's models, once; refuse what cannot work."""
        here, title = len(self.samples.public), self.title
        if self.needs_samples and not here:
            raise ConfigError(f"{title} works on public samples at the server: set options.public.")
        given = title, self.options.models, self.settled_recipe, lambda: self.round
        made = partial(first_weights, *given)

        def remarks() -> Sequence[str]:
            return self.remarks(self.round.training)

        there = self.exchange.meet(grid, arrays, self.first, made, remarks).public_size
        if self.needs_samples and self.settled_recipe.needs_public and here != there:
            raise ConfigError(
                f"{title}: the server has {here} public samples and the clients {there}; they must "
                "be the same."
            )
        _ = self.model  # built before the first round

    def _phase_begins(self, phase: Phase, report: RoundReport) -> None:
        for observer in self.observers:
            observer.phase_began(phase, report, self)

    def _finish_round(self, seconds: float) -> None:
        report = self.exchange.report
        report.seconds = seconds
        self.exchange.next_round = report.round + 1
        for observer in self.observers:
            observer.round_finished(report, self)

    def summary(self) -> None:
        """Log the method and its hyper-parameters."""
        settings = {k: v for k, v in vars(self).items() if not k.startswith("_")}
        log(INFO, "\t├──> %s %s", self.title, settings)

    # --- the messages of a round ---------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages that ask the round's clients, drawn here, to learn and share."""
        self.exchange.next_round = server_round
        self._meet(grid, arrays)
        self.exchange.begin(server_round, self.choose)
        return conversation.to_learn(self.exchange, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the server's weights and the mean loss, after fusing the uploads that are good.

        Where they are too few for ``options.train_quorum`` they are not fused.
        """
        if not conversation.has_first_message(self.exchange.recipe):
            return None, None
        metrics = conversation.read_learning(self.exchange, replies, partial(fusing.fuse, self))
        return self._server_arrays(), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages: participants absorb the fused knowledge, all clients evaluate."""
        return conversation.to_absorb(self.exchange, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the means of the clients' accuracies."""
        return conversation.read_accuracies(self.exchange, replies)

    def _server_arrays(self) -> ArrayRecord | None:
        weights = self.server_weights()
        return None if weights is None else wire.arrays_of(weights)
