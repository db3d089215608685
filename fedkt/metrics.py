"""Accuracies over clients and negative transfer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np


class OverClients(TypedDict):
    """One figure over the clients; ``None`` stands for a client that has no such figure."""

    mean: float | None
    std: float | None
    per_client: list[float | None]


def over_clients(values: Sequence[float | None]) -> OverClients:
    """Summarise one figure per client.

    Parameters
    ----------
    values : Sequence[float or None]
        One value for each client, in client order; ``None`` where it is missing.

    Returns
    -------
    OverClients
        Mean and standard deviation (population form) over the clients that have one.
    """
    present = np.array([v for v in values if v is not None], dtype=np.float64)
    if not len(present):
        return {"mean": None, "std": None, "per_client": list(values)}
    return {
        "mean": float(present.mean()),
        "std": float(present.std()),
        "per_client": list(values),
    }


def negative_transfer(
    accuracies: Sequence[float | None], alone: Sequence[float | None]
) -> tuple[float | None, float | None]:
    """Compare each client with itself trained alone.

    Parameters
    ----------
    accuracies, alone : Sequence[float or None]
        Personalised accuracy of each client in the federation, and trained alone with
        the same budget of private epochs, in client order.

    Returns
    -------
    rate : float or None
        Share of clients that are worse off; ``None`` if no client can be compared.
    loss : float or None
        Mean accuracy those clients lose, 0 if there are none.
    """
    pairs = [(a, b) for a, b in zip(accuracies, alone, strict=True) if None not in (a, b)]
    if not pairs:
        return None, None
    losses = [float(b) - float(a) for a, b in pairs if a is not None and b is not None and a < b]
    return len(losses) / len(pairs), float(np.mean(losses)) if losses else 0.0
