"""Source only (baseline): local training under its name in tables of domain adaptation."""

from __future__ import annotations

from fedkt.options import AtLeastOne, Count
from fedkt.registry import register
from fedkt.strategies.baselines.local import Local


@register
class SourceOnly(Local):
    """Train each client on its own domain alone; the target is never used.

    This is :class:`~fedkt.strategies.Local` with one epoch a round, as in the adapting methods.
    Domain adaptation tables list it as "source only". There it is one model for a source; here
    it is one model for each client.

    Bytes a round and client: none.

    Parameters
    ----------
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        Number of samples, drawn anew, in a pass; 0 = all.
    times : int
        Factor of the epochs; see :class:`~fedkt.strategies.Local`.
    """

    name = "source-only"

    def __init__(
        self, local_epochs: Count = 1, local_samples: Count = 0, times: AtLeastOne = 1
    ) -> None:
        super().__init__(local_epochs, local_samples, times)
