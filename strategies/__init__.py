"""Flower strategies that fuse knowledge: the server's side of each method, one a file."""

from fedkt.strategies.base import KnowledgeStrategy
from fedkt.strategies.rounds import Failure, Observer, RoundReport, ServerOptions, Traffic

__all__ = [
    "Failure",
    "KnowledgeStrategy",
    "Observer",
    "RoundReport",
    "ServerOptions",
    "Traffic",
]
