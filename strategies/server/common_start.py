"""One first model for all clients of an architecture, which the server draws and sends them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from fedkt.context import ServerNet
from fedkt.knowledge import Knowledge
from fedkt.strategies.server.model import ServerModel

START = "start"
"""The name of the first weights; a recipe's ``start`` loads them, and ``given`` names them."""

About = Mapping[int, Mapping[str, Any]]
"""What clients have told in the greeting (``round.about``)."""


def starting_nets(about: About) -> dict[str, ServerNet]:
    """Return a model at the server for each architecture, by its name."""
    return {kind: ServerNet(kind) for kind in sorted(set(_kinds(about).values()))}


def starts(
    models: Mapping[str, ServerModel], about: About, begun: Container[int] = ()
) -> dict[int, dict[str, Knowledge]]:
    """Return the first weights of the clients that have not begun, each architecture's the same.

    Parameters
    ----------
    models : Mapping[str, ServerModel]
        The models of :func:`starting_nets`, untrained; those of other names are left alone.
    about : Mapping
        What clients have told in the greeting.
    begun : Container[int]
        Clients that need none.
    """
    new = {client: kind for client, kind in _kinds(about).items() if client not in begun}
    weights = {kind: models[kind].weights() for kind in {*new.values()} & {*models}}
    return {c: {START: weights[kind]} for c, kind in new.items() if kind in weights}


def _kinds(about: About) -> dict[int, str]:
    return {client: str(told["architecture"]) for client, told in about.items()}
