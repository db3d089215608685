"""KT-pFL (Zhang, Guo, Ma, Wang, Xu and Wu, NeurIPS 2021, arXiv:2111.02862)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedkt.fusion import personalised_mean
from fedkt.knowledge import Fused, Stack, Uploads
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.options import Count, Factor, Positive
from fedkt.recipe import Predict, Recipe, Train
from fedkt.registry import register
from fedkt.strategies.server.strategy import KnowledgeStrategy

SHARPNESS = 5.0  # of the authors' softmax over the coefficients


def onto_simplex(rows: Tensor) -> Tensor:
    """Return the nearest points of the probability simplex, ``[n, d]`` (Held et al., 1974)."""
    ordered = rows.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    places = torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype)
    number = (ordered - excess / places > 0).sum(-1, keepdim=True)
    return (rows - excess.gather(-1, number - 1) / number).clamp_min(0)


@register(name="kt-pfl")
class KTpFL(KnowledgeStrategy):
    """Learn how much each client takes from each other: a matrix of knowledge coefficients.

    The teacher of client n is Σ_m c_nm p_m(x). The server takes gradient steps on
    the coefficients, Σ_n [mean (p_n - Σ_m c_nm p_m)² + ρ mean (c_n - 1/N)²] (means over
    samples, classes and clients), all rows at once, and brings each row back to the
    simplex. Clients distil their teacher.

    The authors' program differs: it takes rows one by one, with steps that it rescales, and
    replaces the coefficients by softmax(5 c_n) each round (``constraint="softmax"``); its KL is a
    mean over classes too, C times smaller. Without steps every teacher is the plain mean,
    :class:`~fedkt.strategies.FedMD` with probabilities.

    Clients that are absent keep their coefficients; those of the round's clients are divided by
    their sum for its teachers.

    Bytes a round and client, M public samples in use, C classes: up 4MC, down 4MC (unicast).

    Parameters
    ----------
    steps : int
        Gradient steps on the coefficients a round. Its default and those of ``rate`` and ``rho``
        are ours.
    rate : float
        Their size, above 0.
    rho : float
        ρ ≥ 0 draws the coefficients to 1/N.
    constraint : {"simplex", "softmax"}
        The way rows stay probabilities: the nearest point of the simplex, or the program's.
    temperature : float
        T of the shared probabilities and of the distillation.
    local_epochs, distil_epochs : int
        Passes over the private and over the public data a round.
    public_samples : int
        Number of public samples drawn each round; 0 takes all.
    """

    def __init__(
        self,
        steps: Count = 1,
        rate: Positive = 1.0,
        rho: Factor = 0.7,
        constraint: Literal["simplex", "softmax"] = "simplex",
        temperature: Positive = 1.0,
        local_epochs: Count = 5,
        distil_epochs: Count = 3,
        public_samples: Count = 0,
    ) -> None:
        self.steps, self.rate, self.rho, self.constraint = steps, rate, rho, constraint
        self.temperature = temperature
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.public_samples = public_samples

    def recipe(self) -> Recipe:
        """Return the recipe: private training, probabilities, distillation of the own teacher."""
        t, samples = self.temperature, self.public_samples
        return Recipe(
            learn=[Train(on="private", terms=[CrossEntropy()], epochs=self.local_epochs)],
            share=[Predict(form="probabilities", temperature=t, samples=samples)],
            absorb=[Train(on="public", terms=[Distil(KL(t))], epochs=self.distil_epochs)],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return each client's teacher, after steps on the coefficients; unicast."""
        stack = uploads["public"]
        table: dict[int, dict[int, float]] = self.memory.setdefault("coefficients", {})
        total = len(self.round.about)
        c = torch.tensor(
            [[table.get(n, {}).get(m, 1 / total) for m in stack.clients] for n in stack.clients],
            dtype=torch.float64,
        )
        mass = c.sum(1, keepdim=True).clamp_min(1e-12)  # of the clients that are here
        c = self._improved(c / mass, stack)
        for n, row in zip(stack.clients, (c * mass).tolist(), strict=True):
            table.setdefault(n, {}).update(zip(stack.clients, row, strict=True))
        fused = personalised_mean(stack, c.to(torch.float32))
        return fused.with_diagnostics(clients=list(stack.clients), coefficients=c)

    def _improved(self, c: Tensor, stack: Stack) -> Tensor:
        """Return the coefficients ``[N, N]`` after the round's steps."""
        p = stack.values.flatten(1).double()
        gram = p @ p.T / p.shape[1]
        for _ in range(self.steps):
            slope = 2 * (c @ gram - gram) + 2 * self.rho * (c - 1 / len(c)) / len(c)
            c = c - self.rate * slope
            simplex = self.constraint == "simplex"
            c = onto_simplex(c) if simplex else (SHARPNESS * c).softmax(-1)
        return c

    def fusion_flops(self, clients: int, rows: float, classes: int) -> float:
        """Return the FLOPs of the products of all answers, and of the teachers."""
        return 4.0 * clients**2 * rows * classes
