"""Flower strategies that fuse knowledge: the server's side of every method, one file each.

Every built-in method can be imported from here by the name of its class, as in
``from fedkt.strategies import KnFu``.
"""

from __future__ import annotations

from typing import Any

from fedkt import registry
from fedkt.strategies.server.round import Failure, RoundReport, ServerOptions, Traffic
from fedkt.strategies.server.strategy import KnowledgeStrategy, Observer

__all__ = [
    "Failure",
    "KnowledgeStrategy",
    "Observer",
    "RoundReport",
    "ServerOptions",
    "Traffic",
]


def __getattr__(name: str) -> Any:
    # On first use, so that a method is loaded only when it is named; rooms have lower-case names.
    if name[:1].isupper():
        for known in registry.names("strategies"):
            method = registry.lookup("strategies", known)
            if method.__name__ == name and method.__module__.startswith(f"{__name__}."):
                return method
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
