"""What a node and a server of a real federation need.

The names below are imported on first use: a node imports no more than its turn needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "ClientData": "fedkt.data.samples",
    "Policy": "fedkt.clients.policy",
    "TrainingOptions": "fedkt.training",
    "client": "fedkt.deploy.party",
    "model": "fedkt.deploy.at_node",
    "learner_of": "fedkt.clients.learners.making",
    "serve": "fedkt.deploy.serving",
    "server": "fedkt.deploy.serving",
    "strategy_of": "fedkt.deploy.serving",
}
__all__ = [
    "ClientData",
    "Policy",
    "TrainingOptions",
    "client",
    "learner_of",
    "model",
    "serve",
    "server",
    "strategy_of",
]

if TYPE_CHECKING:
    from fedkt.clients.learners.making import learner_of
    from fedkt.clients.policy import Policy
    from fedkt.data.samples import ClientData
    from fedkt.deploy.at_node import model
    from fedkt.deploy.party import client
    from fedkt.deploy.serving import serve, server, strategy_of
    from fedkt.training import TrainingOptions


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fedkt.deploy' has no attribute {name!r}")
