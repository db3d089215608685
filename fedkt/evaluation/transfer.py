"""Accuracies over clients, negative transfer and group effect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

ROUNDING = 1e-9  # of a mean of shares in float64


class OverClients(TypedDict):
    """One figure over the clients; ``None`` stands for a client that has no such figure."""

    mean: float | None
    std: float | None
    per_client: list[float | None]


def over_clients(values: Sequence[float | None]) -> OverClients:
    """Return mean and standard deviation of a figure over the clients.

    Parameters
    ----------
    values : Sequence[float or None]
        One value for each client, in client order; ``None`` where it is missing. A value that
        is not finite counts as missing.

    Returns
    -------
    OverClients
        Mean and standard deviation (population form) over the clients that have one.
    """
    per_client = [_known(v) for v in values]
    present = np.array([v for v in per_client if v is not None], dtype=np.float64)
    if not len(present):
        return {"mean": None, "std": None, "per_client": per_client}
    return {"mean": float(present.mean()), "std": float(present.std()), "per_client": per_client}


def _known(value: float | None) -> float | None:
    """Return a figure; None for NaN and infinity, which count as not measured."""
    return value if value is None or math.isfinite(value) else None


def worst_decile(values: Sequence[float | None]) -> float | None:
    """Return the mean of a figure over the worst tenth of the clients.

    Parameters
    ----------
    values : Sequence[float or None]
        One value for each client, the higher the better; one that is None or not finite counts as
        missing.

    Returns
    -------
    float or None
        Over the lowest tenth of the values, rounded down but at least one; None without any.

    References
    ----------
    Li, Sanjabi, Beirami and Smith, "Fair resource allocation in federated learning", ICLR 2020,
    arXiv:1905.10497, Table 1 (there called worst 10 %).
    """
    known = sorted(value for value in map(_known, values) if value is not None)
    return float(np.mean(known[: max(1, len(known) // 10)])) if known else None


def first_reached(values: Sequence[float | None], goal: float | None) -> int | None:
    """Return the number of the first value, from 1, that reaches a goal; None if none does.

    Parameters
    ----------
    values : Sequence[float or None]
        One for each round; None where it is missing.
    goal : float, optional
        What they should reach. A mean of shares that is equal but for rounding reaches it.
    """
    pairs = enumerate(values, 1)
    return next(
        (n for n, v in pairs if goal is not None and v is not None and v >= goal - ROUNDING), None
    )


def negative_transfer(
    accuracies: Sequence[float | None], alone: Sequence[float | None]
) -> tuple[float | None, float | None]:
    """Return rate and loss of negative transfer: each client against itself trained alone.

    Parameters
    ----------
    accuracies, alone : Sequence[float or None]
        Personalised accuracy of each client in the federation, and trained alone with
        as many private samples seen, in client order.

    Returns
    -------
    rate : float or None
        Share of clients that are worse off; ``None`` if no client can be compared.
    loss : float or None
        Mean accuracy those clients lose, 0 if there are none.
    """
    gained = [gain for gain in transfer(accuracies, alone) if gain is not None]
    if not gained:
        return None, None
    losses = [-gain for gain in gained if gain < 0]
    return len(losses) / len(gained), float(np.mean(losses)) if losses else 0.0


def transfer(
    accuracies: Sequence[float | None], alone: Sequence[float | None]
) -> list[float | None]:
    """Return the gain (> 0) or loss (< 0) of each client against itself trained alone.

    Parameters
    ----------
    accuracies, alone : Sequence[float or None]
        As for `negative_transfer`.

    Returns
    -------
    list[float or None]
        One difference in [-1, 1] for each client; ``None`` where either side is missing or not
        finite.
    """
    pairs = zip(map(_known, accuracies), map(_known, alone), strict=True)
    return [None if a is None or b is None else a - b for a, b in pairs]


def group_effect(
    learnt: Sequence[float | None], fused: float | Sequence[float | None] | None
) -> float | None:
    """Return the cost of the fusion of a round: Group Effect, FedKA Eq. 12.

    GE = (1/K) Σ_k TTA(G + Δ_k) - TTA(G'), where TTA is accuracy on the target's test set (the
    common test set), G + Δ_k the model of client k after it has learnt, and G' what the
    fusion has made of them all. GE > 0: fusing destroys information (negative transfer);
    GE < 0: the fused model is better than its parts. It looks at test labels and is for
    evaluation only.

    Parameters
    ----------
    learnt : Sequence[float or None]
        Accuracy of each client's model after learning, before the fusion; ``None`` for a
        client that did not take part.
    fused : float or None or Sequence[float or None]
        Accuracy of the one model after the fusion; or, where every client keeps a model of
        its own, that of each, in the same order.

    Returns
    -------
    float or None
        In [-1, 1]; ``None`` if no client has both.

    References
    ----------
    Sun, Chong and Ochiai, "Feature distribution matching for federated domain
    generalization", ACML 2022, arXiv:2203.11635.
    """
    after = fused if isinstance(fused, Sequence) else [fused] * len(learnt)
    # The mean of the differences, not the difference of the means: exactly 0 for equal values.
    lost = [value for value in transfer(learnt, after) if value is not None]
    return float(np.mean(lost)) if lost else None
