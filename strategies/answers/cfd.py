"""CFD, compressed federated distillation (Sattler et al., 2020, arXiv:2012.00632)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, Le

from fedkt.answers import finite, of_kind
from fedkt.fusion import mean
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.options import Count
from fedkt.recipe import Predict, Recipe, Train
from fedkt.registry import register
from fedkt.strategies.server.student import STUDENT, StudentStrategy

Bits = Annotated[int, Ge(1), Le(32)]


@register
class CFD(StudentStrategy):
    """Average quantised answers, distil a student at the server, and send the student's answers.

    Sattler, Marban, Rischke and Samek, "Communication-Efficient Federated Distillation", 2020,
    arXiv:2012.00632. Clients answer public samples with probabilities of b bits that sum to 1; with
    one bit they tell the most probable class. The server averages them, and its student minimises
    KL(p̄ ‖ student). Clients distil the student's probabilities, quantised too (dual distillation).
    In both directions only what has changed since the round before travels (delta coding). The
    quantiser and the coder are the codecs ``cfd`` and ``delta``.

    With 32 bits both ways and without a student it is :class:`~fedkt.strategies.FedMD` with
    probabilities.

    One bit is for clients that have learnt their classes: votes of others are for few classes, and
    so are the student's answers. On digits (8 clients, Dirichlet 0.3, ``cnn`` and ``mlp``, 15
    rounds) the mean global accuracy is 41 % by default, 71 % with 2 bits up, 79 % with one bit and
    ``local_epochs=20``, and 73 % with 32 bits both ways.

    Bytes a round and client, M public samples in use, C classes: up B + 8, down B + 8 (broadcast),
    in a client's first round, 8 for the shape. B = ⌈M r / 8⌉ is packed, where r is ⌈log2 C⌉ with
    one bit, else (C - 1) b with the b bits of the direction; with 32 bits it is 4MC. Later, of the
    B bytes u have changed: ⌈B / 8⌉ + u + 1, or B + 1 if all have.

    Differences: clients of the paper distil before they train on private data. Here private
    training opens the round, as in :class:`~fedkt.strategies.DSFL`, so the two differ by half a
    round and evaluation comes after the distillation. The paper's arithmetic coder is left out:
    packed bytes travel as they are. A well-known port sends the server's answers in full precision,
    as they are during its last epoch; here they are those of the trained student.

    Parameters
    ----------
    bits_up, bits_down : int
        b of the clients' and of the server's answers, from 1 to 32; with 32 floats travel, by the
        run's codec if it has one. The paper has one bit up. With one bit down a student that has
        just begun names one class for most samples, and clients unlearn what they know.
    delta : bool
        Whether quantised answers are delta coded. It pays where the public samples are those of the
        round before.
    local_epochs, distil_epochs : int
        Passes over the private and over the public data a round.
    public_samples : int
        Number of public samples drawn each round; 0 takes all.
    student : bool
        Whether the student's answers are sent, which learns with ``distil_epochs`` too; else the
        average.
    """

    name = "cfd"

    def __init__(
        self,
        bits_up: Bits = 1,
        bits_down: Bits = 8,
        delta: bool = True,
        local_epochs: Count = 5,
        distil_epochs: Count = 5,
        public_samples: Count = 0,
        student: bool = True,
    ) -> None:
        self.bits_up, self.bits_down, self.delta = bits_up, bits_down, delta
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.public_samples = public_samples
        self.teach(student)

    def recipe(self) -> Recipe:
        """Return the recipe: private training, quantised answers, distillation."""
        predict = Predict(
            samples=self.public_samples,
            partial=True,  # the mean leaves absent rows out
            codec_up=self._codec(self.bits_up),
            codec_down=self._codec(self.bits_down),
        )
        return Recipe(
            learn=[Train("private", [CrossEntropy()], epochs=self.local_epochs)],
            share=[predict],
            absorb=[self._distil],
        )

    def _codec(self, bits: int) -> str | None:
        if bits == 32:
            return None
        return f"delta(codec=cfd(bits={bits}))" if self.delta else f"cfd(bits={bits})"

    @property
    def _distil(self) -> Train:
        return Train("public", [Distil(KL())], epochs=self.distil_epochs)

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the answers of the student that has learnt the average; broadcast."""
        average = mean(uploads["public"]).shared["public"]
        fused = self.taught(Fused({"public": average}), self._distil, {"public": average})
        if not self.student:
            return fused
        assert average.ids is not None
        logits = self.model[STUDENT].predict(self.samples.public.at_ids(average.ids).x)
        answers = of_kind(finite(logits), "probabilities")
        return replace(
            fused, shared={"public": Knowledge.rows("probabilities", answers, average.ids)}
        )
