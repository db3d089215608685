"""Leakage: how well uploads give away the label histograms of the clients.

One weak attack, no bound on what another could learn: the server takes a client's mean
uploaded prediction for its label histogram, as KnFu's estimate of the clients' class
distributions does for fusion (Seyedmohammadi et al., 2024, arXiv:2403.11892).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from fedkt.answers import probabilities_of
from fedkt.evaluation.transfer import OverClients, over_clients
from fedkt.knowledge import Knowledge

# A vector whose values differ by less than this share of the largest is constant: softmax in
# float32 leaves as much (up to 8 units in the last place), and noise must not pass for correlation.
ROUNDING = 8 * torch.finfo(torch.float32).eps


class Leakage(TypedDict):
    """How close the guesses are to the truth, over the clients that answered.

    ``correlation`` over the classes, in [-1, 1] (None for a client whose histogram or guess
    is constant), ``total_variation`` ½ Σ_c |p_c − q_c| in [0, 1], and as a yardstick the
    mean total variation of the uniform guess for the same clients. A client without any
    examples has no histogram to give away: None.
    """

    correlation: OverClients
    total_variation: OverClients
    total_variation_uniform: float | None


def mean_prediction(answers: Knowledge, num_classes: int) -> Tensor:
    """Return the mean over samples of a client's predictions, float32 ``[C]``.

    It sums to 1 as exactly as the rows do: probabilities are taken as they came. Rows that the
    client does not have (counts of 0) are left out.

    Parameters
    ----------
    answers : Knowledge
        Logits or probabilities ``[M, C]``, or labels ``[M]`` (taken one-hot).
    num_classes : int
        C.
    """
    values = answers.values
    if answers.counts is not None:
        values = values[answers.counts > 0]
    return probabilities_of(values, answers.kind, num_classes).mean(0, dtype=torch.float64).float()


def histogram_leakage(
    guesses: Mapping[int, Tensor], counts: Sequence[Sequence[int]]
) -> Leakage | None:
    """Return how well guesses of a server match the label histograms of the clients.

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
        histogram = torch.tensor(counts[client], dtype=torch.float64)
        if not histogram.any():
            continue
        truth = histogram / histogram.sum()
        correlations[client] = _correlation(guess.double(), truth)
        distances[client] = _total_variation(guess.double(), truth)
        uniform.append(_total_variation(torch.full_like(truth, 1 / len(truth)), truth))
    return {
        "correlation": over_clients(correlations),
        "total_variation": over_clients(distances),
        "total_variation_uniform": over_clients(uniform)["mean"],
    }


def _total_variation(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum() / 2)


def _correlation(p: Tensor, q: Tensor) -> float | None:
    if _is_constant(p) or _is_constant(q):
        return None
    a, b = p - p.mean(), q - q.mean()
    return float((a @ b / (a.norm() * b.norm())).clamp(-1, 1))


def _is_constant(p: Tensor) -> bool:
    return bool(p.max() - p.min() <= ROUNDING * p.abs().max())
