"""Averages over clients, one for all or one for each client."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkt.errors import KnowledgeError
from fedkt.knowledge import Fused, Knowledge, Stack
from fedkt.registry import register


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
        mean of logits: the kind that was shared is the kind that is averaged.
    """
    return average(stack, torch.full((len(stack),), 1 / len(stack)))


@register(part="fusions")
def weighted_mean(stack: Stack) -> Fused:
    """Average the clients by their number of examples; one result, broadcast.

    McMahan et al. (2017), arXiv:1602.05629, algorithm 1, when the knowledge is weights.
    """
    total = stack.num_examples.sum()
    if total <= 0:
        return mean(stack)
    return average(stack, stack.num_examples / total)


@register(part="fusions")
def personalised_mean(stack: Stack, weights: Tensor) -> Fused:
    """Average the clients for each client with weights of its own; unicast.

    Parameters
    ----------
    stack : Stack
        Knowledge of N clients with rows, ``values`` of shape ``[N, M, ...]``.
    weights : Tensor
        ``[N, N]`` float32, row-stochastic: row n holds what client n takes from each.

    Returns
    -------
    Fused
        ``Σ_m weights[n, m] · values[m]`` for each client n, computed as one matrix product.
    """
    _check_averageable(stack)
    if set(stack.tensors) != {"values"}:
        raise KnowledgeError(f"{stack.kind} have no rows; the personalised mean needs rows")
    fused = (weights.to(stack.values.dtype) @ stack.values.flatten(1)).view_as(stack.values)
    return Fused(
        personal={
            client: {stack.name: Knowledge(stack.kind, {"values": fused[n]}, stack.ids)}
            for n, client in enumerate(stack.clients)
        }
    )


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
    tensors = {
        name: (weights.to(t.dtype) @ t.flatten(1)).view(t.shape[1:]) if t.dim() > 1 else weights @ t
        for name, t in stack.tensors.items()
    }
    return Fused(shared={stack.name: Knowledge(stack.kind, tensors, stack.ids)})


def _check_averageable(stack: Stack) -> None:
    if stack.kind == "labels":
        raise KnowledgeError("labels cannot be averaged; share probabilities or logits")
