"""Data sets, partitions, public sets: everything that a federation is made of."""

from __future__ import annotations

from fedkt.data.dataset import Dataset, Unlabelled
from fedkt.data.federation import Federation, FederationSpec, build_federation
from fedkt.data.samples import ClientData, Samples
from fedkt.data.scaling import model_inputs
from fedkt.data.sources import load_dataset

__all__ = [
    "ClientData",
    "Dataset",
    "Federation",
    "FederationSpec",
    "Samples",
    "Unlabelled",
    "build_federation",
    "load_dataset",
    "model_inputs",
]
