"""The partition with overlap: every client draws from all the data by shares of its own."""

from __future__ import annotations

import numpy as np

from fedkt.data.partitioners import alpha_of, overlapping
from fedkt.data.splits import Array, Ints
from fedkt.errors import ConfigError
from fedkt.registry import register
from fedkt.rng import numpy_rng


def class_shares(argument: str, clients: int, classes: int, seed: int) -> Array:
    """Return the class shares of :func:`draw`, float64 ``[clients, classes]``.

    Raises
    ------
    ConfigError
        If the argument is no alpha.
    """
    alpha = alpha_of("draw", argument)
    rows = [
        numpy_rng(seed, "draw-shares", 0, client).dirichlet(np.full(classes, alpha))
        for client in range(clients)
    ]
    return np.stack(rows)


@register(part="partitions")
@overlapping(class_shares)
def draw(
    labels: Ints, argument: str, clients: int, seed: int, samples_per_client: int
) -> list[Ints]:
    """Label skew with overlap: draw:ALPHA lets clients draw one by one, so two may share samples.

    Each client's class shares are one draw from Dirichlet(ALPHA), and each of its
    ``samples_per_client`` samples is of a class drawn by them; a class that has fewer
    samples than the client draws of it is drawn from with replacement. So a small data set
    serves many clients, as when each collects its own data from one source.
    """
    if not samples_per_client:
        raise ConfigError(f"Partition 'draw:{argument}' needs samples_per_client.")
    of_class = [np.flatnonzero(labels == c) for c in range(int(labels.max()) + 1)]
    parts = []
    for client, shares in enumerate(class_shares(argument, clients, len(of_class), seed)):
        rng = numpy_rng(seed, "draw", 0, client)
        counts = rng.multinomial(samples_per_client, shares)
        rows = [
            rng.choice(candidates, count, replace=count > len(candidates))
            for candidates, count in zip(of_class, counts, strict=True)
        ]
        parts.append(np.concatenate(rows).astype(np.int64))
    return parts
