"""The blend of log-posteriors that the built-in read-outs answer with."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Blend:
    """A mixture of two log-posteriors: (1 - m) lsm(b z + τ log π) + m lsm(b z' + τ log π).

    z are the logits of the client's model, z' those of a copy of it that was trained once
    more on private data, π is the client's own class prior and lsm the log-softmax.

    Parameters
    ----------
    scale : float
        b.
    prior : float
        τ; 0 leaves the prior out, 1 is Bayes' rule for label shift (Saerens et al. 2002).
    refreshed : float
        m in [0, 1], the share of the copy.
    """

    scale: float = 1.0
    prior: float = 1.0
    refreshed: float = 0.0

    def __call__(self, logits: Tensor, refreshed: Tensor | None, log_prior: Tensor) -> Tensor:
        """Return the personal logits.

        Parameters
        ----------
        logits : Tensor
            z, ``[n, C]``.
        refreshed : Tensor, optional
            z', ``[n, C]``; needed if m > 0.
        log_prior : Tensor
            log π, ``[C]``.

        Returns
        -------
        Tensor
            ``[n, C]``; for m = 0 without the log-softmax, which changes no answer.
        """
        now = self.scale * logits + self.prior * log_prior
        if self.refreshed == 0:
            return now
        assert refreshed is not None
        copy = self.scale * refreshed + self.prior * log_prior
        mixture = (1 - self.refreshed) * F.log_softmax(now, dim=-1)
        return mixture + self.refreshed * F.log_softmax(copy, dim=-1)
