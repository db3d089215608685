"""Models at the server, as a strategy sees them; see ``fedkt.context`` for their declaration."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor

from fedkt.context import Round, ServerNet, ServerSamples
from fedkt.data.samples import Samples
from fedkt.errors import ConfigError, FedktError, of_class
from fedkt.knowledge import Knowledge, NamedTensors
from fedkt.objectives.term import Outputs
from fedkt.recipe import Recipe, Train
from fedkt.schedules import Schedule
from fedkt.text import raised

# What a deployer whose method lacks a model at the server is told.
MAKERS = (
    "set options.models, e.g. to fedkt.clients.LearnerModels; "
    "in a deployed app, fedkt.deploy.server(server_model=…)."
)


class ServerModel(Protocol):
    """A model at the server, as a strategy sees it; all tensors are on the CPU.

    ``fedkt.clients.LearnerModels`` makes such models. Their states are in every checkpoint.
    """

    def train(
        self,
        step: Train,
        knowledge: Mapping[str, Knowledge],
        stream: str,
        samples: Samples | None = None,
    ) -> float | None:
        """Train by one step ``on="public"``, which stands for the server's samples.

        Parameters
        ----------
        step : Train
            The step; its terms read ``knowledge``.
        knowledge : Mapping[str, Knowledge]
            Knowledge by name.
        stream : str
            Name of the random stream: another for each training of a round.
        samples : Samples, optional
            The samples; by default the public set without labels.

        Returns
        -------
        float or None
            Mean loss of the last epoch; None if there was nothing to do.

        Raises
        ------
        ConfigError
            If the step is on private data, or there are no samples.
        """
        ...

    def minimise(
        self, loss: Callable[[], Tensor], steps: int, stream: str, rate: float | Schedule = 1.0
    ) -> float | None:
        """Take steps down the gradient of a loss by the model's own optimiser.

        Parameters
        ----------
        loss : callable
            Returns the loss, a scalar that depends on the model's weights by ``ask``. It is
            computed anew for each step. Torch's global generator is on a stream of its own.
        steps : int
            Number of steps.
        stream : str
            Name of the random stream.
        rate : float or Schedule
            Factor of the learning rate; a schedule follows the progress of the run.

        Returns
        -------
        float or None
            Mean loss over the steps, NaN if weights or moments are no longer finite; None
            without a step.
        """
        ...

    def predict(self, x: Tensor) -> Tensor:
        """Return logits ``[n, C]`` float32 of inputs ``[n, ...]``, n ≥ 1, without gradients."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Return features ``[n, d]`` float32 of inputs ``[n, ...]``, n ≥ 1, without gradients."""
        ...

    def classify(self, z: Tensor, weights: NamedTensors | None = None) -> Tensor:
        """Return logits ``[n, C]`` of features ``[n, d]``, differentiable in both.

        ``weights`` take the place of the model's own by its names; names of other parts than its
        last layer are ignored.
        """
        ...

    def ask(
        self, weights: NamedTensors | None, x: Tensor, grad: bool = True, norms: bool = False
    ) -> Outputs:
        """Return the outputs of the model with other weights, ``x [n, ...]``.

        Parameters
        ----------
        weights : Knowledge or Mapping[str, Tensor], optional
            Weights in place of the model's own by its names; the others are its own.
        x : Tensor
            The inputs.
        grad : bool
            Whether the outputs are differentiable in x, in the weights and in the model's own.
        norms : bool
            Whether the outputs have ``norms``, what layers of batch normalisation took in.

        Returns
        -------
        Outputs
            In evaluation mode, and nothing changes. Without ``weights`` inside ``minimise`` of this
            model they are those of training mode: batch normalisation learns its statistics.
        """
        ...

    def adapt_norms(self, x: Tensor) -> None:
        """Replace the statistics of batch normalisation by those of inputs ``[n, ...]``, n ≥ 1."""
        ...

    def weights(self) -> Knowledge:
        """Return the model's weights."""
        ...

    def load_weights(self, weights: Knowledge) -> None:
        """Load weights; the optimiser starts anew."""
        ...

    def state(self) -> dict[str, Any]:
        """Return a copy of the state that training changes; see ``fedkt.snapshot`` for types."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become the model that ``state`` describes."""
        ...


class MakeModel(Protocol):
    """The maker of models at the server, which the deployer gives (``ServerOptions.models``)."""

    def __call__(
        self,
        net: ServerNet,
        number: int,
        recipe: Recipe,
        samples: ServerSamples,
        now: Callable[[], Round],
    ) -> ServerModel:
        """Return an untrained model.

        Parameters
        ----------
        net : ServerNet
            Its declaration.
        number : int
            Its number in the order of the declarations, from 0, which names its random streams.
        recipe : Recipe
            Recipe of the method, for the heads of models like the clients'.
        samples : ServerSamples
            The samples at the server.
        now : callable
            Returns the round.

        Raises
        ------
        ConfigError
            If there is no such model, or it is no network.
        """
        ...

    def first(self, recipe: Recipe, now: Round) -> Knowledge:
        """Return the first global weights of a recipe: those of an untrained model like clients'.

        Raises
        ------
        ConfigError
            If there is no such model, or it is no network.
        """
        ...


def declarations(
    title: str, models: Callable[[], Any], serves: Callable[[], str | None]
) -> Mapping[str, ServerNet]:
    """Return the models that a method declares, by name.

    Parameters
    ----------
    title : str
        The method's name, for messages.
    models : callable
        Returns the declarations.
    serves : callable
        Returns the name of the model that is evaluated; asked after ``models``, which may set it.

    Raises
    ------
    ConfigError
        If ``models`` raises or returns something else, or does not declare what ``serves`` names.
    """
    try:
        nets = models()
    except FedktError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(f"{title}: models() raised {raised(error)}.") from error
    line = f"{title}: models() must return {{name: ServerNet(…)}}."
    if not isinstance(nets, Mapping):
        raise ConfigError(line)
    declared = {name: of_class(net, ServerNet, line) for name, net in nets.items()}
    if (name := serves()) is not None and name not in declared:
        names = ", ".join(declared) or "none"
        raise ConfigError(f"{title} serves {name!r}; its models at the server: {names}.")
    return declared


def first_weights(
    title: str, make: MakeModel | None, recipe: Recipe, now: Callable[[], Round]
) -> Knowledge:
    """Return the first global weights of a method whose deployer gives none.

    Raises
    ------
    ConfigError
        If nothing makes them, or they cannot be made.
    """
    if make is None:
        raise ConfigError(
            f"{title} exchanges weights and needs initial_arrays, or a model at the server: "
            f"{MAKERS}"
        )
    return make.first(recipe, now())


def new_model(
    title: str,
    make: MakeModel | None,
    name: str,
    net: ServerNet,
    number: int,
    recipe: Recipe,
    samples: ServerSamples,
    now: Callable[[], Round],
) -> ServerModel:
    """Return a model of a method, untrained; see :class:`MakeModel`.

    Raises
    ------
    ConfigError
        If nothing makes models, or this one cannot be made.
    """
    if make is None:
        raise ConfigError(
            f"{title} works with a model at the server, and nothing makes one: {MAKERS}"
        )
    try:
        return make(net, number, recipe, samples, now)
    except FedktError:
        raise
    except Exception as error:  # a user's factory may raise anything
        where = f"{title}, model {name!r} at the server"
        raise ConfigError(f"{where}: its build raised {raised(error)}.") from error


class ServerModels(Mapping[str, ServerModel]):
    """The models of one run at the server by name, in the order of their declaration."""

    def __init__(self, states: Mapping[str, Any] | None = None) -> None:
        self._models: dict[str, ServerModel] = {}
        self._states = dict(states or {})  # of models to be built
        self._begun = False

    def build(
        self,
        declared: Callable[[], Mapping[str, ServerNet]],
        make: Callable[[str, ServerNet, int], ServerModel],
    ) -> None:
        """Build the models, once; models that are there already may be asked meanwhile.

        Parameters
        ----------
        declared : callable
            Returns the declarations by name.
        make : callable
            Returns the model of a name, its declaration and its number.
        """
        if self._begun:
            return
        self._begun = True
        try:
            for number, (name, net) in enumerate(declared().items()):
                self._models[name] = make(name, net, number)
                if name in self._states:
                    self._models[name].load_state(copy.deepcopy(self._states[name]))
        except BaseException:
            self._models, self._begun = {}, False
            raise

    def states(self) -> dict[str, Any]:
        """Return copies of the states by name, also of those that are still to be built."""
        return self._states | {name: model.state() for name, model in self._models.items()}

    def load_states(self, states: Mapping[str, Any]) -> None:
        """Load states of models that are built."""
        for name, state in states.items():
            self._models[name].load_state(copy.deepcopy(state))

    def __getitem__(self, name: str) -> ServerModel:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)
