"""FedSR, a simple representation for unseen domains (Nguyen, Torr and Lim, NeurIPS 2022)."""

from __future__ import annotations

from dataclasses import replace

from fedkt.objectives.probabilistic import Probabilistic
from fedkt.options import Count, Factor
from fedkt.recipe import Recipe
from fedkt.registry import register
from fedkt.strategies.weights.fedavg import FedAvg


@register
class FedSR(FedAvg):
    """Average the weights of models with random, short features that tell only the class.

    Nguyen, Torr & Lim: FedSR: A Simple and Effective Domain Generalization Method for Federated
    Learning, NeurIPS 2022. Clients minimise ``CE(classify(z), y) + α_L2R ‖z‖₂ + α_CMI
    KL(p(z | x) ‖ r(z | y))`` with z drawn from p(z | x) = N(μ(x), σ(x)²) and a learnable normal
    distribution r of every class (``fedkt.objectives.probabilistic``). A model answers with
    its mean μ. Model, σ and r are all averaged by number of examples.

    Different from the paper: μ are the features of any model, so they may be the outputs of a
    ReLU; the paper's networks end in a linear layer for μ and σ. Here σ is a linear layer on
    those features. One z is drawn for each sample and step. The authors' code multiplies μ and σ
    by one more learnable scalar within the KL. That only divides m and s of r, which are free, so
    it is left out. Their clients communicate the network alone (with μ and σ, its last layer),
    averaged with equal weights, and each keeps its own r and that scalar; here the r of all
    clients are averaged too. At test time their model answers with the mean probabilities of
    several drawn z, here once with μ. Their r starts with m = 0 and s = softplus(1) = 1.31 for
    every class; here ``class-mean`` and ``class-scale`` start as linear layers, so the classes
    differ by chance. α of 0.01 and 0.001 are those in the code's README for PACS; its defaults
    are 0.01 and 0.0005, with 5 local epochs.

    Bytes a round and client, P parameters of the model, features of width d, C classes: with
    Q = P + d(d + 1) + 2d(C + 1), up 4Q, down 4Q (broadcast); 4Q more down as in FedAvg.

    Parameters
    ----------
    l2r : float
        α_L2R ≥ 0.
    cmi : float
        α_CMI ≥ 0.
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        Number of samples, drawn anew, in a pass; 0 = all.
    """

    name = "fedsr"

    def __init__(
        self,
        l2r: Factor = 0.01,
        cmi: Factor = 0.001,
        local_epochs: Count = 5,
        local_samples: Count = 0,
    ) -> None:
        super().__init__(local_epochs, local_samples)
        self.l2r, self.cmi = l2r, cmi

    def recipe(self) -> Recipe:
        """Return the recipe: load the global weights, train with noise, share the weights."""
        term = Probabilistic(self.l2r, self.cmi)
        train = replace(self.private_step(), terms=[term])
        return Recipe.sharing_weights(train, heads=term.heads())
