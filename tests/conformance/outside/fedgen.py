"""FedGen: a generator of features at the server, whose samples the clients learn beside their own.

Zhu, Hong & Zhou: Data-Free Knowledge Distillation for Heterogeneous Federated Learning, ICML 2021,
arXiv:2105.10878.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkt import (
    ClassCounts,
    Fused,
    Knowledge,
    KnowledgeStrategy,
    Load,
    Recipe,
    ServerNet,
    Train,
    Uploads,
    Weights,
    register,
)
from fedkt.fusion import mean_by_examples
from fedkt.objectives import CrossEntropy, weighted_mean
from fedkt.options import AtLeastOne, Count

BATCH = 32  # of the generator


def generate(weights: Mapping[str, Tensor], y: Tensor, noise: Tensor, classes: int) -> Tensor:
    """Return the features ``[n, d]`` that a generator makes of labels ``[n]`` and noise."""
    x = torch.cat([F.one_hot(y, classes).to(noise.dtype), noise], -1)
    hidden = F.relu(F.linear(x, weights["hidden.weight"], weights["hidden.bias"]))
    return F.linear(hidden, weights["out.weight"], weights["out.bias"])


class Generator(nn.Module):
    """G(z | y, ε), a network with one hidden layer; its input is labels beside noise."""

    def __init__(self, noise: int, classes: int, hidden: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.hidden, self.out = nn.Linear(classes + noise, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[n, d]`` of labels and noise, ``[n, 1 + noise]``."""
        return generate(dict(self.named_parameters()), x[:, 0].long(), x[:, 1:], self.classes)


@register(name="fedgen-generated")
@dataclass(frozen=True)
class Generated:
    """Cross-entropy of generated features: l(g(z; θ), y), y ~ p̂(y), z ~ G(· | y) (equation 5)."""

    part: ClassVar[str] = "objectives"
    needs_features: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        return ("generator",)

    def __call__(self, outputs, batch, knowledge) -> Tensor:
        weights, (size, classes) = knowledge["generator"].tensors, outputs.logits.shape
        uniform = 0.5 * (1 + torch.erf(batch.noise("label", (size,)) / 2**0.5))
        y = (uniform[:, None] > weights["prior"].cumsum(0)[:-1]).sum(-1)
        noise = batch.noise("noise", (size, weights["hidden.weight"].shape[1] - classes))
        logits = outputs.classify(generate(weights, y, noise, classes))
        return weighted_mean(F.cross_entropy(logits, y, reduction="none"), batch.weight)


@register
class FedGen(KnowledgeStrategy):
    """Average the classifiers, and train a generator that all of them understand.

    Client k uploads its last layer θ_k and its class counts. The server averages θ_k and trains
    the generator: min E_y E_z Σ_k α_ky l(g(z; θ_k), y) (equation 4, in the form of the authors'
    program: α_ky is k's share of the samples of class y), with the program's term for diversity,
    exp(-mean |z_i - z_j| |ε_i - ε_j|). Clients learn generated features from the second round on.
    """

    name = "fedgen"

    def __init__(
        self, epochs: Count = 1, noise: AtLeastOne = 16, hidden: AtLeastOne = 64, steps: Count = 50
    ) -> None:
        self.epochs, self.noise, self.hidden, self.steps = epochs, noise, hidden, steps

    def recipe(self) -> Recipe:
        return Recipe(
            learn=[Train("private", [CrossEntropy(), Generated()], epochs=self.epochs)],
            share=[Weights(), ClassCounts()],
            absorb=[Load("weights")],
            given=["generator"],
        )

    def models(self) -> Mapping[str, ServerNet]:
        return {"client": ServerNet(), "generator": ServerNet(self._generator)}

    def _generator(self, shape: tuple[int, ...], classes: int) -> Generator:
        width = self.model["client"].features(torch.zeros(1, *shape)).shape[1]
        return Generator(self.noise, classes, self.hidden, width)

    def fuse(self, uploads: Uploads) -> Fused:
        heads, counts = uploads["weights"], uploads["class-counts"].tensors["counts"].float()
        prior = counts.sum(0) / counts.sum()
        mine = [{n: t[k] for n, t in heads.tensors.items()} for k in range(len(heads))]
        alpha = counts / counts.sum(0).clamp_min(1)
        told = self.model["generator"].minimise(
            lambda: self.loss(mine, alpha, prior), self.steps, "generator"
        )
        weights = {**self.model["generator"].weights().tensors, "prior": prior}
        fused = mean_by_examples(heads).shared | {"generator": Knowledge("weights", weights)}
        return Fused(fused, diagnostics={"generator_loss": told})

    def loss(self, heads: list[dict[str, Tensor]], alpha: Tensor, prior: Tensor) -> Tensor:
        """Return the generator's loss on a batch that is drawn here."""
        y = torch.multinomial(prior, BATCH, replacement=True)
        noise = torch.randn(BATCH, self.noise)
        z = self.model["generator"].ask(None, torch.cat([y[:, None].float(), noise], -1)).logits
        answers = [self.model["client"].classify(z, head) for head in heads]
        losses = [F.cross_entropy(logits, y, reduction="none") for logits in answers]
        apart = (z[:, None] - z).abs().mean(-1) * (noise[:, None] - noise).square().mean(-1)
        return (alpha[:, y] * torch.stack(losses)).sum(0).mean() + torch.exp(-apart.mean())
