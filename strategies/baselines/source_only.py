"""Source only: the baseline of domain adaptation under the name its tables have."""

from __future__ import annotations

from fedkt.options import AtLeastOne, Count
from fedkt.registry import register
from fedkt.strategies.baselines.local import Local


@register
class SourceOnly(Local):
    """Each client trains on its own domain and never hears of the target.

    It is :class:`~fedkt.strategies.Local`, with one epoch a round as the adapting
    methods have; domain adaptation tables list it as "source only". Those of one source mean a
    single model, and so it is one for each client here.

    Bytes a round: none.

    Parameters
    ----------
    local_epochs, local_samples, times
        As in :class:`~fedkt.strategies.Local`.
    """

    name = "source-only"

    def __init__(
        self, local_epochs: Count = 1, local_samples: Count = 0, times: AtLeastOne = 1
    ) -> None:
        super().__init__(local_epochs, local_samples, times)
