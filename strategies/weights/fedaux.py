"""FedAUX (Sattler, Korjakow, Rischke and Samek, IEEE TNNLS 2021, arXiv:2102.02514)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt import about
from fedkt.about import Model
from fedkt.data.samples import ClientData
from fedkt.knowledge import Kind, Knowledge, Uploads
from fedkt.options import Count, Positive
from fedkt.recipe import Recipe, Share
from fedkt.registry import register
from fedkt.shares.ids import public_ids
from fedkt.shares.public_features import features_of
from fedkt.shares.share import Asked, Question, ShareWork
from fedkt.strategies.weights.feddf import FedDF
from fedkt.upload_check import Expected

KEPT = "certainty-scores"
FLOOR = 1e-8


def certainty(own: Tensor, public: Tensor, penalty: float, steps: int = 30) -> Tensor:
    """Return P(private | x) + 1e-8 for each public row, ``[M]``.

    By logistic regression of private against public rows, each beside a constant 1 and of length 1:
    min (1/n) Σ log(1 + exp(-y β·x)) + λ/2 |β|², in Newton steps.

    Parameters
    ----------
    own, public : Tensor
        ``[m, d]`` and ``[M, d]``.
    penalty : float
        λ > 0.
    """
    rows = F.normalize(F.pad(torch.cat([own, public]).double(), (0, 1), value=1.0), dim=-1)
    y = torch.cat([torch.ones(len(own)), torch.zeros(len(public))]).double()
    beta, ridge = rows.new_zeros(rows.shape[1]), penalty * torch.eye(rows.shape[1]).double()
    for _ in range(steps):
        p = (rows @ beta).sigmoid()
        slope = rows.T @ (p - y) / len(y) + penalty * beta
        curvature = rows.T @ ((p * (1 - p))[:, None] * rows) / len(y) + ridge
        beta = beta - torch.linalg.solve(curvature, slope)
    return ((rows[len(own) :] @ beta).sigmoid() + FLOOR).to(torch.float32)


@register(name="certainty")
@dataclass(frozen=True)
class Certainty(Share):
    """How much each public sample is like the client's own, by :func:`certainty`: rows ``[M, 1]``.

    Made of the features of the model when the client first shares, and kept: it is the same in
    every round.

    Parameters
    ----------
    penalty : float
        λ > 0.
    name : str
        The share's name.
    """

    penalty: Positive = 0.01
    name: str = "certainty"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "features"

    @property
    def uses_public(self) -> bool:
        """Whether it needs the public set."""
        return True

    def keeps(self) -> tuple[str, ...]:
        """Return the name of the scores that the client keeps."""
        return (KEPT,)

    def refuses(self, model: Model, data: ClientData) -> str | None:
        """Refuse models without features."""
        return about.no_features(model, data)

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return the public set."""
        return about.of_public(data)

    def ids(
        self, size: int, seed: int, round: int, asked: Mapping[str, Knowledge] | None = None
    ) -> Tensor:
        """Return the ids of all public samples."""
        return public_ids(size, 0, seed, round)

    def questions(self, work: ShareWork) -> Sequence[Question]:
        """Return the private and the public samples, the first time."""
        if KEPT in work.own or work.data.public is None:
            return ()
        samples = work.data.train, work.data.public
        return tuple(Question(s.x, features=True) for s in samples if len(s))

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the scores; all alike where the client has no samples."""
        assert work.data.public is not None
        public, own = work.data.public, work.data.train
        if KEPT not in work.own:
            scores = torch.full((len(public),), FLOOR)
            if len(own):
                told = features_of(model, own.x), features_of(model, public.x)
                scores = certainty(*told, self.penalty)
            work.keep(KEPT, Knowledge.rows(self.kind, scores[:, None], public.ids))
        kept: Knowledge = work.own[KEPT]
        return kept

    def expected(self, asked: Asked) -> Expected:
        """Return ``values [M, 1]`` from 0 to 1."""
        assert asked.ids is not None
        limits = {"values": (torch.tensor(0.0), torch.tensor(1.001))}
        return Expected(self.kind, asked.ids, {"values": (len(asked.ids), 1)}, between=limits)


@register
class FedAUX(FedDF):
    """Ensemble distillation in which a model counts where public samples are like its client's own.

    :class:`~fedkt.strategies.FedDF`, with the teacher Σ_i s_i(x) z_i(x) / Σ_i s_i(x): client i
    tells the certainty scores s_i(x) = P(private | x) + 1e-8 of a logistic regression that tells
    its own samples from the public ones by features. With equal scores it is FedDF.

    The paper's features are those of a network that was trained on the public samples without
    labels, and frozen: use a pre-trained model with frozen parameters. Here they are the features
    of the client's model after its first training. Rows are normalised one by one; the authors'
    program divides by the largest norm, which depends on the data. Scores come without the paper's
    noise: they tell which public samples are like the client's. They are sent in every round, not
    once, so that a lost message does no harm.

    Bytes a round and client with P parameters and M public samples: up 4P + 4M, down 4P (broadcast
    to an architecture).

    Parameters
    ----------
    local_epochs, distil_epochs : int
        Passes of clients over private, and of the students over public data.
    learning_rate : float
        Of the students, by Adam.
    penalty : float
        λ > 0 of the logistic regression.
    """

    name = "fedaux"

    def __init__(
        self,
        local_epochs: Count = 5,
        distil_epochs: Count = 5,
        learning_rate: Positive = 1e-3,
        penalty: Positive = Certainty.penalty,
    ) -> None:
        super().__init__(local_epochs, distil_epochs, learning_rate)
        self.penalty = penalty

    def recipe(self) -> Recipe:
        """Return the recipe of FedDF with the scores beside the weights."""
        recipe = super().recipe()
        return replace(recipe, share=[*recipe.share, Certainty(self.penalty)])

    def teacher(self, uploads: Uploads, answers: Tensor) -> Tensor:
        """Return the mean of the clients' logits weighted by certainty."""
        scores = uploads["certainty"].values.clamp_min(FLOOR)  # [N, M, 1]
        return (scores * answers).sum(0) / scores.sum(0)
