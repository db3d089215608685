"""PerAda (Xie, Huang, Chu, Xu, Xiao, Li and Anandkumar, CVPR 2024, arXiv:2302.06637)."""

from __future__ import annotations

from fedkt.knowledge import Fused, Knowledge
from fedkt.objectives import CrossEntropy, Proximal, Term
from fedkt.options import Count, Factor, Positive
from fedkt.recipe import Load, Recipe, Remember, Train, Weighted, Weights
from fedkt.registry import register
from fedkt.strategies.weights.feddf import FedDF


@register
class PerAdapter(FedDF):
    """Share a small part of the models, distilled at the server; keep one of one's own near it.

    Xie, Huang, Chu, Xu, Xiao, Li and Anandkumar, "PerAda: Parameter-Efficient Federated Learning
    Personalization with Generalization Guarantees", CVPR 2024, arXiv:2302.06637. All models have
    the same frozen backbone; only a part of the parameters (adapters, the last layer) is trained
    and travels. A client first trains its own v by CE + λ/2 ‖v - w‖² with w as received, then w by
    CE, and shares w. The server averages the w, by number of examples, and distils the mean logits
    of all clients' w on its unlabelled samples into the average, as
    :class:`~fedkt.strategies.FedDF` does. v answers for the client; its figures are v's. w answers
    for the world, as the server's model. With λ = 0 v is trained alone; without distillation w is
    that of :class:`~fedkt.strategies.LGFedAvg` with this backbone.

    A backbone is worth freezing if it is pretrained: ``transformers:NAME`` with ``freeze=true``,
    whose frozen parameters every client has from the model itself, and ``only=""``. Of other models
    the server sends its untrained backbone once. Running statistics of batch normalisation there
    move at each client. Of a part that is linear in its parameters, as ``"@head"`` often is, the
    mean logits are those of the mean: equally many examples leave nothing to distil.

    Bytes a round and client, A parameters of the part and B of the rest that are not frozen in the
    model itself: up 4A, down 4A (broadcast), from which the client learns; 4B more down, once.

    Differences: the rounds of distillation are not limited. The paper's clients all have the
    pretrained backbone, and its adapters lie within it. Moments of optimisers begin anew with each
    of the two trainings of a round. This is written from the paper and digests of it alone.

    Parameters
    ----------
    lam : float
        λ ≥ 0.
    only : str
        The part, as in ``Train(only=...)``: ``"@head"``, the layer that classifies, the beginning
        of names, or empty: all that is not frozen.
    local_epochs : int
        Passes over the private data a round, of each of v and w.
    distil_epochs : int
        Passes of the server's model over the public data a round.
    learning_rate : float
        Of the server's model, by Adam.
    temperature : float
        T > 0 of the distillation.
    """

    name = "peradapter"

    def __init__(
        self,
        lam: Factor = 1.0,
        only: str = "@head",
        local_epochs: Count = 5,
        distil_epochs: Count = 5,
        learning_rate: Positive = 1e-3,
        temperature: Positive = 1.0,
    ) -> None:
        super().__init__(local_epochs, distil_epochs, learning_rate, temperature)
        self.lam, self.only = lam, only

    def recipe(self) -> Recipe:
        """Return the recipe: train v near w, keep it, train w, share it, take up v again."""
        near: list[Term | Weighted] = [CrossEntropy(), Proximal(self.lam)]
        epochs, part = self.local_epochs, self.only
        keep = Remember(Weights("personal", of=part))
        return Recipe(
            start=[Load("backbone"), Load("weights"), keep],
            learn=[
                Load("personal"),
                Train("private", near, epochs, only=part),
                keep,
                Load("weights"),
                Train("private", [CrossEntropy()], epochs, only=part),
            ],
            share=[Weights("weights", of=part)],
            absorb=[Load("personal")],
            given=["backbone"],
        )

    def current(self) -> Fused:
        """Return the part and the backbone of the server's model; broadcast."""
        (model,) = self.model.values()
        whole = model.weights()
        told = {key: str(fact) for key, fact in next(iter(self.round.about.values())).items()}
        part = Weights("weights", of=self.only).share_of(whole, told)
        rest = {n: t for n, t in whole.tensors.items() if n not in part.tensors}
        return Fused(
            {"weights": part, **({"backbone": Knowledge("weights", rest)} if rest else {})}
        )
