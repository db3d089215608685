"""The client's logits and its own class prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedkt.readouts.blends import Blend
from fedkt.readouts.readout import Ask, ReadOut
from fedkt.registry import register


@register(name="prior")
@dataclass(frozen=True)
class Prior(ReadOut):
    """z + log π, with the client's class prior π.

    Bayes' rule for label shift: M. Saerens, P. Latinne and C. Decaestecker, "Adjusting the outputs
    of a classifier to new a priori probabilities", Neural Computation 14, 2002, equation 2.4.
    """

    def answer(self, x: Tensor, ask: Ask, own: Mapping[str, Any], log_prior: Tensor) -> Tensor:
        """Return z + log π, ``[n, C]``."""
        return Blend()(ask(None, x).logits, None, log_prior)
