"""The gate: the best of 75 blends by held-out losses, the client's and the federation's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedkt.about import Model
from fedkt.answers import LARGEST_LOSS, mean_loss
from fedkt.knowledge import Kind, Knowledge, Stack
from fedkt.readouts.blends import Blend
from fedkt.readouts.readout import Ask, ReadOut, SettleWork
from fedkt.registry import register
from fedkt.shares import Asked, Share, Sizes
from fedkt.shares.share import ShareWork
from fedkt.upload_check import Expected

# The blends that the gate chooses from, in the order in which their losses travel.
BLENDS: tuple[Blend, ...] = tuple(
    Blend(scale, prior, refreshed)
    for refreshed in (0.0, 0.5, 1.0)
    for scale in (0.5, 0.75, 1.0, 1.5, 2.0)
    for prior in (0.0, 0.25, 0.5, 1.0, 1.5)
)
FEDERATION_WEIGHT = 20.0  # of the federation's mean loss beside a client's own
UNKNOWN = -1.0  # no mean negative log-likelihood is negative
LOSSES, CHOICE, COPY = "gate.losses", "gate.choice", "gate.copy"  # what a client keeps


@register(name="held-out-losses")
@dataclass(frozen=True)
class HeldOutLosses(Share):
    """Mean losses of the client's held-out samples under the gate's blends.

    75 floats, as they were when the client last absorbed.
    """

    name: str = "gate"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "statistics"

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return ``losses [75]``; all -1 where there are none."""
        return as_knowledge(work.own.get(LOSSES))

    def expected(self, asked: Asked) -> Expected:
        """Return ``losses [75]``, none below -1."""
        between = {"losses": (torch.tensor(UNKNOWN), torch.tensor(math.inf))}
        return Expected(self.kind, None, {"losses": (len(BLENDS),)}, between=between)

    def upload_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of 75 losses."""
        return sizes.floats * len(BLENDS)


@register(name="gate")
@dataclass(frozen=True)
class Gate(ReadOut):
    """The blend of least held-out loss, of the client's + 20 × the federation's mean.

    In the first round, and without validation samples, it is the read-out ``prior``. Bytes a round
    and client: 300 each way, the losses up and their mean down (broadcast).
    """

    copies: ClassVar[bool] = True

    def shares(self) -> Sequence[Share]:
        """Return the share of the held-out losses."""
        return (HeldOutLosses(),)

    def fuse(self, stack: Stack) -> Knowledge:
        """Return the mean losses; see :func:`mean_losses`."""
        return mean_losses(stack)

    def settle(self, learner: object, work: SettleWork) -> None:
        """Measure the held-out samples under every blend, and keep losses, choice and copy."""
        validation = work.data.validation
        losses = copy = None
        if validation.y is not None and len(validation):
            copy = work.trained_again()
            now, then = (work.ask(state, validation.x).logits for state in (None, copy))
            losses = held_out_losses(now, then, validation.y, work.data.log_prior)
        choice = choose(losses, work.knowledge.get("gate"))
        work.keep(LOSSES, losses)
        work.keep(CHOICE, choice)
        needs_copy = choice is not None and BLENDS[choice].refreshed > 0
        work.keep(COPY, copy if needs_copy else None)

    def answer(self, x: Tensor, ask: Ask, own: Mapping[str, Any], log_prior: Tensor) -> Tensor:
        """Return the answer of the blend that was chosen; of ``prior`` where none was."""
        choice, copy = own.get(CHOICE), own.get(COPY)
        blend = Blend() if choice is None else BLENDS[choice]
        refreshed = None if copy is None else ask(copy, x).logits
        return blend(ask(None, x).logits, refreshed, log_prior)


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
        float32 ``[75]`` in the order of ``BLENDS``, in nats, at most 10000; None without samples.

    Raises
    ------
    NotFiniteError
        If a blend of them is not finite.
    """
    if not len(labels):
        return None
    losses = [mean_loss(blend(logits, refreshed, log_prior), labels) for blend in BLENDS]
    return torch.stack(losses).clamp(0, LARGEST_LOSS)


def as_knowledge(losses: Tensor | None) -> Knowledge:
    """Return held-out losses (or that there are none) as statistics, ``losses`` ``[75]``."""
    none = torch.full((len(BLENDS),), UNKNOWN)
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


def choose(own: Tensor | None, federation: Knowledge | None) -> int | None:
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
    int
        Place in ``BLENDS``; None if either is not known.
    """
    if own is None or federation is None or bool((federation.tensors["losses"] < 0).any()):
        return None
    return int((own + FEDERATION_WEIGHT * federation.tensors["losses"]).argmin())
