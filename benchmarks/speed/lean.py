"""The lean loop: what a round costs one client if nothing is spent beside the arithmetic.

Sliced tensors, ``torch.autograd.grad`` and SGD with momentum by ``torch._foreach``. The stock
Flower variant computes with it too, so that what it costs more is Flower's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from workloads import ANSWERING, BATCH, MOMENTUM, SEED, Workload, model_of

from fedkt.rng import global_torch_stream, torch_rng

Loss = Callable[[Tensor, Tensor], Tensor]


def distillation(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over the batch of KL(target ‖ softmax(logits)), in nats."""
    return F.kl_div(F.log_softmax(logits, -1), target, reduction="batchmean")


@dataclass
class LeanState:
    """A client's model and momentum, in the order of the model's parameters."""

    parameters: list[Tensor]
    momentum: list[Tensor]


class LeanTrainer:
    """One model object that takes the weights of any client.

    Parameters
    ----------
    workload : Workload
        The architecture and the learning rate.
    memory_format : torch.memory_format
        Of images and convolutions.
    """

    def __init__(
        self, workload: Workload, memory_format: torch.memory_format = torch.contiguous_format
    ) -> None:
        self._workload, self._format = workload, memory_format
        with global_torch_stream(SEED, "template"):
            self._model = model_of(workload).to(memory_format=memory_format)
        self.steps = 0  # taken so far, over all clients

    def fresh(self, client: int) -> LeanState:
        """Return an untrained client: the weights that fedkt gives it."""
        with global_torch_stream(SEED, "model", 0, client):
            model = model_of(self._workload).to(memory_format=self._format)
        parameters = [p.detach() for p in model.parameters()]
        return LeanState(parameters, [torch.zeros_like(p) for p in parameters])

    def shaped(self, x: Tensor) -> Tensor:
        """Return inputs in this trainer's memory format."""
        return x.contiguous(memory_format=self._format)

    def learn(self, state: LeanState, x: Tensor, y: Tensor, round_: int, client: int) -> float:
        """Train on private data for an epoch; return the mean loss."""
        return self._epoch(state, x, y, F.cross_entropy, "learn", round_, client)

    def absorb(self, state: LeanState, x: Tensor, y: Tensor, round_: int, client: int) -> float:
        """Distil answers ``y [M, C]`` on the public set for an epoch; return the mean loss."""
        return self._epoch(state, x, y, distillation, "absorb", round_, client)

    @torch.no_grad()
    def answers(self, state: LeanState, x: Tensor) -> Tensor:
        """Return probabilities ``[M, C]``."""
        self._take(state)
        return torch.cat([self._model(part) for part in torch.split(x, ANSWERING)]).softmax(-1)

    def _take(self, state: LeanState) -> list[nn.Parameter]:
        parameters = list(self._model.parameters())
        for parameter, tensor in zip(parameters, state.parameters, strict=True):
            parameter.data = tensor
        return parameters

    def _epoch(
        self,
        state: LeanState,
        x: Tensor,
        y: Tensor,
        loss_of: Loss,
        phase: str,
        round_: int,
        client: int,
    ) -> float:
        parameters, losses = self._take(state), []
        order = epoch_order(len(x), phase, round_, client)
        x, y = self.shaped(x[order]), y[order]
        for start in range(0, len(x), BATCH):
            loss = loss_of(self._model(x[start : start + BATCH]), y[start : start + BATCH])
            gradients = torch.autograd.grad(loss, parameters)
            torch._foreach_mul_(state.momentum, MOMENTUM)
            torch._foreach_add_(state.momentum, gradients)
            torch._foreach_add_(state.parameters, state.momentum, alpha=-self._workload.rate)
            losses.append(loss.detach())
            self.steps += 1
        return float(torch.stack(losses).mean())


def epoch_order(total: int, phase: str, round_: int, client: int) -> Tensor:
    """Return the order of an epoch, the very one that fedkt draws for the client."""
    if phase == "absorb":  # public samples, in one order for all
        stream = torch_rng(SEED, f"public-batches/{phase}/0", round_)
    else:
        stream = torch_rng(SEED, f"batches/{phase}/0", round_, client)
    return torch.randperm(total, generator=stream)
