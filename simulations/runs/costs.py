"""The arithmetic of a round in FLOPs: the clients' part, and the fusion's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedkt.clients import TorchLearner
from fedkt.clients.learners.making import make_learner
from fedkt.data.federation import Federation
from fedkt.errors import ConfigError
from fedkt.recipe import Recipe, trainings
from fedkt.rng import global_torch_stream
from fedkt.simulations.engines.population import PopulationSpec
from fedkt.steps import Step
from fedkt.strategies import KnowledgeStrategy

PASSES = 3  # a training step: forward, and backward to the weights and to the activations


def fusion_warning(
    strategy: KnowledgeStrategy,
    population: PopulationSpec,
    federation: Federation,
    participation: float = 1.0,
) -> str | None:
    """Return a warning if the fusion of a round costs more FLOPs than all its clients; else None.

    A fusion for each of K clients of the uploads of all of them costs 2 K² M C FLOPs (M samples, C
    classes); it is the larger part from K = F / (2 M C) clients on, if F are those of one client.

    Parameters
    ----------
    strategy : KnowledgeStrategy
        The method; its ``fusion_flops`` is asked.
    population : PopulationSpec
        The clients' models.
    federation : Federation
        Their data.
    participation : float
        The part of the clients that take part in a round.
    """
    recipe, public = strategy.settled_recipe, len(federation.public_x)
    rows = max(_shared_rows(recipe, public), default=0)
    clients = max(1, round(participation * federation.num_clients))
    fusion = strategy.fusion_flops(clients, rows, federation.num_classes)
    if not fusion:
        return None
    each = _client_flops(recipe, population, federation)
    if each is None or fusion <= (training := clients * each):
        return None
    return (
        f"{strategy.title}: fusing for each of {clients:,} clients takes {fusion:.1e} FLOP a "
        f"round and all that the clients compute takes {training:.1e}; a sparse fusion costs less "
        "(knfu: nearest), and so do fewer public samples or lower participation."
    )


def forward_flops(model: nn.Module, input_shape: tuple[int, ...]) -> float:
    """Return the FLOPs of a model's answer for one sample, matrix products only."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *input_shape))
    return float(counter.get_total_flops())


def flops_by_client(
    recipe: Recipe, population: PopulationSpec, federation: Federation
) -> Callable[[int], tuple[float, float]]:
    """Return a function from a client to its FLOPs in a round, before its upload and after.

    Raises
    ------
    ConfigError
        If those of a model are not known: it is no network, or has no matrix products.
    """
    public, forward = len(federation.public_x), {}
    for model in dict.fromkeys(population.models):
        each = _forward(model, federation)
        if not each:
            raise ConfigError(f"availability: the FLOPs of model {model!r} are not known.")
        forward[model] = each
    shared = sum(_shared_rows(recipe, public))

    def of_client(client: int) -> tuple[float, float]:
        private, each = len(federation.client(client).train), forward[population.model_of(client)]
        learn = _trained_rows(recipe.learn, private, public) + shared
        return each * learn, each * _trained_rows(recipe.absorb, private, public)

    return lru_cache(maxsize=None)(of_client)


def _client_flops(
    recipe: Recipe, population: PopulationSpec, federation: Federation
) -> float | None:
    """Return the FLOPs of a client and round, the mean over the models; None if not known of all.

    They are not known of a forest, nor of a network without matrix products.
    """
    private = len(federation.rows) / federation.num_clients
    public = len(federation.public_x)
    samples = _trained_rows((*recipe.learn, *recipe.absorb), private, public)
    samples += sum(_shared_rows(recipe, public))
    each = [_forward(reference, federation) for reference in population.models]
    return samples * sum(each) / len(each) if all(each) else None


def _forward(reference: str, federation: Federation) -> float:
    """Return the FLOPs of a model's answer for one sample; 0 if they are not known."""
    shape = federation.input_shape
    made = make_learner(reference, shape, federation.num_classes)
    learner: TorchLearner | None = made.as_network()
    if learner is None:
        return 0.0
    with global_torch_stream(0, "probe"):
        return forward_flops(learner.model, shape)


def _trained_rows(steps: Iterable[Step], private: float, public: int) -> float:
    """Return how many samples go through the model in training, each pass counted."""
    samples = 0.0
    for step in trainings(steps):
        rows = _rows(step.samples, private if step.on == "private" else public)
        samples += PASSES * step.epochs * rows * (2 if step.rehearse else 1)
    return samples


def _shared_rows(recipe: Recipe, public: int) -> list[int]:
    """Return how many public samples each share speaks about in a round."""
    ids = [share.ids(public, 0, 1) for share in recipe.share]
    return [0 if of_share is None else len(of_share) for of_share in ids]


def _rows(limit: int, available: float) -> float:
    return min(limit, available) if limit else available
