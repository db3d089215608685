"""DS-FL (Itahara, Nishio, Koda, Morikura and Yamamoto, IEEE TMC 2021, arXiv:2008.06180)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from fedkt.fusion import mean
from fedkt.fusion.sharpening import enhanced_entropy_reduction, entropy_reduction
from fedkt.knowledge import Fused, Uploads
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.options import Count, Positive
from fedkt.recipe import Predict, Recipe, Train
from fedkt.registry import register
from fedkt.strategies.server.student import StudentStrategy


@register(name="ds-fl")
class DSFL(StudentStrategy):
    """Average the clients' probabilities, sharpen the average, and distil it everywhere.

    Distillation-based semi-supervised federated learning: entropy reduction aggregation (ERA) is
    softmax(p̄ / T) of the mean p̄ of the clients' probabilities on unlabelled public samples. Clients
    and a model at the server minimise KL(ERA ‖ student), mean over the batch.

    ERA at T = 1 is not p̄, but flatter: a softmax of probabilities lies between 1/(C + e - 1) and
    e/(C + e - 1). ``mean`` is the paper's simple aggregation, and ``enhanced-era`` (SCARLET, 2026),
    p̄^β / Σ p̄^β, is it at β = 1; both are FedMD with probabilities then.

    Clients of the paper distil before they train on private data; here private training opens
    the round, so the two differ by half a round and evaluation comes after the distillation.

    Bytes a round and client, M public samples in use, C classes: up 4MC, down 4MC (broadcast).

    Parameters
    ----------
    aggregation : {"era", "enhanced-era", "mean"}
        The rule.
    temperature : float
        T of ``era``; the paper's is 0.1.
    exponent : float
        β of ``enhanced-era``; SCARLET's is 2.
    local_epochs, distil_epochs : int
        Passes over the private and over the public data a round; the paper's are 5.
    public_samples : int
        Number of public samples drawn each round (the paper: 1000); 0 takes all.
    student : bool
        Whether the server has a model, which learns with ``distil_epochs`` too.
    """

    def __init__(
        self,
        aggregation: Literal["era", "enhanced-era", "mean"] = "era",
        temperature: Positive = 0.1,
        exponent: Positive = 2.0,
        local_epochs: Count = 5,
        distil_epochs: Count = 5,
        public_samples: Count = 1000,
        student: bool = True,
    ) -> None:
        self.aggregation, self.temperature, self.exponent = aggregation, temperature, exponent
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.public_samples = public_samples
        rules: dict[str, Callable[[Tensor], Tensor]] = {
            "era": lambda p: entropy_reduction(p, temperature),
            "enhanced-era": lambda p: enhanced_entropy_reduction(p, exponent),
            "mean": lambda p: p,
        }
        self._sharpen = rules[aggregation]
        self.teach(student)

    def recipe(self) -> Recipe:
        """Return the recipe: private training, probabilities on the public set, distillation."""
        predict = Predict(form="probabilities", samples=self.public_samples, partial=True)
        return Recipe(
            learn=[Train(on="private", terms=[CrossEntropy()], epochs=self.local_epochs)],
            share=[predict],  # partial: the mean leaves absent rows out
            absorb=[self._distil],
        )

    @property
    def _distil(self) -> Train:
        return Train(on="public", terms=[Distil(KL())], epochs=self.distil_epochs)

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the sharpened average, after the server's model has learnt it; broadcast."""
        average = mean(uploads["public"]).shared["public"]
        shared = {"public": average.with_tensors({"values": self._sharpen(average.values)})}
        return self.taught(Fused(shared), self._distil, shared)
