"""A node of a federation: the Flower ClientApp of a party's own data and model."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context

from fedkt.clients.app import KnowledgeClientApp, client_app
from fedkt.clients.client import Client
from fedkt.clients.learners.base import Learner
from fedkt.clients.learners.making import learner_of, make_learner
from fedkt.clients.policy import Policy
from fedkt.clients.state import StateStore
from fedkt.data.samples import ClientData
from fedkt.deploy.node_note import NotedStore
from fedkt.deploy.run_config import options_in
from fedkt.errors import ConfigError, FedktError, of_class
from fedkt.rng import global_torch_stream
from fedkt.training import TrainingOptions

logger = logging.getLogger("fedkt")

TABLE = "training"  # of the run's configuration
SENT = "sent.jsonl"
MOST_KEPT = 64  # parties in one process, of a simulation


def client(
    load_data: Callable[..., ClientData],
    build_model: Callable[..., Any],
    policy: Policy | None = None,
    training: TrainingOptions | None = None,
    *,
    threads: int = 1,
    device: str = "cpu",
) -> KnowledgeClientApp:
    """Return the ClientApp of a party: ``app = fedkt.deploy.client(load_data, build_model)``.

    The node's configuration says which client it is (``partition-id``) and where its state is kept
    (``state-dir``). All that leaves the node is listed in ``sent.jsonl`` there.

    Parameters
    ----------
    load_data : callable
        Returns the party's data, as :meth:`ClientData.from_arrays` makes them. It gets Flower's
        ``Context`` if it has a parameter without a default, or one called ``context``.
    build_model : callable
        Returns a new, untrained model, a torch module or an estimator, or the name of a registered
        model. It gets the context likewise.
    policy : Policy, optional
        What may leave, whatever the server asks for; by default answers on the public set alone.
    training : TrainingOptions, optional
        Options of the training; by default those of the run's configuration (``training.*``).
    threads : int
        Torch's threads. Figures are equal bit for bit for equal numbers only.
    device : str
        torch's name of the device for training.

    Returns
    -------
    KnowledgeClientApp
        For ``flower-supernode``, and for ``flwr run`` in simulation.
    """
    given = Policy() if policy is None else policy
    connect = Party(load_data, build_model, given, training, threads, device)

    def store_of(context: Context) -> StateStore:
        return NotedStore(state_dir(context), context, build_model.__module__)

    return client_app(
        connect, store_of, sent=lambda context: state_dir(context) / SENT, discreet=True
    )


@dataclass(frozen=True, eq=False)
class Party:
    """The functions of a party's app: called with a context, the client of that node.

    Parameters
    ----------
    load_data, build_model, policy, training, threads, device
        See :func:`client`.
    """

    load_data: Callable[..., ClientData]
    build_model: Callable[..., Any]
    policy: Policy = field(default_factory=Policy)
    training: TrainingOptions | None = None
    threads: int = 1
    device: str = "cpu"
    _clients: dict[Hashable, Client] = field(default_factory=dict)

    def __call__(self, context: Context) -> Client:
        """Return the client of a node, with its data loaded once in this process.

        Raises
        ------
        ConfigError
            If the node's configuration, the data or the model cannot be used. What the party's own
            functions raise is named by its type alone, because the text may hold data; the node's
            log has all of it.
        """
        torch.set_num_threads(self.threads)
        key = tuple(sorted(context.node_config.items())), tuple(sorted(context.run_config.items()))
        if key not in self._clients:
            if len(self._clients) >= MOST_KEPT:
                self._clients.pop(next(iter(self._clients)))
            number, options, data = client_id(context), self.options(context), self.data(context)
            learner = self.learner(context, data)
            self._clients[key] = Client(number, learner, data, options, policy=self.policy)
        return self._clients[key]

    def data(self, context: Context) -> ClientData:
        """Return the party's data."""
        line = "load_data must return a ClientData; see ClientData.from_arrays."
        return of_class(ask(self.load_data, context), ClientData, line)

    def options(self, context: Context) -> TrainingOptions:
        """Return the options of training: the party's own, or those of the run's configuration."""
        if self.training is not None:
            return self.training
        values = options_in(context.run_config, TABLE, TrainingOptions)
        for name, value in values.items():
            if isinstance(value, str) and ".py:" in value:  # the server would have it executed
                raise ConfigError(
                    f"training.{name} is {value!r}; a party executes no file that the server "
                    "names: give client(…, training=TrainingOptions(…))."
                )
        return TrainingOptions(**values)

    def model(self, context: Context) -> Any:
        """Return a model as ``build_model`` makes it, or the name of a registered one."""
        with global_torch_stream(0, "probe"):
            return ask(self.build_model, context)

    def learner(self, context: Context, data: ClientData) -> Learner:
        """Return the learner of the party's model."""
        made, shape, classes = self.model(context), data.input_shape, data.num_classes
        if isinstance(made, str):
            return make_learner(made, shape, classes, self.device)
        build = partial(ask, self.build_model, context)
        return learner_of(build, classes, shape, type(made).__name__, self.device)


def client_id(context: Context) -> int:
    """Return the id of a node's client.

    Raises
    ------
    ConfigError
        If the node's configuration does not say it.
    """
    number = context.node_config.get("partition-id")
    if type(number) is not int or number < 0:
        raise ConfigError(
            f"the node's partition-id is {number!r}; it must be a whole number from 0: "
            'flower-supernode --node-config "partition-id=0 num-partitions=3".'
        )
    count = context.node_config.get("num-partitions")
    if type(count) is int and number >= count:
        raise ConfigError(f"the node's partition-id is {number}, and num-partitions {count}.")
    return number


def state_dir(context: Context) -> Path:
    """Return the folder of a node's state: ``state-dir`` of the node, else ``state/client-ID``."""
    folder = context.node_config.get("state-dir")
    return Path(str(folder)) if folder else Path("state") / f"client-{client_id(context)}"


def ask(function: Callable[..., Any], context: Context) -> Any:
    """Return what a function of the user's returns, given the context if it asks for it.

    It does by a parameter without a default, or one called ``context``.

    Raises
    ------
    ConfigError
        If it raises: with the type of the exception, whose text goes to the log here.
    """
    parameters = inspect.signature(function).parameters
    try:
        if "context" in parameters:
            return function(context=context)
        return function(context) if any(map(_is_required, parameters.values())) else function()
    except FedktError:
        raise
    except Exception as error:  # a user's code may raise anything
        name = getattr(function, "__name__", "a function of the app")
        logger.exception("%s raised", name)
        raise ConfigError(
            f"{name} raised {type(error).__name__}; the log of the node says more."
        ) from None


def _is_required(parameter: inspect.Parameter) -> bool:
    several = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in several
