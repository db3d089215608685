"""Mean answers on the client's own samples of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from fedkt.about import Model
from fedkt.answers import finite, of_kind
from fedkt.knowledge import Kind, Knowledge
from fedkt.options import Positive
from fedkt.registry import register
from fedkt.shares.class_means import class_means
from fedkt.shares.share import Asked, Question, Share, ShareWork
from fedkt.shares.sizes import INT64, Sizes
from fedkt.upload_check import Expected


@register(name="class-logits")
@dataclass(frozen=True)
class ClassLogits(Share):
    """Mean answers of the model on the private training samples of each class.

    Rows ``[K, C]`` float32 of the K classes that the client holds, by class id; ``counts`` are
    the samples behind them. Jeong et al. (2018), arXiv:1811.11479, section 2.

    Parameters
    ----------
    form : {"logits", "probabilities"}
        ``probabilities`` are means of softmax(logits / temperature). In either form the kind is
        ``class-logits``.
    temperature : float
        For probabilities only.
    name : str
        The share's name.
    partial : bool
        Whether clients may lack classes.
    """

    form: Literal["logits", "probabilities"] = "logits"
    temperature: Positive = 1.0
    name: str = "class-logits"
    partial: bool = True

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "class-logits"

    def questions(self, work: ShareWork) -> Sequence[Question]:
        """Return the training samples."""
        return (Question(work.data.train.x),)

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the means, one row a class that the client holds."""
        samples = work.data.train
        answers = of_kind(finite(model.predict(samples.x)), self.form, self.temperature)
        return class_means(self.kind, answers, samples)

    def expected(self, asked: Asked) -> Expected:
        """Return ``values [C, C]``, of which rows may lack; probabilities in [0, 1]."""
        classes = asked.num_classes
        limits = {"values": (torch.tensor(0.0), torch.tensor(1.0))}
        between = limits if self.form == "probabilities" else {}
        shapes = {"values": (classes, classes)}
        return Expected(
            self.kind, torch.arange(classes), shapes, partial=self.partial, between=between
        )

    def upload_bytes(self, sizes: Sizes) -> tuple[int, int]:
        """Return the bytes of no class, and of C rows of C floats with their ids and counts."""
        return 0, sizes.classes * (sizes.floats * sizes.classes + 2 * INT64)
