"""Domain adaptation: distances of feature distributions and the terms that minimise them."""

from fedkt.adaptation.alignment import (
    MMD,
    Coral,
    DomainAdversarial,
    FourierMMD,
    Moments,
    Ramped,
    ramp,
    reverse_gradient,
)
from fedkt.adaptation.discrepancy import (
    coral,
    fourier_frequencies,
    fourier_mean,
    gaussian_mmd,
    linear_mmd,
    moment_distance,
)

__all__ = [
    "MMD",
    "Coral",
    "DomainAdversarial",
    "FourierMMD",
    "Moments",
    "Ramped",
    "coral",
    "fourier_frequencies",
    "fourier_mean",
    "gaussian_mmd",
    "linear_mmd",
    "moment_distance",
    "ramp",
    "reverse_gradient",
]
