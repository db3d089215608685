"""Loss terms. One family a file; a term is a frozen dataclass that can be called."""

from fedkt.objectives.base import Batch, Divergence, Outputs, Term, weighted_mean
from fedkt.objectives.distillation import KL, MAE, MSE, Distil, Supported
from fedkt.objectives.regularisers import Proximal
from fedkt.objectives.supervised import AdjustedCrossEntropy, CrossEntropy

__all__ = [
    "KL",
    "MAE",
    "MSE",
    "AdjustedCrossEntropy",
    "Batch",
    "CrossEntropy",
    "Distil",
    "Divergence",
    "Outputs",
    "Proximal",
    "Supported",
    "Term",
    "weighted_mean",
]
