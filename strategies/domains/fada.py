"""FADA, federated adversarial domain adaptation (Peng et al., ICLR 2020, arXiv:1911.02054)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedkt.adaptation.adversarial import DomainConfusion, DomainIdentifier
from fedkt.adaptation.disentangling import Disentangler, DisentanglerCritics, disentangler_heads
from fedkt.context import ServerNet
from fedkt.fusion import average
from fedkt.fusion.attention import dynamic_attention, looseness
from fedkt.knowledge import Fused, Kind, Knowledge, Stack, Uploads
from fedkt.objectives import CrossEntropy, Term
from fedkt.objectives.heads import Head
from fedkt.options import AtLeastOne, Count, Factor, Positive
from fedkt.recipe import Beside, Recipe, Train, Weighted
from fedkt.registry import register
from fedkt.rng import torch_rng
from fedkt.strategies.server.strategy import KnowledgeStrategy

IDENTIFIER, TARGET, WEIGHTS = "identifier", "target", "weights"


@register
class FADA(KnowledgeStrategy):
    """Align sources with the target; sources whose model clusters it better count more.

    arXiv:1911.02054. The clients are the labelled sources; the target is the server's own,
    unlabelled samples. A round:

    1. The server sends the global weights and the global model's features of target samples.
    2. Source k trains CE + :class:`~fedkt.adaptation.adversarial.DomainIdentifier` (its judge
       D learns to tell its features from the target's) + adversarial · ``DomainConfusion`` (its
       model learns to mislead D), and the two sides of the disentangler
       (``fedkt.adaptation.disentangling``): one part of the features tells the class, the other
       does not. Together they give the features back, and they share little information.
    3. The server averages by *dynamic attention*: softmax over k of (I_k before - I_k now) /
       temperature, where I_k is how loosely the target's features under k's weights cluster in C
       clusters (``fedkt.fusion.attention``); equal weights in the first round.

    A reconstruction: all equations are recalled, so none is cited by number. The disentangler is
    marked as such in its own file, and no table is claimed. Differences: one extractor for all,
    with averaged weights (the paper keeps one for each source and averages gradients for the
    target's). The judges and all other heads travel and are averaged with it (the paper has a
    judge for each pair). The target's features are constants, one draw a round, so the confusion
    loss works on the source's side only. I is scaled to [0, 1], so there is a temperature. The
    model answers from the whole features; the disentangler shapes them but does not replace them.
    Target features, without labels, shape training.

    Bytes a round and client, all float32: with P parameters and float buffers of the model, d
    features, C classes, T = min(target_samples, M), h = hidden, P' = P + h (d + 3) + 2, and with
    the disentangler 2 d (d + 1) + 2 C (d + 1) + h (5 d + 3) + d + 1 more: up 4P', down 4P' +
    T(4d + 8), all broadcast; 4P' more down in the first round and after an absence. The
    target's features reach all clients.

    Parameters
    ----------
    local_epochs, local_samples : int
        Passes over the private data a round, and samples, drawn anew, in a pass; 0 = all.
    target_samples : int
        Number of target samples whose features are sent; 0 = all.
    beside : int
        Number of target features beside every batch.
    adversarial : float
        Factor of the confusion, at least 0.
    disentangle : bool
        Whether to train the disentangler.
    disentangling, confusion, reconstruction, information : float
        Factor of the disentangler's second side, and of the parts of that side.
    hidden : int
        Width of the middle layers of the heads.
    temperature : float
        Temperature of the attention, above 0.
    """

    name = "fada"
    needs_samples = True

    def __init__(
        self,
        local_epochs: Count = 1,
        local_samples: Count = 0,
        target_samples: Count = 512,
        beside: AtLeastOne = 128,
        adversarial: Factor = 0.1,
        disentangle: bool = True,
        disentangling: Factor = 0.1,
        confusion: Factor = 0.1,
        reconstruction: Factor = 0.1,
        information: Factor = 0.1,
        hidden: AtLeastOne = 64,
        temperature: Positive = 0.1,
    ) -> None:
        self.local_epochs, self.local_samples = local_epochs, local_samples
        self.target_samples, self.beside = target_samples, beside
        self.adversarial, self.disentangle = adversarial, disentangle
        self.disentangling, self.confusion = disentangling, confusion
        self.reconstruction, self.information = reconstruction, information
        self.hidden, self.temperature = hidden, temperature

    def recipe(self) -> Recipe:
        """Return the recipe: train beside target features, share the weights and heads."""
        judged = Weighted(self.adversarial, DomainConfusion(IDENTIFIER))
        terms: list[Term | Weighted] = [CrossEntropy(), DomainIdentifier(IDENTIFIER), judged]
        heads: tuple[Head, ...] = (Head(IDENTIFIER, (self.hidden, 2)),)
        parts = Disentangler(self.confusion, self.reconstruction, self.information)
        if self.disentangle:
            terms += [DisentanglerCritics(), Weighted(self.disentangling, parts)]
            heads += disentangler_heads(self.hidden)
        train = Train(
            on="private",
            terms=terms,
            epochs=self.local_epochs,
            samples=self.local_samples,
            beside=Beside(TARGET, self.beside),
        )
        return Recipe.sharing_weights(train, heads=heads, given=(TARGET,))

    @property
    def fused_kinds(self) -> Mapping[str, Kind]:
        """The kind of the knowledge about the target."""
        return {TARGET: "features"}

    def models(self) -> dict[str, ServerNet]:
        """Return the global model, which the server asks about the target."""
        return {"global": ServerNet()}

    def first(self, weights: Knowledge | None) -> Fused:
        """Return the target's features under the first weights."""
        assert weights is not None
        return Fused({TARGET: self._target(weights, 0)})

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the weights by dynamic attention, and target features; broadcast."""
        stack: Stack = uploads[WEIGHTS]
        # One draw for the whole run, so that only the model changes from round to round.
        ids = self._draw("fada-attention", 0)
        now = torch.tensor([self._looseness(stack, k, ids) for k in range(len(stack))])
        last: dict[int, float] = self.memory.setdefault("looseness", {})
        before = torch.tensor([last.get(c, math.nan) for c in stack.clients])
        last.update(zip(stack.clients, now.tolist(), strict=True))
        attention = dynamic_attention(before, now, self.temperature)
        weights = average(stack, attention).shared[WEIGHTS]
        target = self._target(weights, self.round.number)
        return Fused({WEIGHTS: weights, TARGET: target}).with_diagnostics(
            clients=list(stack.clients), attention=attention, looseness=now
        )

    def _draw(self, purpose: str, round_: int) -> Tensor:
        total = len(self.samples.public)
        order = torch.randperm(total, generator=torch_rng(self.round.seed, purpose, round_))
        return order[: self.target_samples or total].sort().values

    def _target(self, weights: Knowledge, round_: int) -> Knowledge:
        ids = self._draw("fada-target", round_)
        model = self.model["global"]
        model.load_weights(weights)
        return Knowledge.rows("features", model.features(self.samples.public.x[ids]), ids)

    def _looseness(self, stack: Stack, k: int, ids: Tensor) -> float:
        weights = {n: t[k] for n, t in stack.tensors.items()}
        model = self.model["global"]
        model.load_weights(Knowledge("weights", weights))
        features = model.features(self.samples.public.x[ids])
        return looseness(features, self.round.num_classes, self.round.seed)
