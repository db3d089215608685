"""SCARLET (Azuma, Nishio, Kitagawa, Nakano and Tanimura, IEEE TMC 2026, arXiv:2504.19602)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fedkt.fusion import mean
from fedkt.fusion.sharpening import enhanced_entropy_reduction
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.options import Count, Positive
from fedkt.recipe import Recipe, Remember, Train
from fedkt.registry import register
from fedkt.shares.cached import CachedLabels, PredictFresh, newest, rows_at
from fedkt.shares.ids import public_ids
from fedkt.strategies.server.student import StudentStrategy

TARGETS = CachedLabels.name


@register
class Scarlet(StudentStrategy):
    """Distil sharpened means, and use each for D rounds before clients are asked again.

    Soft-label caching: a round draws public samples; clients answer only those whose fused label is
    older than D rounds, or that have none. The server makes labels p̄^β / Σ p̄^β (enhanced entropy
    reduction) and sends them; all train on the labels of the samples that were drawn, fresh or from
    the cache. D = 0 is :class:`~fedkt.strategies.DSFL` with ``aggregation="enhanced-era"``.

    The paper sends a signal for each sample (cached, newly cached, expired); here both sides derive
    them from the seed. A client that was away gets the labels that it lacks of the samples that the
    round draws, with their ids; if a message to it is lost, it trains without them. Private
    training opens the round, as in :class:`~fedkt.strategies.DSFL`.

    Bytes a round and client, of M public samples drawn M' without a label in the cache, C classes:
    up 4M'C, down 4M'C (broadcast); for clients that were away 4C + 8 for each label they lack.

    Parameters
    ----------
    duration : int
        D; the paper's is 50.
    exponent : float
        β > 0.
    local_epochs, distil_epochs : int
        Passes over the private and over the public data a round.
    public_samples : int
        Number of public samples drawn each round (the paper: 1000); 0 takes all.
    student : bool
        Whether the server has a model, which learns with ``distil_epochs`` too.
    """

    name = "scarlet"
    exempt: ClassVar[Mapping[str, str]] = {
        "rubbish_uploaded": "in the round of the rubbish all labels are cached: nothing is uploaded"
    }

    def __init__(
        self,
        duration: Count = PredictFresh.duration,
        exponent: Positive = 2.0,
        local_epochs: Count = 5,
        distil_epochs: Count = 5,
        public_samples: Count = 1000,
        student: bool = True,
    ) -> None:
        self.duration, self.exponent = duration, exponent
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.public_samples = public_samples
        self.teach(student)

    def recipe(self) -> Recipe:
        """Return the recipe: private training, fresh answers, distillation of all labels."""
        samples = self.public_samples
        return Recipe(
            learn=[Train("private", [CrossEntropy()], epochs=self.local_epochs)],
            share=[PredictFresh(samples=samples, duration=self.duration)],
            absorb=[Remember(CachedLabels(samples)), self._distil],
        )

    @property
    def _distil(self) -> Train:
        return Train("public", [Distil(KL(), TARGETS)], epochs=self.distil_epochs)

    def fuse(self, uploads: Uploads) -> Fused:
        """Return for each client the labels of the round's samples that it lacks."""
        average, now = mean(uploads["public"]).shared["public"], self.round
        labels = enhanced_entropy_reduction(average.values, self.exponent)
        fresh = average.with_tensors({"values": labels})
        cache = self.memory["cache"] = newest(self.memory.get("cache"), fresh)
        made = self.memory.setdefault("made", torch.zeros(now.public_size, dtype=torch.int32))
        assert fresh.ids is not None
        made[fresh.ids] = now.number
        held: dict[int, Tensor] = self.memory.setdefault("held", {})
        drawn = public_ids(now.public_size, self.public_samples, now.seed, now.number)
        alike: dict[tuple[int, ...], Knowledge] = {}  # one object for those who lack the same
        personal = {}
        for client in uploads.clients:
            has = held.setdefault(client, torch.zeros_like(made))
            lacking = drawn[has[drawn] < made[drawn]]
            has[lacking] = made[lacking]
            key = tuple(lacking.tolist())
            personal[client] = {"public": alike.setdefault(key, rows_at(cache, lacking))}
        step, targets = self._distil, rows_at(cache, drawn)
        fused = Fused(personal=personal).with_diagnostics(fresh=len(fresh.ids))
        return self.taught(fused, step, {TARGETS: targets})
