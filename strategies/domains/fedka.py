"""Federated knowledge alignment (Sun, Chong and Ochiai, ACML 2022, arXiv:2203.11635)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge

from fedkt.adaptation.alignment import (
    MMD,
    DomainAdversarial,
    FourierMMD,
    Moments,
    Ramped,
    ramp,
)
from fedkt.adaptation.workspaces import Workspace, describe
from fedkt.answers import is_finite, top
from fedkt.context import ServerNet
from fedkt.errors import ConfigError
from fedkt.fusion import mean_by_examples
from fedkt.fusion.voting import counts, majority, tally
from fedkt.knowledge import Fused, Kind, Knowledge, Uploads
from fedkt.objectives import CrossEntropy, Distil, Term
from fedkt.objectives.heads import Head
from fedkt.options import AtLeastTwo, Count, Factor, Fraction
from fedkt.recipe import Beside, Recipe, Train
from fedkt.registry import register
from fedkt.shares.ids import public_ids
from fedkt.strategies.server.strategy import KnowledgeStrategy


@register
class FedKA(KnowledgeStrategy):
    """Align labelled source clients with an unlabelled target that the server owns.

    The server sends its model G and, once a round, a description of the target's features under
    G (the workspace). Client k minimises CE - λ_p (J_dis - J_mmd) (equation 8). J_dis is the loss
    of a domain classifier on its features against the target's, through a gradient reversal
    (equations 2 to 4). J_mmd is the MK-MMD of the two, mean of five Gaussian kernels (equations 5
    to 7), and λ_p = 2 / (1 + exp(-γ p)) - 1 grows with the finished part p of the run. The
    server averages the weights by examples (equation 1), lets the clients' models vote on
    target samples (equation 10; ties are drawn) and trains the average on the votes, with λ_p
    times the learning rate.

    Differences: the paper's clients send features to the server for every batch and get
    gradients back. G, and so the target's features, are constant during a round, so a client
    can compute both losses itself: the same objective with two messages a round instead of 32
    exchanges. The domain classifier is then trained by the clients and averaged with the
    weights. Optimisers start anew with the weights of a round.

    Bytes a round and client, P parameters with the domain classifier in float32, d features, S
    target samples: up 4P, down 4P + W (broadcast). W is the workspace: ``features`` 4Sd + 8S,
    ``fourier`` 4(D + 1), and 8d more with the domain classifier, ``gaussian`` 8d; nothing if both
    parts are off. S is at most the number of the server's samples. 4P more down in the first
    round, and for a client that did not take part in the round before.

    A single client is allowed; the votes are then its own answers.

    Parameters
    ----------
    disentangle, match, vote : bool
        The three parts: domain classifier, embedding matching, federated voting.
    workspace : {"features", "fourier", "gaussian"}
        Description of the target: features of S samples; the mean of D random Fourier features,
        whose distance tends to the biased MMD of the same bandwidth (Rahimi and Recht, 2007); or
        mean and variance of every feature, which are compared instead of the MMD. In the last
        two the domain classifier sees draws from the normal distribution of that mean and
        variance. The bandwidths differ. With ``features`` it is the mean squared distance within
        each private batch and the target features beside it, together, so it follows the gap
        between the domains. With ``fourier`` it is that of the target's S features alone, once a
        round, so its kernels are narrower where the domains lie far apart.
    estimator : {"biased", "unbiased"}
        Estimator of the MMD, V- or U-statistic (``features`` only).
    gamma : float
        γ ≥ 0 of λ_p.
    target_samples, target_batch : int
        S, drawn anew every round, and the number of them that a batch is compared with.
    fourier_features : int
        D, even and at least 10 (a sine and a cosine for each of five kernels).
    voting_samples : int
        Number of target samples to vote on, drawn anew every round; 0 = all.
    voting_epochs : int
        Passes over the votes.
    quorum : float
        Share of the clients that must agree on a sample's label for its use in training, in
        [0, 1]. The paper has none (0).
    adapt_norms : bool
        Whether a model votes with statistics of batch normalisation from the samples to vote on
        (AdaBN, arXiv:1603.04779) instead of its source's. The published code does the same by
        voting in training mode.
    local_epochs, local_samples : int
        Passes over the private data a round, and samples in a pass (0 = all; the paper has 512).
    """

    name = "fedka"
    needs_samples = True
    follows_progress = True

    def __init__(
        self,
        disentangle: bool = True,
        match: bool = True,
        vote: bool = True,
        workspace: Workspace = "features",
        estimator: Literal["biased", "unbiased"] = "biased",
        gamma: Factor = 5.0,
        target_samples: AtLeastTwo = 512,
        target_batch: AtLeastTwo = 128,
        fourier_features: Annotated[int, Ge(10)] = 1024,
        voting_samples: Count = 512,
        voting_epochs: Count = 1,
        quorum: Fraction = 0.0,
        adapt_norms: bool = True,
        local_epochs: Count = 1,
        local_samples: Count = 0,
    ) -> None:
        if fourier_features % 2:
            raise ConfigError(f"fedka: fourier_features must be even, not {fourier_features}.")
        self.disentangle, self.match, self.vote = disentangle, match, vote
        self.workspace, self.estimator, self.gamma = workspace, estimator, gamma
        self.target_samples, self.target_batch = target_samples, target_batch
        self.fourier_features = fourier_features
        self.voting_samples, self.voting_epochs = voting_samples, voting_epochs
        self.quorum, self.adapt_norms = quorum, adapt_norms
        self.local_epochs, self.local_samples = local_epochs, local_samples

    def recipe(self) -> Recipe:
        """Return the recipe: load the global weights, train and align, share the weights."""
        terms: list[Term] = [CrossEntropy()]
        if self.disentangle:
            terms.append(DomainAdversarial("domain", self.gamma))
        if self.match:
            matching: Mapping[str, Term] = {
                "features": MMD(self.estimator),
                "fourier": FourierMMD("target"),
                "gaussian": Moments("target"),
            }
            terms.append(Ramped(matching[self.workspace], self.gamma))
        samples_beside = self.disentangle or (self.match and self.workspace == "features")
        train = Train(
            on="private",
            terms=terms,
            epochs=self.local_epochs,
            samples=self.local_samples,
            beside=Beside("target", self.target_batch) if samples_beside else None,
        )
        return Recipe.sharing_weights(
            train,
            heads=[Head("domain", (100, 2), norm=True)] if self.disentangle else [],
            given=["target"] if self.disentangle or self.match else [],
        )

    @property
    def fused_kinds(self) -> Mapping[str, Kind]:
        """The kind of the workspace."""
        return {"target": "features" if self.workspace == "features" else "statistics"}

    def models(self) -> dict[str, ServerNet]:
        """Return the global model, which the server asks about the target and trains."""
        return {"global": ServerNet()}

    def first(self, weights: Knowledge | None) -> Fused:
        """Return the workspace under the first global weights."""
        assert weights is not None
        return Fused(self._workspace(weights, round_=1))

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the weights, trained on the clients' votes, and the workspace."""
        fused = mean_by_examples(uploads["weights"]).shared["weights"]
        diagnostics: dict[str, float] = {}
        if self.vote:
            fused, diagnostics = self._voted(uploads, fused)
        following = self._workspace(fused, self.round.number + 1)
        return Fused({"weights": fused, **following}, diagnostics=diagnostics)

    def _voted(self, uploads: Uploads, average: Knowledge) -> tuple[Knowledge, dict[str, float]]:
        model, round_, x = self.model["global"], self.round, self.samples.public.x
        classes, seed, number = round_.num_classes, round_.seed, round_.number
        ids = public_ids(len(x), self.voting_samples, seed, number, "vote-sample")
        cast = []
        for upload in uploads:
            model.load_weights(upload.knowledge["weights"])
            if self.adapt_norms:
                model.adapt_norms(x[ids])
            logits = model.predict(x[ids])
            if is_finite(logits):  # finite weights may be so large that answers are not
                cast.append(top(logits))
        if not cast:
            return average, {"voted": 0.0}
        labels = torch.stack(cast)
        voted = majority(labels, ids, classes, seed, number)
        agreement = tally(labels, classes)
        kept = counts(labels, classes).amax(-1) >= self.quorum * len(labels)
        if not kept.any():
            return average, {**agreement, "voted": 0.0}
        one_hot = F.one_hot(voted[kept], classes).float()
        votes = Knowledge.rows("probabilities", one_hot, ids[kept])
        # λ_p multiplies the learning rate, not the loss: Adam's steps ignore the loss's scale.
        rate = float(ramp(number / round_.total, self.gamma)) if round_.total else 1.0
        terms = [Distil(source="votes")]
        step = Train(on="public", terms=terms, epochs=self.voting_epochs, rate=rate)
        model.load_weights(average)
        model.train(step, {"votes": votes}, "server")
        return model.weights(), {**agreement, "voted": float(kept.float().mean())}

    def _workspace(self, weights: Knowledge, round_: int) -> dict[str, Knowledge]:
        if not (self.disentangle or self.match):
            return {}
        model, x = self.model["global"], self.samples.public.x
        ids = public_ids(len(x), self.target_samples, self.round.seed, round_)
        model.load_weights(weights)
        target = describe(
            model.features(x[ids]),
            ids,
            self.workspace,
            moments=self.disentangle,
            fourier_features=self.fourier_features,
        )
        return {"target": target}
