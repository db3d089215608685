"""FedType (Wang, Zhao, Lyu, You, Huai and Ma, ICML 2024, arXiv:2407.03247)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.about import Model
from fedkt.answers import accuracy, torch_softmax
from fedkt.data.samples import Samples
from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Kind, Knowledge, Uploads
from fedkt.objectives import KL, Batch, CrossEntropy, Net, Outputs, Term, weighted_mean
from fedkt.options import Count, Factor, Fraction, Positive
from fedkt.recipe import Load, Recipe, Remember, Share, Train, Weighted, Weights
from fedkt.registry import register
from fedkt.shares.share import Asked, Question, ShareWork
from fedkt.strategies.server.strategy import KnowledgeStrategy
from fedkt.upload_check import Expected

PROXY = Net("proxy")
ACCURACY = "private-accuracy"


def class_scores(logits: Tensor, penalty: float, free: int) -> Tensor:
    """Return how late each class comes into a prediction set, ``[n, C]``.

    The probability of all classes before it, in descending order, and λ for its rank and for every
    rank before it beyond the first k: the score of regularised adaptive prediction sets
    (Angelopoulos, Bates, Malik and Jordan, ICLR 2021, arXiv:2009.14193, equation 5; for λ = 0 that
    of Romano, Sesia and Candès, NeurIPS 2020, arXiv:2006.02544) with u = 0 for its random number.

    Parameters
    ----------
    logits : Tensor
        ``[n, C]``.
    penalty : float
        λ ≥ 0.
    free : int
        k, the number of ranks without a penalty.
    """
    p, order = torch_softmax(logits.double()).sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(1, p.shape[-1] + 1)
    scores = F.pad(p.cumsum(-1)[:, :-1], (1, 0)) + penalty * (ranks - free).clamp_min(0)
    return torch.zeros_like(p).scatter(-1, order, scores)


def conformal_quantile(scores: Tensor, coverage: float) -> float:
    """Return the ⌈(n + 1)(1 - α)⌉-th smallest of n scores: -∞ for the 0th, ∞ beyond the last."""
    place = rank_of(coverage, len(scores))
    if not 0 < place <= len(scores):
        return math.inf if place else -math.inf
    return float(scores.sort().values[place - 1])


def rank_of(coverage: float, number: int) -> int:
    """Return ⌈(n + 1)(1 - α)⌉."""
    return math.ceil(round((number + 1) * coverage, 9))  # 100 · 0.07 is 7 and nothing more


def raised(penalty: float, fall: float) -> float:
    """Return λ + (1 - λ) d after the private model's accuracy has fallen by d, λ if it has not."""
    return penalty + (1 - penalty) * max(0.0, fall)


def consensus(proxy: Tensor, private: Tensor) -> Tensor:
    """Return how far two models agree on each sample, ``[n]`` in [0, 1], by their sets ``[n, C]``.

    |A ∩ B| / |A ∪ B| for the proxy's set A and the private model's B where B is not larger, else
    |A ∩ B| / |A|; 0 for an empty A.
    """
    both, whole = (proxy & private).sum(-1), (proxy | private).sum(-1)
    size = proxy.sum(-1)
    return both / torch.where(private.sum(-1) <= size, whole, size).clamp_min(1)


@register(name="prediction-sets")
@dataclass(frozen=True)
class PredictionSets(Share):
    """The classes that the proxy thinks possible for each private sample, as far as it is trusted.

    Rows ``[n, C]``: the :func:`consensus` of both models on a sample for each class in the proxy's
    prediction set, 0 for the others. Both models' sets hold the classes whose score is at most the
    conformal quantile of the scores of true classes on the client's validation samples; where these
    are too few for a quantile, n < (1 - α) / α, on its training samples. The proxy's λ is larger
    after the private model's accuracy there has fallen since the last time (:func:`raised`), so
    that its sets become smaller.

    Parameters
    ----------
    coverage : float
        1 - α in [0, 1].
    penalty : float
        λ in [0, 1].
    free : int
        k.
    name : str
        The share's name.
    """

    coverage: Fraction = 0.9
    penalty: Fraction = 0.5
    free: Count = 5
    name: str = "sets"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge."""
        return "features"

    @property
    def stays(self) -> bool:
        """Whether its rows are private samples."""
        return True

    def keeps(self) -> tuple[str, ...]:
        """Return the name of the private model's accuracy."""
        return (ACCURACY,)

    def questions(self, work: ShareWork) -> Sequence[Question]:
        """Return the samples that the private model is asked about."""
        return tuple(Question(s.x) for s in (self._held_out(work), work.data.train) if len(s))

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the rows, one for each sample."""
        train, held = work.data.train, self._held_out(work)
        assert held.y is not None
        ids, places = np.unique(train.ids.numpy(), return_index=True)  # one may be there twice
        fall = 0.0
        if len(held):
            now = accuracy(model.predict(held.x), held.y)
            fall = work.own.get(ACCURACY, now) - now
            work.keep(ACCURACY, now)
        sets, penalties = [], (raised(self.penalty, fall), self.penalty)
        for world, penalty in zip((f"heads.{PROXY.name}", "model"), penalties, strict=True):
            scores = class_scores(model.predict(held.x, world), penalty, self.free)
            limit = conformal_quantile(scores[torch.arange(len(held)), held.y], self.coverage)
            scores = class_scores(model.predict(train.x, world)[places], penalty, self.free)
            sets.append(scores <= limit)
        rows = consensus(*sets)[:, None] * sets[0]
        return Knowledge.rows(self.kind, rows.float(), torch.tensor(ids))

    def expected(self, asked: Asked) -> Expected:
        """Return rows of C numbers; nobody is sent them."""
        return Expected(self.kind, asked.ids, {"values": (None, asked.num_classes)})

    def _held_out(self, work: ShareWork) -> Samples:
        held, train = work.data.validation, work.data.train
        return held if rank_of(self.coverage, len(held)) <= len(held) else train


@register
@dataclass(frozen=True)
class RankSets:
    """A private model's loss where classes rank before those of the proxy's prediction set.

    Mean over the batch of w Σ_{a ∈ A, b ∉ A} max(0, z_b - z_a) / (|A| (C - |A|)), with the set A
    and the consensus w of :class:`PredictionSets`. Where A has no class or all classes it is 0.
    """

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "rank-sets"
    per_sample: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return the name of the sets."""
        return ("sets",)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        z, rows = outputs.logits, knowledge["sets"].at(batch.ids)
        pairs = (rows > 0)[:, :, None] & (rows == 0)[:, None, :]
        apart = torch.where(pairs, F.relu(z[:, None, :] - z[:, :, None]), 0.0).sum((1, 2))
        losses = rows.amax(-1) * apart / pairs.sum((1, 2)).clamp_min(1)
        return weighted_mean(losses, batch.weight)


@register
@dataclass(frozen=True)
class ProxyLoss:
    """CE(proxy, y) + T² KL(private ‖ proxy), means over the batch; the teacher is a constant.

    Parameters
    ----------
    temperature : float
        T > 0.
    proxy : Net
        The shared network.
    """

    temperature: Positive = 1.0
    proxy: Net = PROXY
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "proxy-loss"
    needs_labels: ClassVar[bool] = True
    per_sample: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return no names: the proxy is at the client."""
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        assert batch.y is not None
        proxy = self.proxy(outputs.parameters, batch.x).logits
        losses = F.cross_entropy(proxy, batch.y, reduction="none")
        losses = losses + KL(self.temperature)(proxy, outputs.logits, "logits")
        return weighted_mean(losses, batch.weight)


@register
class FedType(KnowledgeStrategy):
    """Average small proxies; private models heed them only where conformal prediction trusts them.

    Wang, Zhao, Lyu, You, Huai and Ma, "Bridging Model Heterogeneity in Federated Learning via
    Uncertainty-based Asymmetrical Reciprocity Learning", ICML 2024, arXiv:2407.03247. Every client
    trains a private model of any architecture, which never travels, and a proxy, whose mean by
    number of examples the server returns. The proxy distils the private model
    (:class:`ProxyLoss`). The private model's loss is CE + μ times :class:`RankSets`: at each sample
    the classes of the proxy's prediction set are to rank before the others, in proportion to how
    far both models' sets agree. The sets of a round are calibrated when the mean of the proxies has
    come (:class:`PredictionSets`). Personal answers are the private model's, global accuracy is
    the proxy's. With μ = 0, or with sets without a class or with all classes (coverage 0 or 1), a
    private model is trained alone.

    This is a reconstruction: only the abstract, digests and the authors' program could be read, and
    no table of the paper is claimed. As in that program are the regularised adaptive sets and their
    defaults, the consensus, the ranking of pairs and the rule for λ. Different from it: it ranks
    the proxy's own answers, so that the private model gets no gradient of that loss, and in the
    opposite order; it forgets the new λ; it draws a random number for each score, scales logits by
    a temperature, calibrates on the training samples, and has another λ, 1, for the private model;
    it multiplies means over the batch; its private models and proxies take turns, epoch by epoch;
    its mean has equal weights; its divergence is divided by the number of classes as well.

    Bytes a round and client, P parameters of the proxy in float32: up 4P, down 4P (broadcast); 4P
    more down for a client that did not take part in the round before, and in the first round.

    Parameters
    ----------
    factor : float
        μ ≥ 0.
    coverage : float
        1 - α in [0, 1], the share of true classes that prediction sets are to hold.
    penalty : float
        λ in [0, 1], which keeps sets small; before the private model's accuracy falls.
    free : int
        k, the number of classes in a set without a penalty.
    temperature : float
        T > 0, of the proxy's distillation.
    proxy : str
        The registered model that is shared; ``own`` is one like the client's, for one architecture.
    local_epochs : int
        Passes over the private data a round.
    """

    name = "fedtype"

    def __init__(
        self,
        factor: Factor = 1.0,
        coverage: Fraction = PredictionSets.coverage,
        penalty: Fraction = PredictionSets.penalty,
        free: Count = PredictionSets.free,
        temperature: Positive = 1.0,
        proxy: str = PROXY.model,
        local_epochs: Count = 5,
    ) -> None:
        self.factor, self.coverage, self.penalty, self.free = factor, coverage, penalty, free
        self.temperature, self.proxy, self.local_epochs = temperature, proxy, local_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: load the proxy, calibrate, train both, share the proxy."""
        net = Net(PROXY.name, self.proxy)
        heed = Weighted(self.factor, RankSets())
        terms: list[Term | Weighted] = [CrossEntropy(), heed, ProxyLoss(self.temperature, net)]
        sets = PredictionSets(self.coverage, self.penalty, self.free)
        train = Train("private", terms, epochs=self.local_epochs)
        return Recipe(
            learn=[Load(net.name), Remember(sets), train],
            share=[Weights(net.name, of=f"heads.{net.name}.")],
            absorb=[Load(net.name)],
            heads=[net],
            world=f"heads.{net.name}",
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the proxies; broadcast."""
        return mean_by_examples(uploads[PROXY.name])
