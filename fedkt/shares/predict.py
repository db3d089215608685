"""Answers on the public set, or for the client itself on its own samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedkt import about
from fedkt.about import Model
from fedkt.answers import finite, of_kind
from fedkt.data.samples import ClientData, Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Kind, Knowledge
from fedkt.options import Count, Positive
from fedkt.registry import register
from fedkt.shares.ids import public_ids, public_samples
from fedkt.shares.share import Asked, Question, Share, ShareWork
from fedkt.shares.sizes import INT64, Sizes
from fedkt.upload_check import Expected

Form = Literal["logits", "probabilities", "labels"]


@register(name="predict")
@dataclass(frozen=True)
class Predict(Share):
    """The model's answers on the public set, or on the client's training samples.

    Parameters
    ----------
    on : {"public", "private"}
        Answers for private samples are never shared: ``"private"`` is for ``Remember`` only.
    form : {"logits", "probabilities", "labels"}
        ``probabilities`` are softmax(logits / temperature).
    temperature : float
        For probabilities only.
    samples : int
        How many public samples a round, drawn anew each round by (seed, round) on
        both sides, so that no ids travel; 0 takes them all.
    name : str
        The share's name.
    partial : bool
        Whether clients may answer only some of the samples.
    """

    on: Literal["public", "private"] = "public"
    form: Form = "probabilities"
    temperature: Positive = 1.0
    samples: Count = 0
    name: str = "public"
    partial: bool = False
    private: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.on == "private" and (self.samples or self.partial):
            raise ConfigError("Predict: samples and partial are for public data.")

    @property
    def uses_public(self) -> bool:
        """Whether it needs the public set."""
        return self.on == "public"

    @property
    def stays(self) -> bool:
        """Whether its rows are private samples."""
        return self.on == "private"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared: the form."""
        return self.form

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return the public set."""
        return about.of_public(data) if self.uses_public else {}

    def ids(
        self, size: int, seed: int, round: int, asked: Mapping[str, Knowledge] | None = None
    ) -> Tensor | None:
        """Return the ids of the round's public samples, ascending; None for private ones."""
        return None if self.stays else public_ids(size, self.samples, seed, round)

    def questions(self, work: ShareWork) -> Sequence[Question]:
        """Return the round's public samples, or the private ones; none without a public set."""
        nothing = self.uses_public and work.data.public is None
        return () if nothing else (Question(self._samples(work).x),)

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the answers, one row a sample; a sample that is held twice has one."""
        samples = self._samples(work)
        logits = finite(model.predict(samples.x))
        answers, ids = of_kind(logits, self.form, self.temperature), samples.ids
        if self.stays:
            ids, places = torch.unique(ids, return_inverse=True)
            # The last of each, whatever the number of threads.
            rows = torch.zeros_like(ids).scatter_reduce(
                0, places, torch.arange(len(places)), "amax"
            )
            answers = answers[rows]
        return Knowledge.rows(self.form, answers, ids)

    def expected(self, asked: Asked) -> Expected:
        """Return ``values [M, C]``, or ``[M]`` for labels."""
        assert asked.ids is not None
        columns = () if self.form == "labels" else (asked.num_classes,)
        return Expected(self.kind, asked.ids, {"values": (len(asked.ids), *columns)})

    def upload_bytes(self, sizes: Sizes) -> int | tuple[int, int]:
        """Return the bytes of M answers of C floats, or of M labels."""
        rows = min(self.samples or sizes.public, sizes.public)
        total = rows * (INT64 if self.form == "labels" else sizes.floats * sizes.classes)
        return (0, total + 2 * INT64 * rows) if self.partial else total

    def _samples(self, work: ShareWork) -> Samples:
        if self.stays:
            return work.data.train
        return public_samples(work.data.public, self.samples, work.seed, work.round)
