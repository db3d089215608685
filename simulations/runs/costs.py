"""The arithmetic of a round in FLOPs: the clients' part, and the fusion's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedkt.clients import TorchLearner, Work
from fedkt.clients.learners.making import make_learner
from fedkt.data.federation import Federation
from fedkt.errors import ConfigError
from fedkt.recipe import Recipe, trainings
from fedkt.recipe.budget import limited
from fedkt.shares import Share
from fedkt.simulations.engines.population import PopulationSpec
from fedkt.steps import Step
from fedkt.strategies import KnowledgeStrategy
from fedkt.text import raised

PASSES = 3.0  # a training step: forward, and backward to the weights and to the activations


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


def forward_flops(
    model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> float:
    """Return the FLOPs of a model's answer for one sample, matrix products only."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *input_shape, dtype=dtype))
    return float(counter.get_total_flops())


def passes(
    model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> float:
    """Return the FLOPs of a training step on a sample, as multiples of those of its answer.

    Counted where parameters are frozen: behind them no gradient goes to weights, and none at all to
    what lies before the first that is trained.
    """
    answer = forward_flops(model, input_shape, dtype)
    if not answer or all(parameter.requires_grad for parameter in model.parameters()):
        return PASSES
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *input_shape, dtype=dtype)).sum().backward()
    model.zero_grad()
    return float(counter.get_total_flops()) / answer


def flops_by_client(
    recipe: Recipe, population: PopulationSpec, federation: Federation
) -> Callable[[int], tuple[float, float]]:
    """Return a function from a client to its FLOPs in a round, before its upload and after.

    Matrix products of training (rehearsal, samples beside, nets beside the model and the copy of a
    read-out included), and of the answers that shares and kept knowledge are made of. Not counted
    are what terms ask besides (``outputs.ask``), steps that train without being a ``Train``, the
    start before the first round, and measuring.

    Raises
    ------
    ConfigError
        If those of a model are not known: it is no network, or has no matrix products; or those of
        a part are not, whose questions follow from knowledge that only the run has.
    """
    models = dict.fromkeys(population.models)
    forward = {model: _forward(model, recipe, federation) for model in models}
    trained = {model: _passes(model, federation) for model in models}
    unknown = [model for model, flops in forward.items() if not flops]
    if unknown:
        raise ConfigError(f"availability: the FLOPs of model {unknown[0]!r} are not known.")

    def of_client(client: int) -> tuple[float, float]:
        model = population.model_of(client)
        data, each, times = federation.client(client), forward[model], trained[model]
        work = Work(data, {}, population.training, 0, 1, client)  # every seed draws as many
        again = recipe.learn if recipe.personal.copies else ()
        later = _private_rows(again, recipe, work) + _trained_rows(recipe.absorb, recipe, work)
        before = times * _trained_rows(recipe.learn, recipe, work) + _asked_rows(recipe.learn, work)
        after = times * later + _asked_rows(recipe.absorb, work)
        return each * (before + _asked_rows(recipe.share, work)), each * after

    of_each = lru_cache(maxsize=None)(of_client)
    of_each(0)  # what is not known shows here, before the run
    return of_each


def _client_flops(
    recipe: Recipe, population: PopulationSpec, federation: Federation
) -> float | None:
    """Return the FLOPs of a client and round, the mean over at most a hundred; None if not known.

    They are not known of a forest, nor of a network without matrix products.
    """
    try:
        of_client = flops_by_client(recipe, population, federation)
    except ConfigError:
        return None
    clients = range(0, federation.num_clients, -(-federation.num_clients // 100))
    return sum(sum(of_client(client)) for client in clients) / len(clients)


def _forward(reference: str, recipe: Recipe, federation: Federation) -> float:
    """Return the FLOPs of an answer of a model for one sample; 0 if they are not known."""
    shape, dtype = federation.input_shape, federation.input_dtype
    made = make_learner(reference, shape, federation.num_classes)
    learner: TorchLearner | None = made.as_network()
    if learner is None or not (flops := forward_flops(learner.model, shape, dtype)):
        return 0.0
    learner.follow(recipe)
    for head in recipe.heads:
        module = learner.heads[head.name]
        # A head that answers goes from inputs to logits; the others are layers on features.
        matrices = sum(p.numel() for p in module.parameters() if p.dim() > 1)
        flops += forward_flops(module, shape, dtype) if head.answers() else 2.0 * matrices
    return flops


def _passes(reference: str, federation: Federation) -> float:
    shape, dtype = federation.input_shape, federation.input_dtype
    made = make_learner(reference, shape, federation.num_classes)
    learner: TorchLearner | None = made.as_network()
    return PASSES if learner is None else passes(learner.model, shape, dtype)


def _trained_rows(steps: Iterable[Step], recipe: Recipe, work: Work) -> float:
    """Return how many samples go through the model in training, each pass counted."""
    public = 0 if work.data.public is None else len(work.data.public)
    rows = float(_private_rows(steps, recipe, work))
    for step in map(partial(limited, recipe=recipe), trainings(steps)):
        if step.on == "public":
            rows += step.rows(public, step.batch_size or work.options.public_batch_size)
        elif step.beside is not None and step.beside.source == "public":
            batches = step.passes(len(work.data.train), step.batch_size or work.options.batch_size)
            rows += sum(batches) * min(step.beside.batch_size, public)
    return rows


def _private_rows(steps: Iterable[Step], recipe: Recipe, work: Work) -> int:
    """Return how many private samples some steps train on."""
    public = 0 if work.data.public is None else len(work.data.public)
    known = map(partial(limited, recipe=recipe), trainings(steps))
    return sum(step.budget(len(work.data.train), public, work.options) for step in known)


def _asked_rows(parts: Iterable[Step | Share], work: Work) -> int:
    """Return how many samples a model answers for shares, or for what steps keep."""
    rows = 0
    for part in parts:
        try:
            rows += sum(len(question.x) for question in part.questions(work))
        except Exception as error:  # a user's code may raise anything
            what = f"what {type(part).__name__} asks the model is not known before the run"
            raise ConfigError(f"availability: {what} ({raised(error)}).") from error
    return rows


def _shared_rows(recipe: Recipe, public: int) -> list[int]:
    """Return how many public samples each share speaks about in a round."""
    ids = [share.ids(public, 0, 1) for share in recipe.share]
    return [0 if of_share is None else len(of_share) for of_share in ids]
