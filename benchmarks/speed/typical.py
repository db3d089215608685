"""The typical research loop: how such experiments are mostly written.

A DataLoader for every client and phase, ``optim.SGD``, ``zero_grad``/``backward``/``step``,
``loss.item()`` every step, and models that are copied whole.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from lean import Loss, distillation
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from workloads import MOMENTUM, SEED, Workload, model_of

from fedkt.rng import global_torch_stream, torch_rng


class TypicalClient:
    """A client with a model of its own.

    Parameters
    ----------
    workload : Workload
        The architecture and the learning rate.
    client : int
        Its number.
    x, y : Tensor
        Its private data.
    public : Tensor
        The public inputs.
    batch : int
        Samples of a step.
    """

    def __init__(
        self, workload: Workload, client: int, x: Tensor, y: Tensor, public: Tensor, batch: int
    ) -> None:
        self._workload, self._client, self._batch = workload, client, batch
        self._private, self._public = TensorDataset(x, y), public
        with global_torch_stream(SEED, "model", 0, client):
            self.model = model_of(workload)
        self._moments: dict[str, object] | None = None
        self.steps = 0

    def learn(self, round_: int) -> float:
        """Train on private data for an epoch; return the mean loss."""
        return self._epoch(self._private, F.cross_entropy, f"learn/{round_}")

    def absorb(self, targets: Tensor, round_: int) -> float:
        """Distil answers ``[M, C]`` on the public set for an epoch; return the mean loss."""
        return self._epoch(TensorDataset(self._public, targets), distillation, f"absorb/{round_}")

    def answers(self, x: Tensor) -> Tensor:
        """Return probabilities ``[M, C]``."""
        model = copy.deepcopy(self.model)
        model.eval()
        found = []
        with torch.no_grad():
            for (part,) in DataLoader(TensorDataset(x), batch_size=self._batch):
                found.append(F.softmax(model(part), dim=1))
        return torch.cat(found)

    def _epoch(self, data: TensorDataset, loss_of: Loss, stream: str) -> float:
        model: nn.Module = copy.deepcopy(self.model)
        optimiser = torch.optim.SGD(model.parameters(), lr=self._workload.rate, momentum=MOMENTUM)
        if self._moments is not None:
            optimiser.load_state_dict(self._moments)
        order = torch_rng(SEED, stream, 0, self._client)
        model.train()
        total, count = 0.0, 0
        for x, y in DataLoader(data, batch_size=self._batch, shuffle=True, generator=order):
            optimiser.zero_grad()
            loss = loss_of(model(x), y)
            loss.backward()
            optimiser.step()
            total += loss.item()
            count += 1
        self.model, self._moments = model, optimiser.state_dict()
        self.steps += count
        return total / count
