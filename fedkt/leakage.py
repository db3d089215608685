"""What uploads tell about the clients: how well they give away the label histograms.

One weak attack, no bound on what another could learn: the server takes a client's mean
uploaded prediction for its label histogram, as KnFu's estimate of the clients' class
distributions does for fusion (Seyedmohammadi et al., 2024, arXiv:2403.11892).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.knowledge import Knowledge
from fedkt.metrics import OverClients, over_clients

CONSTANT = 1e-9  # a standard deviation below this is that of a constant


class Leakage(TypedDict):
    """How close the guesses are to the truth, over the clients that answered.

    ``correlation`` over the classes, in [-1, 1] (None for a client whose histogram or guess
    is constant), ``total_variation`` ½ Σ_c |p_c − q_c| in [0, 1], and as a yardstick the
    mean total variation of the uniform guess.
    """

    correlation: OverClients
    total_variation: OverClients
    total_variation_uniform: float


def mean_prediction(answers: Knowledge, num_classes: int) -> Tensor:
    """Return the mean over samples of what a client predicts, float32 ``[C]``, sum 1.

    Parameters
    ----------
    answers : Knowledge
        Logits or probabilities ``[M, C]``, or labels ``[M]`` (taken one-hot).
    num_classes : int
        C.
    """
    values = answers.values
    if answers.kind == "labels":
        values = F.one_hot(values, num_classes).float()
    return (values.softmax(-1) if answers.kind == "logits" else values).mean(0)


def histogram_leakage(
    guesses: Mapping[int, Tensor], counts: Sequence[Sequence[int]]
) -> Leakage | None:
    """Compare what a server would guess with what the clients hold.

    Parameters
    ----------
    guesses : Mapping[int, Tensor]
        By client: its mean prediction ``[C]``.
    counts : Sequence[Sequence[int]]
        True training samples of each class, clients x C.

    Returns
    -------
    Leakage or None
        None if nobody answered.
    """
    if not guesses:
        return None
    correlations: list[float | None] = [None] * len(counts)
    distances: list[float | None] = [None] * len(counts)
    uniform = []
    for client, guess in guesses.items():
        truth = torch.tensor(counts[client], dtype=torch.float64)
        truth = truth / truth.sum().clamp_min(1)
        guess = guess.double()
        correlations[client] = _correlation(guess, truth)
        distances[client] = float((guess - truth).abs().sum() / 2)
        uniform.append(float((1 / len(truth) - truth).abs().sum() / 2))
    return {
        "correlation": over_clients(correlations),
        "total_variation": over_clients(distances),
        "total_variation_uniform": sum(uniform) / len(uniform),
    }


def _correlation(a: Tensor, b: Tensor) -> float | None:
    a, b = a - a.mean(), b - b.mean()
    scale = a.norm() * b.norm()
    return None if scale < CONSTANT else float((a @ b / scale).clamp(-1, 1))
