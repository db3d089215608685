"""Fed-ET (Cho, Manoel, Joshi, Sim and Dimitriadis, IJCAI 2022, arXiv:2204.12703)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, where

from fedkt.context import ServerNet
from fedkt.fusion.weighting import sample_weights
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import KL, Batch, Outputs, Term, weighted_mean
from fedkt.options import Count, Factor, Positive
from fedkt.recipe import Train
from fedkt.registry import register
from fedkt.strategies.weights.feddf import FedDF

SERVER = "server"


@register(name="consensus-and-diversity")
@dataclass(frozen=True)
class ConsensusAndDiversity(Term):
    """Cross-entropy of the consensus, and λ KL(softmax(d) ‖ softmax(z)) where models disagree.

    Parameters
    ----------
    factor : float
        λ ≥ 0.
    """

    factor: Factor = 0.05

    def needs(self) -> tuple[str, ...]:
        """Return the names of the labels and of the logits of those who disagree."""
        return ("consensus", "diverse")

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        labels = knowledge["consensus"].at(batch.ids)
        diverse, there = knowledge["diverse"].known_at(batch.ids)
        losses = F.cross_entropy(outputs.logits, labels, reduction="none")
        apart = where(there, KL()(outputs.logits, diverse, "logits"), 0.0)
        return weighted_mean(losses + self.factor * apart, batch.weight)


def ensemble(logits: Tensor) -> dict[str, Knowledge]:
    """Return the consensus of models, and what those say who disagree.

    Weights of a sample are shares of the variances of logits over the classes, α_k = Var(z_k) /
    Σ_l Var(z_l). The consensus is argmax Σ_k α_k z_k, and the diverse logits are Σ α_k z_k / Σ α_k
    over the models whose top class is another.

    Parameters
    ----------
    logits : Tensor
        ``[N, M, C]``.
    """
    variance = sample_weights(logits, "variance")
    alpha = variance / variance.sum(0).clamp_min(1e-30)
    labels = (alpha[..., None] * logits).sum(0).argmax(-1)
    others = alpha * (logits.argmax(-1) != labels)
    mass = others.sum(0)
    diverse = (others[..., None] * logits).sum(0) / mass.clamp_min(1e-30)[:, None]
    told = Knowledge.rows("logits", diverse)
    return {
        "consensus": Knowledge.rows("labels", labels),
        "diverse": replace(told, counts=(mass > 0).long()),
    }


@register
class FedET(FedDF):
    """Train a large model at the server by the weighted consensus of small models of clients.

    Clients of each architecture average their weights. The server asks every client's model about
    its unlabelled samples: a model counts by the variance of its logits, the consensus is the
    label, and the models that disagree are a soft target with factor λ (:func:`ensemble`). So the
    server's model, ``server_model`` of the experiment, may be larger than any client can train.

    The equations are as remembered, no code of the authors is known. Instead of the paper's way
    back, a representation layer of one shape in all models, each architecture's mean distils the
    server's model (``transfer_epochs``). Without transfer clients of one architecture are
    :class:`~fedkt.strategies.FedAvg`'s.

    Bytes a round and client with P parameters in its small model: up 4P, down 4P (broadcast to an
    architecture).

    Parameters
    ----------
    local_epochs : int
        Passes over the private data a round.
    server_epochs, transfer_epochs : int
        Passes of the server's model, and of the small ones, over the public data.
    diversity : float
        λ ≥ 0.
    learning_rate : float
        Of the small models at the server, by Adam.
    """

    name = "fedet"

    def __init__(
        self,
        local_epochs: Count = 5,
        server_epochs: Count = 5,
        transfer_epochs: Count = 1,
        diversity: Factor = ConsensusAndDiversity.factor,
        learning_rate: Positive = 1e-3,
    ) -> None:
        super().__init__(local_epochs, transfer_epochs, learning_rate)
        self.server_epochs, self.transfer_epochs = server_epochs, transfer_epochs
        self.diversity = diversity

    def models(self) -> Mapping[str, ServerNet]:
        """Return the server's model, then one of each architecture."""
        small = super().models()
        self.serves = SERVER
        return {SERVER: ServerNet(), **small}

    def fuse(self, uploads: Uploads) -> Fused:
        """Return each architecture's mean, after the server's model has learnt and taught it."""
        server, x = self.model[SERVER], self.samples.public.x
        loss = ConsensusAndDiversity(self.diversity)
        step = Train("public", [loss], epochs=self.server_epochs)
        told = server.train(step, ensemble(self.answers(uploads)), SERVER)
        teacher = Knowledge.rows("logits", server.predict(x))
        fused = self.students(uploads, teacher, self.transfer_epochs)
        return fused.with_diagnostics(server_loss=told)
