"""The batches that a training step draws, each kind from a random stream of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fedkt.clients.learners.base import Work
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives.term import Outputs
from fedkt.recipe import Beside, Train
from fedkt.rng import derive, torch_rng


def epochs(step: Train, work: Work, stream: str, total: int) -> Iterator[Sequence[Tensor]]:
    """Yield for each epoch the batches of a step, as rows ``[B]`` of its ``total`` samples."""
    size = batch_size(step, work)
    if step.pace is None:
        yield from (torch.split(order, size) for order in orders(step, work, stream, total))
        return
    drawn = rehearsal(work, stream)
    for count in passes(step, work, total):
        yield list(itertools.islice(drawn, count))


def batch_size(step: Train, work: Work) -> int:
    """Return the batch size of a step; by default that of the data that set its pace."""
    options = work.options
    public = "public" in (step.on, step.pace)
    return step.batch_size or (options.public_batch_size if public else options.batch_size)


def orders(step: Train, work: Work, stream: str, total: int) -> Iterator[Tensor]:
    """Yield for each epoch the rows of the ``total`` samples that it sees, int64, in their order.

    Public samples come in one order for all clients of a round: a cohort then asks all its
    models about the same rows, whose first layers are one wide product.
    """
    private = step.on == "private"
    name = f"batches/{stream}" if private else f"public-batches/{stream}"
    order = torch_rng(work.seed, name, work.round, work.client if private else 0)
    size = batch_size(step, work)
    for count in step.passes(total, size):
        yield torch.randperm(total, generator=order)[: step.samples or total][: count * size]


def passes(step: Train, work: Work, total: int) -> tuple[int, ...]:
    """Return how many batches each epoch of a step on ``total`` samples has."""
    public = 0 if work.data.public is None else len(work.data.public)
    return step.passes(total if step.pace is None else public, batch_size(step, work))


def progress_at(passes: Sequence[int], number: int) -> float:
    """Return the finished part of a step, in [0, 1], before its batch of a number."""
    if passes[-1] < passes[0]:  # the last is cut
        return min(number / sum(passes), 1.0)
    epoch, batch = divmod(number, passes[0])
    return min((epoch + batch / passes[0]) / len(passes), 1.0)


def rehearsal(work: Work, stream: str) -> Iterator[Tensor]:
    """Yield rows of private batches without end, epoch after epoch."""
    order = torch_rng(work.seed, f"rehearsal/{stream}", work.round, work.client)
    return _endless(len(work.data.train), work.options.batch_size, order)


def noise_keys(works: Sequence[Work], stream: str) -> Tensor:
    """Return the noise keys of K clients in a step, int64 ``[K]``; batch b has these plus b."""
    name = f"noise/{stream}"
    return torch.tensor([derive(work.seed, name, work.round, work.client) for work in works])


def beside(
    spec: Beside | None, work: Work, stream: str, ask: Callable[[Tensor], Outputs]
) -> Iterator[tuple[Outputs, Tensor | None]] | None:
    """Return an endless iterator of outputs and labels for batches beside the private ones.

    None without such batches, or where their source has not arrived.

    Parameters
    ----------
    spec : Beside, optional
        Source and size of the batches.
    work : Work
        Public data and knowledge.
    stream : str
        Name of the step's random stream.
    ask : callable
        Returns the model's outputs for public samples.

    Raises
    ------
    KnowledgeError
        If the source is knowledge without features, and without mean and variance.
    """
    order = torch_rng(work.seed, f"beside/{stream}", work.round, work.client)
    if spec is None:
        return None
    if spec.source == "public":
        public = work.data.public
        if public is None or not len(public):
            return None
        return (
            (ask(public.x[rows]), None if public.y is None else public.y[rows])
            for rows in _endless(len(public), spec.batch_size, order, whole=True)
        )
    bank = work.knowledge.get(spec.source)
    if bank is None:
        return None
    if {"mean", "variance"} <= set(bank.tensors):
        mean, deviation = bank.tensors["mean"], bank.tensors["variance"].clamp_min(0).sqrt()
        shape = spec.batch_size, len(mean)
        noise = (torch.randn(shape, generator=order).to(mean.device) for _ in iter(int, 1))
        return ((_known(mean + deviation * normal), None) for normal in noise)
    features, labels = _features_in(bank, spec.source)
    return (
        (_known(features[rows]), None if labels is None else labels[rows])
        for rows in _endless(len(features), spec.batch_size, order, whole=True)
    )


def _features_in(bank: Knowledge, name: str) -> tuple[Tensor, Tensor | None]:
    """Return the features ``[n, d]`` that knowledge holds, and their labels ``[n]`` if it has any.

    Raises
    ------
    KnowledgeError
        If it holds no features.
    """
    if bank.kind == "features":
        return bank.values, None
    if bank.kind == "prototypes" and bank.ids is not None:
        there = slice(None) if bank.counts is None else bank.counts > 0
        return bank.values[there], bank.ids[there]
    if {"features", "labels"} <= set(bank.tensors):
        return bank.tensors["features"], bank.tensors["labels"].long()
    raise KnowledgeError(f"{name!r} holds neither features nor a mean and variance")


def _known(features: Tensor) -> Outputs:
    """Return outputs with features only, for features that came as knowledge."""
    return Outputs(features.new_zeros(len(features), 0), features, {})


def _endless(
    total: int, size: int, order: torch.Generator, whole: bool = False
) -> Iterator[Tensor]:
    """Yield batches of rows without end; ``whole`` leaves out a short last batch of several."""
    while True:
        batches = torch.split(torch.randperm(total, generator=order), size)
        yield from batches[:-1] if whole and len(batches) > 1 and total % size else batches
