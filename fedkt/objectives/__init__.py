"""Loss terms. One family a file; a term is a frozen dataclass that can be called."""

from fedkt.objectives.alignment import (
    MMD,
    Coral,
    DomainAdversarial,
    FourierMMD,
    Moments,
    Ramped,
    ramp,
    reverse_gradient,
)
from fedkt.objectives.base import Batch, Divergence, Outputs, Term, weighted_mean
from fedkt.objectives.discrepancy import (
    coral,
    fourier_frequencies,
    fourier_mean,
    gaussian_mmd,
    linear_mmd,
    moment_distance,
)
from fedkt.objectives.distillation import KL, MAE, MSE, Distil, Supported
from fedkt.objectives.regularisers import Proximal
from fedkt.objectives.supervised import AdjustedCrossEntropy, CrossEntropy

__all__ = [
    "KL",
    "MAE",
    "MMD",
    "MSE",
    "AdjustedCrossEntropy",
    "Batch",
    "Coral",
    "CrossEntropy",
    "Distil",
    "Divergence",
    "DomainAdversarial",
    "FourierMMD",
    "Moments",
    "Outputs",
    "Proximal",
    "Ramped",
    "Supported",
    "Term",
    "coral",
    "fourier_frequencies",
    "fourier_mean",
    "gaussian_mmd",
    "linear_mmd",
    "moment_distance",
    "ramp",
    "reverse_gradient",
    "weighted_mean",
]
