"""Learners at the server: the same models and the same training loop as at the clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedkt import registry
from fedkt.clients.learners import loop
from fedkt.clients.learners.asking import asking
from fedkt.clients.learners.base import Work
from fedkt.clients.learners.feature_hook import FeatureTap
from fedkt.clients.learners.making import first_weights, learner_of, make_learner
from fedkt.clients.learners.norms import NormTap
from fedkt.clients.learners.objective import scalar
from fedkt.clients.learners.torch import TorchLearner
from fedkt.context import CLIENT, Round, ServerNet, ServerSamples
from fedkt.data.samples import ClientData, Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge, NamedTensors, tensors_of
from fedkt.objectives.heads import PREFIX as HEADS
from fedkt.objectives.term import Outputs
from fedkt.recipe import Recipe, Train
from fedkt.registry import name_of
from fedkt.rng import global_torch_stream
from fedkt.schedules import Schedule, at, settled
from fedkt.training import TrainingOptions

SERVER = -1  # no client has this id; it names the random streams of the server's first model

Factory = Callable[[tuple[int, ...], int], nn.Module]


@dataclass(frozen=True)
class LearnerModels:
    """The maker of models at a server: networks that train as the clients' do.

    Parameters
    ----------
    client : str or callable
        The model like the clients': a registered name, ``file.py:function``, or a function that
        returns a new one.
    training : TrainingOptions
        Options of training, unless a model has its own.
    device : str
        torch's name of the device for training; answers are on the CPU.
    trusted : tuple[str, ...]
        References of files that a client's architecture may name. A client may name registered
        models in any case, and no other file, because files are executed.
    """

    client: str | Callable[[], Any]
    training: TrainingOptions = field(default_factory=TrainingOptions)
    device: str = "cpu"
    trusted: tuple[str, ...] = ()

    def __call__(
        self,
        net: ServerNet,
        number: int,
        recipe: Recipe,
        samples: ServerSamples,
        now: Callable[[], Round],
    ) -> LearnerModel:
        """Return an untrained model; see ``fedkt.strategies.server.model.MakeModel``."""
        learner = self.learner(net.build, now())
        if isinstance(net.build, str) and (net.build == CLIENT or "#" in net.build):
            learner.follow(recipe)
        return LearnerModel(learner, number, net.options or self.training, samples.public, now)

    def first(self, recipe: Recipe, now: Round) -> Knowledge:
        """Return the first global weights; see ``fedkt.strategies.server.model.MakeModel``."""
        return first_weights(self.learner(CLIENT, now), recipe, now.seed, SERVER)

    def learner(self, build: str | Factory, now: Round) -> TorchLearner:
        """Return the learner of a model.

        Raises
        ------
        ConfigError
            If there is no such model, or it is no network.
        """
        shape, classes = now.input_shape, now.num_classes
        if not isinstance(build, str):
            name = name_of(build) if hasattr(build, "__name__") else type(build).__name__
            return TorchLearner(partial(build, shape, classes), classes, name, self.device)
        name, hashed, _ = build.rpartition("#")
        if hashed and name not in self.trusted:
            registry.lookup("models", name, files=False)
        reference = self.client if build == CLIENT else name or build
        if callable(reference):
            made = learner_of(reference, classes, shape, device=self.device)
        else:
            made = make_learner(reference, shape, classes, self.device)
        learner: TorchLearner | None = made.as_network()
        if learner is None:
            named = made.architecture if callable(reference) else reference
            raise ConfigError(f"{named!r} is no network, and the server's models are.")
        if hashed and learner.architecture != build:
            raise ConfigError(f"{name!r} at the server is {learner.architecture}, not {build}.")
        return learner


class LearnerModel:
    """A model at the server; see ``fedkt.strategies.server.model.ServerModel``.

    Parameters
    ----------
    learner : TorchLearner
        The learner; only this model may use it, because it is not reloaded before every use.
    number : int
        The number of the model, from 0.
    options : TrainingOptions
        Options of its training.
    samples : Samples
        The samples that it trains on by default.
    now : callable
        Returns the round.
    """

    def __init__(
        self,
        learner: TorchLearner,
        number: int,
        options: TrainingOptions,
        samples: Samples,
        now: Callable[[], Round],
    ) -> None:
        self._learner, self._options, self._now = learner, options, now
        self._client, self._minimising = SERVER - number, False
        self._data = self._data_of(samples)
        learner.reset(now().seed, self._client)
        self._first = learner.state()

    def train(
        self,
        step: Train,
        knowledge: Mapping[str, Knowledge],
        stream: str,
        samples: Samples | None = None,
    ) -> float | None:
        """Train by one step on samples, by default the server's; return its loss if any."""
        if step.on != "public":
            raise ConfigError(f"The server has no {step.on} data; a step there is on the public.")
        data = self._data if samples is None else self._data_of(samples)
        assert data.public is not None
        _present(data.public.x)
        now = self._now()
        names = now.seed, now.number, self._client
        work = Work(data, knowledge, self._options, *names, rounds=now.total)
        return self._learner.train(step, work, stream)

    def minimise(
        self, loss: Callable[[], Tensor], steps: int, stream: str, rate: float | Schedule = 1.0
    ) -> float | None:
        """Take steps down the gradient of a loss; return its mean, None without a step."""
        now, optimiser = self._now(), self._learner.optimiser(self._options)
        share = 1 / now.total if now.total else 0.0  # of the run, that a round is
        points = (now.progress + share * step / steps for step in range(steps))
        rates = [self._options.learning_rate * settled(at(rate, point)) for point in points]
        with (
            global_torch_stream(now.seed, f"minimise/{stream}", now.number, self._client),
            self._training(),
        ):
            losses = [loop.descend(optimiser, scalar(loss(), _must), rate) for rate in rates]
        if not losses:
            return None
        return float(torch.stack(losses).mean()) if optimiser.finite() else torch.nan

    def predict(self, x: Tensor) -> Tensor:
        """Return logits ``[n, C]`` of inputs ``[n, ...]``."""
        return self._learner.predict(_present(x))

    def features(self, x: Tensor) -> Tensor:
        """Return features ``[n, d]`` of inputs ``[n, ...]``."""
        return self._learner.features(_present(x))

    def adapt_norms(self, x: Tensor) -> None:
        """Take the statistics of batch normalisation from inputs."""
        self._learner.adapt_norms(_present(x))

    def classify(self, z: Tensor, weights: NamedTensors | None = None) -> Tensor:
        """Return logits ``[n, C]`` of features ``[n, d]``."""
        model, device = self._learner.model, self._learner.device
        tap = FeatureTap(model, open_ended=self._learner.nature(self._inputs).open_ended)
        classify = tap.classifier(dict(model.named_parameters()))
        if classify is None:
            raise ConfigError(f"{self._learner.architecture} has no linear layer to classify with.")
        return classify(z.to(device), _tensors(weights, device)).cpu()

    def ask(
        self, weights: NamedTensors | None, x: Tensor, grad: bool = True, norms: bool = False
    ) -> Outputs:
        """Return the outputs of the model with other weights on inputs ``[n, ...]``."""
        learner, x = self._learner, x.to(self._learner.device)
        own = dict(learner.model.named_parameters())
        own |= {f"{HEADS}.{name}": p for name, p in learner.heads.named_parameters()}
        own = {n: p for n, p in own.items() if n not in learner.constants}
        with (
            torch.set_grad_enabled(grad),
            FeatureTap(learner.model) as tap,
            NormTap(learner.model, norms) as seen,
        ):
            if weights is None and self._minimising:
                outputs = Outputs(learner.model(x), tap.features, own)
            else:
                outputs = asking(learner.model, tap, own)(_tensors(weights, learner.device), x)
        features = None if outputs.features is None else outputs.features.cpu()
        # The tap is closed: these outputs answer no further questions, the model does.
        moments = {name: (m.cpu(), v.cpu()) for name, (m, v) in seen.moments.items()}
        return replace(
            outputs,
            logits=outputs.logits.cpu(),
            features=features,
            classify=None,
            ask=None,
            norms=moments,
        )

    def weights(self) -> Knowledge:
        """Return the model's weights."""
        return self._learner.weights()

    def load_weights(self, weights: Knowledge) -> None:
        """Load weights; the optimiser and the counters of batches start anew."""
        self._learner.load_state(self._first)
        self._learner.load_weights(weights)

    def state(self) -> dict[str, Any]:
        """Return a copy of the learner's state."""
        return self._learner.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load a state of the learner."""
        self._learner.load_state(state)

    @property
    def _inputs(self) -> Tensor:
        """Inputs to try the network on, real ones where there are any."""
        assert self._data.public is not None
        x = self._data.public.x
        return x if len(x) else x.new_zeros(1, *self._now().input_shape)

    def _data_of(self, samples: Samples) -> ClientData:
        none = Samples(samples.x[:0], torch.zeros(0, dtype=torch.int64), torch.arange(0))
        classes, shape = self._learner.num_classes, tuple(samples.x.shape[1:])
        return ClientData(none, none, none, samples, None, classes, shape)

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Keep the model in training mode while inside."""
        self._minimising = True
        self._learner.model.train()
        try:
            yield
        finally:
            self._learner.model.eval()
            self._minimising = False


def _must() -> str:
    return "minimise: the loss must be a scalar tensor"


def _present(x: Tensor) -> Tensor:
    if not len(x):
        raise ConfigError("The server has no samples to work on.")
    return x


def _tensors(weights: NamedTensors | None, device: torch.device) -> dict[str, Tensor]:
    """Return weights by name, on a device."""
    named = {} if weights is None else tensors_of(weights)
    return {name: tensor.to(device) for name, tensor in named.items()}
