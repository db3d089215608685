"""Prior-free knowledge fusion: a combination of published parts."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from fedkt.errors import ConfigError
from fedkt.fusion import mean, trust
from fedkt.fusion.weighting import Weighting, sample_weighted_mean, sample_weights
from fedkt.knowledge import Fused, Stack, Uploads
from fedkt.objectives import KL, AdjustedCrossEntropy, CrossEntropy, Distil, Term
from fedkt.recipe import Predict, ReadOut, Recipe, Train, Weighted
from fedkt.registry import register
from fedkt.strategies.base import KnowledgeStrategy

Trust = Literal["correlation", "per-class", "median", "off"]
FEWEST_FOR_TRUST = 5


@register
class FedPF(KnowledgeStrategy):
    """Clients share what they know free of what they happen to hold; one target serves all.

    Private training uses logits adjusted by the client's own class prior (Menon et al.
    2021; Ren et al. 2020), so that uploads speak of p(x | y) and not of the client's
    p(y). The server averages softmax(z) with weights exp(-γ H) per sample and broadcasts
    one target; distilling it, clients rehearse private data with weight μ. Each model
    answers twice: z for the world, z + log π for its own client (Bayes' rule for label
    shift, Saerens et al. 2002). A combination of published parts, not a new principle; it
    assumes that p(x | y) is alike at all clients. The class counts never leave a client.

    scikit-learn clients have no adjusted loss: their probabilities are divided by the class
    frequencies of the rows they were fitted on instead.

    γ = 0, μ = 0 and ``prior="off"`` with ``readout="raw"`` and ``trust="off"`` is FedMD
    with probabilities.

    Bytes a round and client, M public samples in use, C classes: up 4MC, down 4MC
    (broadcast).

    Parameters
    ----------
    gamma : float
        γ ≥ 0; higher listens more to clients that are sure of a sample.
    mu : float
        μ ≥ 0, weight of the private batch beside each public batch.
    prior : {"eb", "off"}
        Adjust private losses by the empirical-Bayes prior, or use plain cross-entropy.
    readout : {"prior", "raw", "mix"}
        The personal answer; see ``fedkt.recipe.Recipe``.
    trust : {"correlation", "per-class", "median", "off"}
        ``correlation``: soften over-confident uploads to the median entropy, and trust
        clients by how well they correlate with their peers, over rounds; at least five
        clients, else off. ``per-class`` also weighs clients class by class. ``median``
        takes the coordinate-wise median instead of any weights.
    weighting : {"entropy", "variance", "uniform"}
        Per-sample weights; γ is for ``entropy``.
    history : float
        Share of the past in the correlations, in [0, 1).
    local_epochs, distil_epochs : int
        Passes over the private and over the public data a round.
    public_samples : int
        How many public samples are drawn each round; 0 takes all.
    """

    name = "fedpf"

    def __init__(
        self,
        gamma: float = 3.0,
        mu: float = 1.0,
        prior: Literal["eb", "off"] = "eb",
        readout: ReadOut = "prior",
        trust: Trust = "correlation",
        weighting: Weighting = "entropy",
        history: float = 0.5,
        local_epochs: int = 5,
        distil_epochs: int = 3,
        public_samples: int = 0,
    ) -> None:
        if gamma < 0 or mu < 0 or not 0 <= history < 1:
            raise ConfigError("fedpf needs gamma ≥ 0, mu ≥ 0 and history in [0, 1).")
        if prior not in ("eb", "off") or trust not in get_args(Trust):
            raise ConfigError(
                "fedpf: prior is eb or off; trust is correlation, per-class, median or off."
            )
        self.gamma, self.mu, self.prior, self.readout = gamma, mu, prior, readout
        self.trust, self.weighting, self.history = trust, weighting, history
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.public_samples = public_samples

    def recipe(self) -> Recipe:
        """Train with adjusted logits, share prior-free logits, distil and rehearse."""
        private: Term = AdjustedCrossEntropy() if self.prior == "eb" else CrossEntropy()
        distil = Train(
            on="public",
            terms=[Distil(KL())],
            epochs=self.distil_epochs,
            rehearse=[Weighted(self.mu, private)] if self.mu else [],
        )
        return Recipe(
            learn=[Train(on="private", terms=[private], epochs=self.local_epochs)],
            share=[Predict(form="logits", samples=self.public_samples)],
            absorb=[distil],
            readout=self.readout,
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Average the probabilities by certainty and trust."""
        stack: Stack = uploads["public"]
        if self.trust == "median":
            probabilities = _with_values(stack, stack.values.softmax(-1))
            median = trust.coordinate_median(probabilities.values)
            return mean(_with_values(probabilities, median.expand_as(probabilities.values)))
        logits, trusted = stack.values, torch.ones(len(stack))
        if self.trust != "off" and len(stack) >= FEWEST_FOR_TRUST:
            trusted = trust.correlation_trust(self._agreement(stack))
            logits = trust.soften(logits)
        probabilities = _with_values(stack, logits.softmax(-1))
        weights = sample_weights(logits, self.weighting, self.gamma)
        weights = weights * trusted.clamp_min(trust.FLOOR)[:, None]
        if self.trust == "per-class" and len(stack) >= FEWEST_FOR_TRUST:
            weights = trust.class_reliability(probabilities.values, weights)
        uniform = bool((weights == weights[0, 0]).all())
        fused = mean(probabilities) if uniform else sample_weighted_mean(probabilities, weights)
        return fused.with_diagnostics(
            clients=list(stack.clients),
            trust=trusted,
            mean_weight=(weights / weights.sum(0)).mean(1),
        )

    def _agreement(self, stack: Stack) -> Tensor:
        """Return this round's correlations, averaged with those remembered for each pair."""
        now = trust.correlations(stack.values)
        remembered: dict[str, float] = self.memory.setdefault("agreement", {})
        for i, a in enumerate(stack.clients):
            for j, b in enumerate(stack.clients):
                key = f"{a}/{b}"
                if key in remembered:
                    now[i, j] = self.history * remembered[key] + (1 - self.history) * now[i, j]
                remembered[key] = float(now[i, j])
        return now


def _with_values(stack: Stack, probabilities: Tensor) -> Stack:
    return Stack(
        stack.name,
        "probabilities",
        {"values": probabilities},
        stack.ids,
        stack.clients,
        stack.num_examples,
    )
