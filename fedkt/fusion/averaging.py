"""Averages over clients, one for all or one for each client."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from fedkt.errors import KnowledgeError
from fedkt.knowledge import Fused, Knowledge, Stack
from fedkt.machine import empty
from fedkt.registry import register

BLOCK = 2_000_000  # numbers multiplied at a time: 8 MB, and as many for the result
SPARSE, SPARSE_FROM = 0.01, 500  # the density, and the clients, where a sparse product pays


@register(part="fusions")
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
        over the clients that have it; one that nobody has is left out, here and in the other
        averages.
    """
    return average(stack, torch.full((len(stack),), 1 / len(stack)))


@register(part="fusions")
def mean_by_examples(stack: Stack) -> Fused:
    """Average the clients by their number of examples; one result, broadcast.

    McMahan et al. (2017), arXiv:1602.05629, algorithm 1, when the knowledge is weights.
    """
    total = stack.num_examples.sum()
    if total <= 0:
        return mean(stack)
    return average(stack, stack.num_examples / total)


@register(part="fusions")
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
    _check_averageable(stack)
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
    masked = torch.where(_like(present, stack.values), stack.values, 0)
    sums, personal = mix_rows(weights, masked), {}
    assert stack.ids is not None
    for n, client in enumerate(stack.clients):
        rows = covered[n] > 0
        total = covered[n][rows].to(sums.dtype)
        values = sums[n][rows] / _like(total, sums[n][rows])
        personal[client] = {stack.name: Knowledge(stack.kind, {"values": values}, stack.ids[rows])}
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
        Of the same kind, without the rows to which nobody gives weight.
    """
    assert stack.ids is not None
    total = weights.sum(0)
    covered = total > 0
    values = stack.values[:, covered]
    share = (weights[:, covered] / total[covered]).to(values.dtype)
    mixed = torch.einsum("nm,nm...->m...", share, values)
    return Knowledge(stack.kind, {"values": mixed}, stack.ids[covered])


def _like(rows: Tensor, values: Tensor) -> Tensor:
    """Return one number a row, ``[...]``, in a shape that goes with ``values [..., *row]``."""
    return rows.view(*rows.shape, *[1] * (values.dim() - rows.dim()))


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
    _check_averageable(stack)
    if stack.present is not None:
        rows = average_rows(stack, weights[:, None] * stack.present)
        return Fused(shared={stack.name: rows})
    tensors = {
        name: (weights.to(t.dtype) @ t.flatten(1)).view(t.shape[1:]) if t.dim() > 1 else weights @ t
        for name, t in stack.tensors.items()
    }
    return Fused(shared={stack.name: Knowledge(stack.kind, tensors, stack.ids)})


def _check_averageable(stack: Stack) -> None:
    if stack.kind == "labels":
        raise KnowledgeError("labels cannot be averaged; share probabilities or logits")
