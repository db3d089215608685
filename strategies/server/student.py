"""The base of methods whose server may train a student on the answers that it fuses."""

from __future__ import annotations

from collections.abc import Mapping

from fedkt.context import ServerNet
from fedkt.knowledge import Fused, Knowledge
from fedkt.recipe import Train
from fedkt.strategies.server.strategy import KnowledgeStrategy

STUDENT = "student"


class StudentStrategy(KnowledgeStrategy):
    """A method with an optional model at the server, which learns the fused answers.

    The student trains on the server's public samples, whose answers it is taught, and is evaluated
    as the server's model. Without one the server needs no public samples.
    """

    student = False

    def teach(self, student: bool) -> None:
        """Declare whether there is a student; called in ``__init__``."""
        self.student = self.needs_samples = student
        self.serves = STUDENT if student else None

    @property
    def has_models(self) -> bool:
        """Whether there is a student."""
        return self.student

    def models(self) -> Mapping[str, ServerNet]:
        """Return the student, if there is one."""
        return {STUDENT: ServerNet()} if self.student else {}

    def taught(self, fused: Fused, step: Train, knowledge: Mapping[str, Knowledge]) -> Fused:
        """Return the fused knowledge after the student, if there is one, has taken a step.

        Parameters
        ----------
        fused : Fused
            What clients get.
        step : Train
            The student's training, on ``"public"``.
        knowledge : Mapping[str, Knowledge]
            What the step reads.
        """
        if not self.student:
            return fused
        loss = self.model[STUDENT].train(step, knowledge, STUDENT)
        return fused.with_diagnostics(student_loss=loss)
