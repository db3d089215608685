"""The choice of the clients that take part in a round."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from fedkt.errors import ConfigError, FedktError, RunFailedError
from fedkt.rng import numpy_rng
from fedkt.strategies.server.round import ServerOptions
from fedkt.text import foreign, raised


def drawn(options: ServerOptions, round_: int, clients: Sequence[int]) -> list[int]:
    """Return as many of the clients as take part in a round, drawn uniformly, ascending."""
    count = max(1, math.floor(options.participation * len(clients) + 0.5))
    if count >= len(clients):
        return list(clients)
    rng = numpy_rng(options.seed, "participants", round_)
    return sorted(int(c) for c in rng.choice(clients, size=count, replace=False))


def chosen(
    title: str, round_: int, choose: Callable[[Sequence[int]], Any], clients: Sequence[int]
) -> list[int]:
    """Return the clients that a method chooses, each once and in order.

    Raises
    ------
    ConfigError
        If it chooses no client, or one that is not there.
    RunFailedError
        If its code raises.
    """
    try:
        choice = choose(clients)
    except FedktError:
        raise
    except Exception as error:  # a user's code may raise anything
        where = f"{title}, round {round_}"
        raise RunFailedError(f"{where}: choose() raised {raised(error)}") from error
    choice = getattr(choice, "tolist", lambda: choice)()  # of arrays and tensors
    if not isinstance(choice, Collection) or not choice or any(c not in clients for c in choice):
        raise ConfigError(
            f"{title}: choose() returned {foreign(choice)}; it must return at least one "
            f"of the clients {foreign(list(clients))}."
        )
    return sorted(set(map(int, choice)))
