"""FedPKD (Lyu, Tang, Deng, Liu, Zhang and Zhang, ICDCS 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.context import ServerNet
from fedkt.data.samples import Samples
from fedkt.errors import ConfigError
from fedkt.fusion import mean_by_counts, sample_weighted_mean
from fedkt.knowledge import Fused, Knowledge, Stack, Uploads
from fedkt.objectives import KL, CrossEntropy, Distil, PseudoLabels, Term
from fedkt.objectives.prototype_distance import PrototypeDistance
from fedkt.options import Count, Factor, Fraction, PositiveFraction
from fedkt.recipe import Predict, Prototypes, Recipe, Train, Weighted
from fedkt.registry import register
from fedkt.strategies.server.strategy import KnowledgeStrategy

SERVER = "server"


def likeness(answers: Stack, prototypes: Stack, fused: Knowledge) -> Tensor:
    """Return weights of clients for each sample, ``[N, M]``: Σ_c softmax(z_n(x))_c s_nc.

    s_nc is the cosine of the client's prototype of class c with the fused one, 0 below 0 and for
    classes that it lacks: a client counts where it answers with classes that it knows as others do.
    """
    assert prototypes.ids is not None
    there = prototypes.present
    cosine = F.cosine_similarity(prototypes.values, fused.values, dim=-1).clamp_min(0)
    cosine = cosine if there is None else cosine * there
    classes = answers.values.softmax(-1)[..., prototypes.ids]
    return torch.einsum("nmc,nc->nm", classes, cosine)


def nearest_of_each_class(distance: Tensor, labels: Tensor, share: float) -> Tensor:
    """Return which samples are among the nearest ``share`` of their class, bool ``[M]``."""
    kept = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels):
        rows = (labels == label).nonzero()[:, 0]
        number = max(1, round(share * len(rows)))
        kept[rows[distance[rows].argsort(stable=True)[:number]]] = True
    return kept


@register
class FedPKD(KnowledgeStrategy):
    """Share logits and prototypes; a server's model learns them, and sends clear samples back.

    "A Prototype-Based Knowledge Distillation Framework for Heterogeneous Federated Learning". A
    *reconstruction*: only the abstract could be read, and no code is known. Clients share logits
    on public samples and prototypes of their classes. The server weighs logits by the likeness of
    prototypes (:func:`likeness`) and keeps of each pseudo-class the ``keep`` of the samples whose
    features in its own model are nearest to the class's prototype. Its model learns these by
    KL + CE(pseudo-label) + ε d(features, prototype). Clients get its logits for them and the
    fused prototypes: γ KL + (1 - γ) CE(pseudo-label) on public data, CE + ε d on private data, from
    the second round on. The server's features must be as wide as the clients'.

    With all clients alike, ``keep=1`` and without the server's training it is not
    :class:`~fedkt.strategies.FedMD`: clients learn the server's answers, not the average.

    Bytes a round and client, M public samples, M' of them kept, C classes, d features: up at most
    4MC + C(4d + 16), down at most M'(4C + 8) + C(4d + 16) (broadcast); no
    prototypes in the first round, and 4MC for answers if all rows are kept.

    Parameters
    ----------
    keep : float
        Share of the samples of each pseudo-class that is kept, in (0, 1].
    mix : float
        γ in [0, 1].
    pull : float
        ε ≥ 0.
    local_epochs, distil_epochs, server_epochs : int
        Passes of clients over private and public data, and of the server over public data.
    public_samples : int
        Number of public samples drawn each round; 0 takes all.
    """

    name = "fedpkd"
    needs_samples = True
    serves: str | None = SERVER

    def __init__(
        self,
        keep: PositiveFraction = 0.7,
        mix: Fraction = 0.5,
        pull: Factor = 1.0,
        local_epochs: Count = 5,
        distil_epochs: Count = 3,
        server_epochs: Count = 5,
        public_samples: Count = 0,
    ) -> None:
        self.keep, self.mix, self.pull = keep, mix, pull
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.server_epochs, self.public_samples = server_epochs, public_samples

    def recipe(self) -> Recipe:
        """Return the recipe: train near prototypes, share both, distil the server's answers."""
        private: list[Term | Weighted] = [CrossEntropy(), Weighted(self.pull, PrototypeDistance())]
        both = [Weighted(self.mix, Distil(KL())), Weighted(1 - self.mix, PseudoLabels())]
        return Recipe(
            learn=[Train("private", private, epochs=self.local_epochs)],
            share=[Predict(form="logits", samples=self.public_samples), Prototypes()],
            absorb=[Train("public", both, epochs=self.distil_epochs)],
        )

    def models(self) -> Mapping[str, ServerNet]:
        """Return the server's model."""
        return {SERVER: ServerNet()}

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the server's answers on the samples that are kept, and prototypes; broadcast."""
        prototypes = mean_by_counts(uploads["prototypes"]).shared["prototypes"]
        weights = likeness(uploads["public"], uploads["prototypes"], prototypes)
        told = sample_weighted_mean(uploads["public"], weights).shared["public"]
        assert told.ids is not None
        server, samples = self.model[SERVER], self.samples.public.at_ids(told.ids)
        labels, features = told.values.argmax(-1), server.features(samples.x)
        if features.shape[1] != prototypes.values.shape[1]:
            wide = f"{features.shape[1]} wide and the clients' {prototypes.values.shape[1]}"
            raise ConfigError(f"fedpkd: the server's features are {wide}; set server_model.")
        target, there = prototypes.known_at(labels)
        distance = torch.where(there, (features - target).square().sum(-1), torch.inf)
        kept = nearest_of_each_class(distance, labels, self.keep)
        chosen = Knowledge.rows("logits", told.values[kept], told.ids[kept])
        step = Train(
            "public",
            [Distil(KL()), PseudoLabels(), Weighted(self.pull, PrototypeDistance())],
            epochs=self.server_epochs,
        )
        marked = Samples(samples.x, labels, samples.ids)  # for the distance to prototypes
        loss = server.train(step, {"public": chosen, "prototypes": prototypes}, SERVER, marked)
        answers = server.predict(samples.x[kept])
        shared = {"public": chosen.with_tensors({"values": answers}), "prototypes": prototypes}
        return Fused(shared).with_diagnostics(server_loss=loss, kept=int(kept.sum()))
