"""Held-out losses for the gate, the read-out that chooses among blends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from fedkt.knowledge import Kind, Knowledge
from fedkt.readouts.blends import GATE, UNKNOWN, as_knowledge
from fedkt.registry import register
from fedkt.shares.share import Asked, Model, Share, ShareWork
from fedkt.upload_check import Expected


@register(name="gate")
@dataclass(frozen=True)
class Gate(Share):
    """Mean losses of the client's held-out samples under the gate's read-outs.

    75 floats, as they were when the client last absorbed; see ``fedkt.readouts``. The server
    returns their mean over the clients (``fedkt.readouts.mean_losses``) under the same name.
    """

    name: str = "gate"
    readout: ClassVar[str] = "gate"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "statistics"

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return ``losses [75]``; all -1 where there are none."""
        return as_knowledge(work.losses)

    def expected(self, asked: Asked) -> Expected:
        """Return ``losses [75]``, none below -1."""
        between = {"losses": (torch.tensor(UNKNOWN), torch.tensor(math.inf))}
        return Expected(self.kind, None, {"losses": (len(GATE),)}, between=between)
