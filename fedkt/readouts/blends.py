"""Personal read-outs: how a client turns logits into its personal answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.answers import mean_loss
from fedkt.knowledge import Knowledge, Stack


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


# The read-outs that a gate chooses from, in the order in which their losses travel.
GATE: tuple[Blend, ...] = tuple(
    Blend(scale, prior, refreshed)
    for refreshed in (0.0, 0.5, 1.0)
    for scale in (0.5, 0.75, 1.0, 1.5, 2.0)
    for prior in (0.0, 0.25, 0.5, 1.0, 1.5)
)
FEDERATION_WEIGHT = 20.0  # of the federation's mean loss beside a client's own
UNKNOWN = -1.0  # no mean negative log-likelihood is negative
LARGEST_LOSS = 1e4  # so that it travels as float16 too

# The read-outs that are the same for all clients; see ``fedkt.recipe.Recipe``.
FIXED: Mapping[str, Blend] = {
    "raw": Blend(prior=0.0),
    "prior": Blend(),
    "mix": Blend(refreshed=0.5),
}


def held_out_losses(
    logits: Tensor, refreshed: Tensor, labels: Tensor, log_prior: Tensor
) -> Tensor | None:
    """Return the mean negative log-likelihood of a client's held-out labels under each blend.

    Parameters
    ----------
    logits, refreshed : Tensor
        z and z' of the held-out samples, ``[n, C]``; see :class:`Blend`.
    labels : Tensor
        int64 ``[n]``.
    log_prior : Tensor
        ``[C]``.

    Returns
    -------
    Tensor
        float32 ``[75]`` in the order of ``GATE``, in nats, at most 10000; None without samples.

    Raises
    ------
    NotFiniteError
        If a blend of them is not finite.
    """
    if not len(labels):
        return None
    losses = [mean_loss(blend(logits, refreshed, log_prior), labels) for blend in GATE]
    return torch.stack(losses).clamp(0, LARGEST_LOSS)


def as_knowledge(losses: Tensor | None) -> Knowledge:
    """Return held-out losses (or that there are none) as statistics, ``losses`` ``[75]``."""
    none = torch.full((len(GATE),), UNKNOWN)
    return Knowledge("statistics", {"losses": none if losses is None else losses})


def mean_losses(stack: Stack) -> Knowledge:
    """Return the mean held-out losses of the clients that have held-out samples, equally weighted.

    Parameters
    ----------
    stack : Stack
        Statistics of N clients, ``losses`` ``[N, 75]``; -1 says that there is no figure.

    Returns
    -------
    Knowledge
        Statistics of the same shape; all -1 if nobody has a figure.
    """
    losses = stack.tensors["losses"]
    measured = losses[(losses >= 0).all(1)]
    return as_knowledge(measured.mean(0) if len(measured) else None)


def choose(own: Tensor | None, federation: Knowledge | None) -> Blend:
    """Return the blend of least loss of the client + 20 × mean loss of the federation.

    The federation's part keeps a client from choosing by the chance of a few held-out samples.

    Parameters
    ----------
    own : Tensor, optional
        The client's losses ``[75]``.
    federation : Knowledge, optional
        The result of :func:`mean_losses` in the round before.

    Returns
    -------
    Blend
        One of ``GATE``; the plain prior read-out if either is not known.
    """
    if own is None or federation is None or bool((federation.tensors["losses"] < 0).any()):
        return FIXED["prior"]
    return GATE[int((own + FEDERATION_WEIGHT * federation.tensors["losses"]).argmin())]
