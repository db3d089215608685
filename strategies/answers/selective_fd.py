"""Selective-FD (Shao, Wu and Zhang, 2023, arXiv:2304.01731)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Le
from torch import Tensor

from fedkt.about import Model
from fedkt.fusion import mean
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.options import Count, Fraction, Positive
from fedkt.recipe import Predict, Recipe, Train
from fedkt.registry import register
from fedkt.rng import torch_rng
from fedkt.shares.share import ShareWork
from fedkt.strategies.server.strategy import KnowledgeStrategy


def density_ratio(
    own: Tensor, width: float, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """Return x -> ŵ(x), float64 ``[n]``: the density of ``own [m, d]`` over uniform noise.

    KuLSIF (Kanamori, Suzuki and Sugiyama, 2012): ŵ(x) = Σ_j k(x, y_j) / (m λ) + Σ_i α_i k(x, a_i),
    α = -(K/n + λ I)⁻¹ K' 1 / (n m λ), with as many samples a_i of noise over the range of ``own``,
    a Gaussian kernel k and λ = n^(-1/2).
    """
    low, high = own.min(0).values, own.max(0).values
    noise = low + (high - low) * torch.rand(own.shape, generator=generator)
    n, penalty = len(own), len(own) ** -0.5

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (-torch.cdist(x.double(), y.double()).square() / (2 * width**2)).exp()

    system = kernel(noise, noise) / n + penalty * torch.eye(n, dtype=torch.float64)
    alpha = -torch.linalg.solve(system, kernel(noise, own).mean(1)) / (n * penalty)
    return lambda x: kernel(x, own).mean(1) / penalty + kernel(x, noise) @ alpha


@register(name="selected")
@dataclass(frozen=True)
class Selected(Predict):
    """Answers on the public samples that look like the client's own; see :class:`SelectiveFD`.

    Parameters
    ----------
    quantile : float
        Of the ratios of a tenth of the client's samples, which is held out: the least for a row.
    width : float
        Standard deviation of the kernel, above 0.
    """

    quantile: Fraction = 0.125
    width: Positive = 5.0
    partial: bool = True
    private: ClassVar[bool] = True  # the choice of rows shows which samples are like its own

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the answers on the samples that are chosen; none with fewer than two samples."""
        answers, train = super().make(model, work), work.data.train.x.flatten(1)
        assert work.data.public is not None
        assert answers.ids is not None
        samples = work.data.public.at_ids(answers.ids).x.flatten(1)
        kept = torch.zeros(len(samples), dtype=torch.bool)
        if len(train) > 1:
            generator = torch_rng(work.seed, "selective-fd", 0, work.client)
            train = train[torch.randperm(len(train), generator=generator)]
            held_out = max(1, len(train) // 10)
            ratio = density_ratio(train[held_out:], self.width, generator)
            kept = ratio(samples) >= ratio(train[:held_out]).quantile(self.quantile)
        return Knowledge.rows(answers.kind, answers.values[kept], answers.ids[kept])


@register
class SelectiveFD(KnowledgeStrategy):
    """Average answers of the clients that know about a sample, and keep the means that are clear.

    A client answers the public samples x whose density ratio ŵ(x) of its own data to uniform noise
    is at least a quantile of those of held-out samples of its own (:func:`density_ratio`). The
    server averages the answers that there are, p̄, and keeps a row where
    ‖onehot(p̄) - p̄‖_1 = 2 (1 - max p̄) is at most ``threshold``.

    The authors' program multiplies by K/n + λ I where its inverse belongs, so ratios outside of the
    data come out too large; here it is inverted. Its ensemble is the sum of the answers, not
    normalised. With ``choose_rows=False`` and ``threshold=2`` it is
    :class:`~fedkt.strategies.FedMD` with probabilities.

    Bytes a round and client, M public samples in use, of which it answers M' and M'' are kept, C
    classes: up M'(4C + 8), down M''(4C + 8) (broadcast); all rows cost 4MC.

    Parameters
    ----------
    local_epochs, distil_epochs : int
        Passes over the private and over the public data a round.
    choose_rows : bool
        Whether clients choose; else they answer all.
    quantile : float
        Of a client's held-out ratios.
    width : float
        Standard deviation of the kernel, in the units of the inputs.
    threshold : float
        The largest distance from a one-hot row, in (0, 2]; 2 keeps all.
    public_samples : int
        Number of public samples drawn each round (the paper: 512); 0 takes all.
    """

    name = "selective-fd"

    def __init__(
        self,
        local_epochs: Count = 5,
        distil_epochs: Count = 3,
        choose_rows: bool = True,
        quantile: Fraction = Selected.quantile,
        width: Positive = Selected.width,
        threshold: Annotated[float, Gt(0), Le(2)] = 2.0,
        public_samples: Count = 0,
    ) -> None:
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.choose_rows, self.quantile, self.width = choose_rows, quantile, width
        self.threshold, self.public_samples = threshold, public_samples

    def recipe(self) -> Recipe:
        """Return the recipe: private training, chosen answers on the public set, distillation."""
        share = Predict(samples=self.public_samples, partial=True)
        if self.choose_rows:
            share = Selected(samples=self.public_samples, quantile=self.quantile, width=self.width)
        return Recipe(
            learn=[Train("private", [CrossEntropy()], epochs=self.local_epochs)],
            share=[share],
            absorb=[Train("public", [Distil(KL())], epochs=self.distil_epochs)],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the clear rows of the average; broadcast."""
        average = mean(uploads["public"]).shared["public"]
        assert average.ids is not None
        clear = 2 * (1 - average.values.amax(-1)) <= self.threshold
        kept = Knowledge.rows(average.kind, average.values[clear], average.ids[clear])
        return Fused({"public": kept}).with_diagnostics(rows=len(kept.values))
