"""The mean of the client's model and of a copy that is trained once more on private data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fedkt.readouts.blends import Blend
from fedkt.readouts.readout import Ask, ReadOut, SettleWork
from fedkt.registry import register

COPY = "mix.copy"


@register(name="mix")
@dataclass(frozen=True)
class Mix(ReadOut):
    """The mean of two log-posteriors z + log π, of the model as it is and of a refreshed copy.

    The copy has the private training of ``learn`` once more. Without it, before the client has
    absorbed, the answer is that of ``prior``.
    """

    copies: ClassVar[bool] = True

    def settle(self, learner: Any, work: SettleWork) -> None:
        """Train the copy, and keep it."""
        work.keep(COPY, work.trained_again())

    def answer(self, x: Tensor, ask: Ask, own: Mapping[str, Any], log_prior: Tensor) -> Tensor:
        """Return the mean of the log-posteriors, ``[n, C]``."""
        copy = own.get(COPY)
        refreshed = None if copy is None else ask(copy, x).logits
        blend = Blend(refreshed=0.0 if copy is None else 0.5)
        return blend(ask(None, x).logits, refreshed, log_prior)
