"""What the options of a training do to a client's private samples, in either executor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkt.augmentations import Augmentation, augmentations_of
from fedkt.clients.learners.base import Work
from fedkt.data.priors import empirical_bayes_prior


@dataclass(frozen=True)
class PrivateSamples:
    """The weights of a client's private samples in training, and their augmentations.

    Parameters
    ----------
    weights : Tensor, optional
        float32 ``[n]``; None if all count once.
    log_prior : Tensor
        float32 ``[C]``, the log of the client's class prior, of the samples as weighted.
    augmentations : Sequence[Augmentation]
        Changes of their inputs, in order.
    """

    weights: Tensor | None
    log_prior: Tensor
    augmentations: Sequence[Augmentation]

    @classmethod
    def of(cls, work: Work) -> PrivateSamples:
        """Return them for a client, whose data are on the CPU."""
        chain = augmentations_of(work.options.augment)
        if work.options.class_weights == "none":
            return cls(None, work.data.log_prior, chain)
        y = work.data.train.y
        assert y is not None
        counts = torch.bincount(y, minlength=work.data.num_classes)
        of_classes = balanced(counts)
        prior = empirical_bayes_prior(counts * of_classes).log()
        return cls(of_classes[y].float(), prior, chain)


def balanced(counts: Tensor) -> Tensor:
    """Return class weights ``[C]`` float64 with which the classes present count the same.

    Parameters
    ----------
    counts : Tensor
        Samples of each class, ``[C]``.

    Returns
    -------
    Tensor
        n / (K n_c) for the K classes with n_c > 0 samples, which sum to n; 0 for the others.
    """
    present = counts > 0
    weights = counts.sum() / (present.sum() * counts.double())
    return torch.where(present, weights, 0.0)
