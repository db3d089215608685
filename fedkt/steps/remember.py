"""Keeping knowledge at the client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedkt.errors import of_class
from fedkt.registry import register
from fedkt.shares.share import Question, Share
from fedkt.steps.train import Step, StepWork, Trainee


@register(name="remember")
@dataclass(frozen=True)
class Remember(Step):
    """A step that makes knowledge by a share and keeps it at the client, under the share's name.

    Terms, steps and shares read it from then on, in later rounds too, until the step runs again. It
    is saved with the client's state and never sent. ``Remember(Weights("previous"))`` keeps the
    weights as they are; ``Remember(Predict(on="private", name="before"))`` the answers for the
    client's own samples.

    Parameters
    ----------
    share : Share
        The knowledge.
    name : str
        The name to keep it under, if not that of the share.
    """

    share: Share
    name: str = ""

    def __post_init__(self) -> None:
        line = f"Remember holds a share such as Weights(), not {self.share!r}."
        of_class(self.share, Share, line)  # type: ignore[type-abstract]  # mypy wants a concrete class; none is made

    def needs(self) -> tuple[str, ...]:
        """Return the names of the knowledge that the share reads."""
        return self.share.needs()

    def makes(self) -> tuple[Share, ...]:
        """Return the share, under the name that its knowledge is kept by."""
        share: Any = self.share  # a dataclass with a field `name`, as all shares
        return (replace(share, name=self.name) if self.name else share,)

    @property
    def uses_public(self) -> bool:
        """Whether the share needs the public set."""
        return self.share.uses_public

    def questions(self, work: StepWork) -> Sequence[Question]:
        """Return the inputs that the share asks the model about."""
        return self.share.questions(work)

    def run(self, learner: Trainee, work: StepWork, stream: str) -> float | None:
        """Make the knowledge and keep it."""
        (share,) = self.makes()
        work.keep(share.name, share.make(learner, work))
        return None
