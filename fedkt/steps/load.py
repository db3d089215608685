"""Taking weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedkt import about
from fedkt.about import Model
from fedkt.data.samples import ClientData
from fedkt.options import Factor
from fedkt.registry import register
from fedkt.shares.share import Share
from fedkt.steps.train import Step, StepWork, Trainee


@register(name="load")
@dataclass(frozen=True)
class Load(Step):
    """A step that replaces weights by fused ones, with a new optimiser state where they go.

    What the fused weights lack stays as it is.

    Parameters
    ----------
    source : str
        The name of the weights.
    group : {"", "architecture"}
        Whether all clients have one architecture, or the server returns weights for each
        (``Fused.personal``).
    of : str
        Which part of them to load, as in ``Weights(of=...)``; empty: all.
    rate : float
        The step towards them, θ ← θ + rate (θ_fused - θ); 1 replaces the weights.
    """

    source: str = "weights"
    group: Literal["", "architecture"] = ""
    of: str = ""
    rate: Factor = 1.0

    @property
    def one_architecture(self) -> bool:
        """Whether all clients must have one architecture."""
        return not self.group

    def needs(self) -> tuple[str, ...]:
        """Return the name of the weights."""
        return (self.source,)

    def loads(self) -> tuple[str, ...]:
        """Return the name of the weights."""
        return (self.source,)

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return the architecture, the inputs and their preprocessing."""
        return about.of_weights(model, data)

    def refuses(self, model: Model, shares: Mapping[str, Share]) -> str | None:
        """Refuse a part that the model or the loaded weights do not have."""
        names = model.weights(of=self.of).tensors.keys() if self.of else frozenset()
        share = shares.get(self.source)
        weights = share.first(model) if share and self.of else None
        if weights is not None:
            names &= weights.tensors.keys()
        if names or not self.of:
            return None
        return f"Load({self.source!r}, of={self.of!r}): no weights to load there"

    def run(self, learner: Trainee, work: StepWork, stream: str) -> float | None:
        """Load the weights, if they have arrived."""
        if self.source in work.knowledge:
            learner.load_weights(work.knowledge[self.source], self.of, self.rate)
        return None
