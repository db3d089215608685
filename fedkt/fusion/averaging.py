"""Averages over clients, one for all or one for each client."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkt.errors import KnowledgeError
from fedkt.fusion.fusion import Fusion, FusionRound, WeightedMean, like, of_rows, refuse_labels
from fedkt.knowledge import Fused, Knowledge, Stack
from fedkt.machine import empty
from fedkt.options import Fraction
from fedkt.registry import register

BLOCK = 2_000_000  # numbers multiplied at a time: 8 MB, and as many for the result
SPARSE, SPARSE_FROM = 0.01, 500  # the density, and the clients, where a sparse product pays


def mean(stack: Stack) -> Fused:
    """Average the clients with equal weight; one result, broadcast.

    Parameters
    ----------
    stack : Stack
        Logits, probabilities, features, class knowledge or weights of N clients.

    Returns
    -------
    Fused
        Knowledge of the same kind. The mean of probabilities is not the softmax of the
        mean of logits: the kind that was shared is the kind that is averaged. A row is averaged
        over the clients that have it. A sample that nobody has is left out; a class that nobody has
        has a count of 0. So it is in the other averages.
    """
    return average(stack, torch.full((len(stack),), 1 / len(stack)))


def mean_by_examples(stack: Stack) -> Fused:
    """Average the clients by their number of examples; one result, broadcast.

    McMahan et al. (2017), arXiv:1602.05629, algorithm 1, when the knowledge is weights.
    """
    total = stack.num_examples.sum()
    if total <= 0:
        return mean(stack)
    return average(stack, stack.num_examples / total)


def personalised_mean(stack: Stack, weights: Tensor) -> Fused:
    """Average the clients anew for each client, with that client's weights; unicast.

    Parameters
    ----------
    stack : Stack
        Knowledge of N clients with rows, ``values`` of shape ``[N, M, ...]``.
    weights : Tensor
        ``[N, N]`` float32, row-stochastic: row n holds what client n takes from each.

    Returns
    -------
    Fused
        ``Σ_m weights[n, m] · values[m]`` for each client n; see :func:`mix_rows`.
    """
    refuse_labels(stack.kind)
    if set(stack.tensors) != {"values"}:
        raise KnowledgeError(f"{stack.kind} have no rows; the personalised mean needs rows")
    if stack.present is not None:
        return _personalised_over_present(stack, weights, stack.present)
    fused = mix_rows(weights, stack.values)
    return Fused(
        personal={
            client: {stack.name: Knowledge(stack.kind, {"values": fused[n]}, stack.ids)}
            for n, client in enumerate(stack.clients)
        }
    )


def _personalised_over_present(stack: Stack, weights: Tensor, present: Tensor) -> Fused:
    covered = weights @ present.to(weights.dtype)
    masked = torch.where(like(present, stack.values), stack.values, 0)
    sums, personal = mix_rows(weights, masked), {}
    assert stack.ids is not None
    counts = stack.sum_of_counts
    for n, client in enumerate(stack.clients):
        rows = covered[n] > 0
        total = torch.where(rows, covered[n], 1).to(sums.dtype)
        values = sums[n] / like(total, sums[n])
        personal[client] = {stack.name: of_rows(stack.kind, values, stack.ids, rows, counts)}
    return Fused(personal=personal)


def average_rows(stack: Stack, weights: Tensor) -> Knowledge:
    """Average each row over the clients that give it weight.

    Parameters
    ----------
    stack : Stack
        Knowledge with rows, ``values`` of shape ``[N, M, ...]``.
    weights : Tensor
        ``[N, M]``, non-negative; they need not sum to 1.

    Returns
    -------
    Knowledge
        Of the same kind, without the samples to which nobody gives weight; such classes have a
        count of 0.
    """
    assert stack.ids is not None
    total = weights.sum(0)
    covered = total > 0
    share = (weights / torch.where(covered, total, 1)).to(stack.values.dtype)
    mixed = torch.einsum("nm,nm...->m...", share, stack.values)
    return of_rows(stack.kind, mixed, stack.ids, covered, stack.sum_of_counts)


def mix_rows(weights: Tensor, values: Tensor) -> Tensor:
    """Return ``Σ_m weights[n, m] · values[m]`` for each n.

    Block by block, so that beside the result only tens of megabytes are needed: the product
    reads a block that lies together faster than rows which are megabytes apart, and values of
    half precision are multiplied in float32. Weights of which at most a hundredth is not 0 are
    multiplied as a sparse matrix, which then is faster.

    Parameters
    ----------
    weights : Tensor
        ``[N', N]``.
    values : Tensor
        ``[N, M, ...]``, of any floating dtype.

    Returns
    -------
    Tensor
        ``[N', M, ...]``, of the values' dtype.
    """
    clients, flat = len(values), values.flatten(1)
    halved = values.dtype in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if halved else values.dtype
    operator = weights.to(dtype)
    most = SPARSE * weights.numel()
    sparse = clients >= SPARSE_FROM and int(torch.count_nonzero(weights)) <= most
    shape = len(weights), *values.shape[1:]
    if weights.requires_grad or values.requires_grad:  # their gradient is asked for
        return (operator @ flat.to(dtype)).to(values.dtype).view(shape)
    if sparse:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            operator = operator.to_sparse_csr()
    rows, total = len(weights), flat.shape[1]
    mixed = empty((rows, total), values.dtype)
    step = min(total, max(1, BLOCK // max(1, clients, rows)))
    # Used for all blocks, because memory of this size is new, and slow, whenever it is asked for.
    inputs, outputs = (torch.empty(step * n, dtype=dtype) for n in (clients, rows))
    for at in range(0, total, step or 1):
        columns = flat[:, at : at + step]
        block = inputs[: columns.numel()].view(columns.shape).copy_(columns)
        product = outputs[: rows * columns.shape[1]].view(rows, -1)
        mixed[:, at : at + step] = torch.mm(operator, block, out=product)
    return mixed.view(shape)


def average(stack: Stack, weights: Tensor) -> Fused:
    """Average the clients with given weights; one result, broadcast.

    Parameters
    ----------
    stack : Stack
        As in :func:`mean`.
    weights : Tensor
        ``[N]`` float32 on the simplex.
    """
    refuse_labels(stack.kind)
    if stack.present is not None:
        rows = average_rows(stack, weights[:, None] * stack.present)
        return Fused(shared={stack.name: rows})
    tensors = {
        name: (weights.to(t.dtype) @ t.flatten(1)).view(t.shape[1:]) if t.dim() > 1 else weights @ t
        for name, t in stack.tensors.items()
    }
    if stack.ids is None:
        return Fused(shared={stack.name: Knowledge(stack.kind, tensors)})
    rows = of_rows(stack.kind, tensors["values"], stack.ids, stack.covered, stack.sum_of_counts)
    return Fused(shared={stack.name: rows})


def mean_by_counts(stack: Stack) -> Fused:
    """Average each row over the clients by their counts of it; one result, broadcast.

    The mean of all examples behind a row where uploads are means of theirs: class prototypes as
    FedProto aggregates them (Tan et al., AAAI 2022, equation 6), class logits. Without counts it is
    the plain mean.

    Parameters
    ----------
    stack : Stack
        Knowledge with rows, ``values`` of shape ``[N, M, ...]``.
    """
    if stack.counts is None:
        return mean(stack)
    refuse_labels(stack.kind)
    return Fused(shared={stack.name: average_rows(stack, stack.counts.to(torch.float32))})


@register
@dataclass(frozen=True)
class Mean(WeightedMean):
    """The plain mean of the clients; a row's goes over those that have it."""

    name: ClassVar[str] = "mean"

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        """Return the mean."""
        return mean(stack).shared[stack.name]

    def weight(self, knowledge: Knowledge, num_examples: int) -> Tensor:
        """Return 1."""
        return torch.ones(())


@register
@dataclass(frozen=True)
class MeanByExamples(WeightedMean):
    """The mean of the clients weighted by their numbers of examples.

    See :func:`mean_by_examples`. A row's goes over the clients that have it. Where nobody has
    examples it is the plain mean; sums do not tell that, and are refused then.
    """

    name: ClassVar[str] = "mean-by-examples"

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        """Return the mean by examples."""
        return mean_by_examples(stack).shared[stack.name]

    def weight(self, knowledge: Knowledge, num_examples: int) -> Tensor:
        """Return the number of examples."""
        return torch.tensor(float(num_examples))


@register
@dataclass(frozen=True)
class MeanByCounts(WeightedMean):
    """The mean of each row weighted by the clients' counts of it."""

    name: ClassVar[str] = "mean-by-counts"

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        """Return the mean by counts."""
        return mean_by_counts(stack).shared[stack.name]

    def weight(self, knowledge: Knowledge, num_examples: int) -> Tensor:
        """Return the counts; 1 where there are none."""
        return torch.ones(()) if knowledge.counts is None else knowledge.counts.to(torch.float32)


@register
@dataclass(frozen=True)
class PersonalisedMean(Fusion):
    """For each client its own knowledge and the mean of the others'.

    See :func:`personalised_mean`. A row that a client lacks is the others' mean, and one that the
    others lack its own.

    Parameters
    ----------
    own : float
        The weight of its own, in [0, 1]; the others share the rest. 0: leave one out.
    """

    own: Fraction = 0.5
    name: ClassVar[str] = "personalised-mean"
    partial = True
    single: ClassVar[str] = "each client gets another mean"

    def __call__(self, stack: Stack, round: FusionRound) -> Mapping[int, Knowledge]:
        """Return a mean for each client."""
        clients = len(stack)
        weights = torch.full((clients, clients), (1 - self.own) / max(1, clients - 1))
        weights.fill_diagonal_(self.own if clients > 1 else 1.0)
        personal = personalised_mean(stack, weights).personal
        return {client: knowledge[stack.name] for client, knowledge in personal.items()}

    def flops(self, clients: int, rows: float, classes: int) -> float:
        """Return the FLOPs of the product of all clients' answers with each client's weights."""
        return 2.0 * clients**2 * rows * classes
