"""Optimisers: how a client's parameters move by their gradients, in either executor."""

from fedkt.optimisers.adam import Adam
from fedkt.optimisers.adamw import AdamW
from fedkt.optimisers.optimiser import Optimiser, optimiser_of
from fedkt.optimisers.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimiser", "optimiser_of"]
