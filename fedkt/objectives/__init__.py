"""Loss terms. One family a file; a term is a frozen dataclass that can be called.

Those of domain adaptation live in :mod:`fedkt.adaptation` and can be imported from here too.
"""

from __future__ import annotations

import importlib
from typing import Any

from fedkt.objectives.distillation import KL, MAE, MSE, Distil, PseudoLabels, Supported
from fedkt.objectives.heads import Head, HeadPart, Net, Place, apply_head
from fedkt.objectives.regularisers import Proximal
from fedkt.objectives.supervised import AdjustedCrossEntropy, CrossEntropy
from fedkt.objectives.term import Batch, Divergence, Outputs, Term, Transform, weighted_mean

__all__ = [
    "KL",
    "MAE",
    "MSE",
    "AdjustedCrossEntropy",
    "Batch",
    "CrossEntropy",
    "Distil",
    "Divergence",
    "Head",
    "HeadPart",
    "Net",
    "Outputs",
    "Place",
    "Proximal",
    "PseudoLabels",
    "Supported",
    "Term",
    "Transform",
    "apply_head",
    "weighted_mean",
]


def __getattr__(name: str) -> Any:
    # Only on use: those terms are built on the ones here.
    face = importlib.import_module("fedkt.adaptation")
    if name in face.__all__:
        return getattr(face, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
