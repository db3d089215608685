"""MOON, model-contrastive federated learning (Li et al., CVPR 2021, arXiv:2103.16257)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from fedkt.knowledge import Knowledge
from fedkt.objectives import Batch, CrossEntropy, Outputs, weighted_mean
from fedkt.options import Count, Factor, Positive
from fedkt.recipe import Load, Recipe, Remember, Train, Weighted, Weights
from fedkt.registry import register
from fedkt.strategies.weights.fedavg import FedAvg


@register
@dataclass(frozen=True)
class ModelContrast:
    """Pull features towards those of the global model, away from the client's earlier ones.

    -log(exp(sim(z, z_glob)/τ) / (exp(sim(z, z_glob)/τ) + exp(sim(z, z_prev)/τ))), the mean over the
    batch, with the cosine similarity: equation 3 of Li, He and Song (2021). Both other models are
    asked in evaluation mode.

    Parameters
    ----------
    temperature : float
        τ > 0.
    """

    temperature: Positive = 0.5
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "model-contrast"
    needs_features: ClassVar[bool] = True
    per_sample: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return the names of the global weights and of the client's earlier ones."""
        return ("weights", "previous")

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        assert outputs.features is not None
        assert outputs.ask is not None
        now, nearness = outputs.features, []
        for name in self.needs():
            features = outputs.ask(knowledge[name], batch.x).features
            assert features is not None
            nearness.append(F.cosine_similarity(now, features))
        losses = -F.logsigmoid((nearness[0] - nearness[1]) / self.temperature)
        return weighted_mean(losses, batch.weight)


@register
class Moon(FedAvg):
    """Average weights; clients stay near the global model by contrast with their own last one.

    Li, He and Song, "Model-Contrastive Federated Learning", CVPR 2021, arXiv:2103.16257. Local
    loss: CE + μ l_con (equations 3 and 4), on the features of the received global model and of the
    client's model after its last training. Before that there is none: there the paper's loss is
    the constant μ log 2. With μ = 0 it is :class:`~fedkt.strategies.FedAvg`, whose
    requirements it shares.

    Bytes a round and client, P parameters in float32: up 4P, down 4P (broadcast), and once more as
    in :class:`~fedkt.strategies.FedAvg`.

    Differences: the paper puts a projection head of two layers into the model; here z is the input
    of the last layer of the model as it is. The paper trains 10 epochs a round, by SGD.

    Parameters
    ----------
    mu : float
        μ ≥ 0; the paper tries 0.1, 1, 5 and 10, and takes 5 on CIFAR-10, 1 on CIFAR-100.
    temperature : float
        τ > 0.
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        Number of samples, drawn anew, in a pass; 0 = all.
    """

    name = "moon"

    def __init__(
        self,
        mu: Factor = 1.0,
        temperature: Positive = 0.5,
        local_epochs: Count = 5,
        local_samples: Count = 0,
    ) -> None:
        super().__init__(local_epochs, local_samples)
        self.mu, self.temperature = mu, temperature

    def private_step(self) -> Train:
        """Return the training step with the contrast."""
        contrast = Weighted(self.mu, ModelContrast(self.temperature))
        return replace(super().private_step(), terms=[CrossEntropy(), contrast])

    def recipe(self) -> Recipe:
        """Return the recipe: as FedAvg, and keep the weights after training."""
        return Recipe(
            learn=[Load("weights"), self.private_step(), Remember(Weights("previous"))],
            share=[Weights()],
            absorb=[Load("weights")],
        )
