"""FedKA rearranged: answers are shared, not weights (Sun, Chong and Ochiai, ACML 2022)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from fedkt.adaptation.alignment import MMD, DomainAdversarial, Ramped
from fedkt.answers import log_probabilities
from fedkt.context import ServerNet
from fedkt.fusion.voting import vote
from fedkt.fusion.weighting import sample_weighted_mean, sample_weights
from fedkt.knowledge import Fused, Stack, Uploads
from fedkt.objectives import CrossEntropy, Distil, Term
from fedkt.objectives.heads import Head
from fedkt.options import AtLeastTwo, Count, Factor
from fedkt.recipe import Beside, Predict, Recipe, Train
from fedkt.registry import register
from fedkt.strategies.server.strategy import KnowledgeStrategy


@register
class FedKAFree(KnowledgeStrategy):
    """Align and vote as FedKA does, by answers instead of weights, with any architectures.

    Sun, Chong and Ochiai (ACML 2022, arXiv:2203.11635), rearranged: the unlabelled target is a
    public set that the clients hold too. Each client trains on its own data and shares its
    answers on target samples. The server fuses them into votes, trains a model of its own, of
    any architecture, on the votes, and sends them back. A client learns λ_p · (distillation of
    the votes) + (cross-entropy of private samples), λ_p as in
    :class:`~fedkt.strategies.FedKA`, so that the votes of untrained networks are hardly
    learnt. Optionally a client also aligns its features of private samples with its features
    of target samples (both computed by its own network).

    Differences: in the paper every client has one vote, a label (``majority``, equation 10).
    Clients of different domains are not equally good, and many answers are uncertain at first.
    So by default a client's vote is its probabilities, weighted by exp(-3 H), H their entropy.
    Both kinds of alignment are off: without batch normalisation the adversary can shrink a
    network's features to nothing.

    Bytes a round and client, M target samples to vote on, C classes: up 4MC (8M by majority);
    down 4MC (broadcast), nothing without feedback.

    Parameters
    ----------
    votes : {"confidence", "majority"}
        Rule that turns answers into votes.
    disentangle, match, feedback : bool
        Domain classifier; embedding matching; whether clients learn from the votes.
    gamma : float
        γ ≥ 0 of λ_p.
    target_batch : int
        Number of target samples beside every private batch.
    voting_samples : int
        Number of target samples to vote on, drawn anew every round; 0 = all.
    local_epochs, local_samples : int
        Passes over the private data a round, and samples in a pass (0 = all).
    server_epochs, distil_epochs : int
        Passes over the votes at the server and at the clients.
    """

    name = "fedka-free"
    needs_samples = True
    serves = "server"
    follows_progress = True

    def __init__(
        self,
        votes: Literal["confidence", "majority"] = "confidence",
        disentangle: bool = False,
        match: bool = False,
        feedback: bool = True,
        gamma: Factor = 5.0,
        target_batch: AtLeastTwo = 32,
        voting_samples: Count = 1024,
        local_epochs: Count = 1,
        local_samples: Count = 0,
        server_epochs: Count = 2,
        distil_epochs: Count = 1,
    ) -> None:
        self.votes, self.disentangle, self.match, self.feedback = (
            votes,
            disentangle,
            match,
            feedback,
        )
        self.gamma, self.target_batch = gamma, target_batch
        self.voting_samples = voting_samples
        self.local_epochs, self.local_samples = local_epochs, local_samples
        self.server_epochs, self.distil_epochs = server_epochs, distil_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: train on private data, share answers, learn from the votes."""
        terms: list[Term] = [CrossEntropy()]
        if self.disentangle:
            terms.append(DomainAdversarial("domain", self.gamma, detach=False))
        if self.match:
            terms.append(Ramped(MMD(detach=False), self.gamma))
        learn = Train(
            on="private",
            terms=terms,
            epochs=self.local_epochs,
            samples=self.local_samples,
            beside=Beside("public", self.target_batch) if len(terms) > 1 else None,
        )
        absorb = Train(
            on="public",
            terms=[Ramped(Distil(), self.gamma)],
            epochs=self.distil_epochs,
            # λ_p means something only beside another term: Adam ignores a loss's scale.
            rehearse=[CrossEntropy()],
        )
        form: Literal["labels", "probabilities"] = (
            "labels" if self.votes == "majority" else "probabilities"
        )
        return Recipe(
            learn=[learn],
            share=[Predict(form=form, samples=self.voting_samples)],
            absorb=[absorb] if self.feedback else [],
            heads=[Head("domain", (100, 2), norm=True)] if self.disentangle else [],
        )

    def models(self) -> dict[str, ServerNet]:
        """Return the server's own model, of any architecture."""
        return {"server": ServerNet()}

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the votes, after training the server's model on them; broadcast."""
        voted = self._voted(uploads["public"])
        step = Train(on="public", terms=[Distil()], epochs=self.server_epochs)
        self.model["server"].train(step, voted.shared, "server")
        return voted

    def _voted(self, answers: Stack) -> Fused:
        round_ = self.round
        counted = vote(answers, round_.num_classes, round_.seed, round_.number)
        if self.votes == "majority":
            return counted
        logits = log_probabilities(answers.values)
        fused = sample_weighted_mean(answers, sample_weights(logits, "entropy"))
        return replace(fused, diagnostics=counted.diagnostics)
