"""Taking weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedkt.registry import register
from fedkt.steps.train import Step, StepWork, Trainee


@register(name="load")
@dataclass(frozen=True)
class Load(Step):
    """A step that replaces the model's weights by fused ones, with a new optimiser state."""

    source: str = "weights"
    group: ClassVar[str] = "architecture"

    def needs(self) -> tuple[str, ...]:
        """Return the name of the weights."""
        return (self.source,)

    def run(self, learner: Trainee, work: StepWork, stream: str) -> float | None:
        """Load the weights, if they have arrived."""
        if self.source in work.knowledge:
            learner.load_weights(work.knowledge[self.source])
        return None
