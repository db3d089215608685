"""Networks of other people's: statistics by hand, state in attributes, rows that see each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Network(nn.Module):
    """Two layers, and something of its own between them."""

    def __init__(self, inputs: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(inputs, 12), nn.Linear(12, classes)
        self.begin()

    def begin(self) -> None: ...

    def between(self, h: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.tanh(self.between(self.body(x.flatten(1)))))


class Reassigned(Network):
    """Batch normalisation by hand, with buffers that are set anew."""

    def begin(self) -> None:
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("var", torch.ones(12))

    def between(self, h: Tensor) -> Tensor:
        if not self.training:
            return (h - self.mean) / (self.var + 1e-5).sqrt()
        mean, var = h.mean(0), h.var(0, unbiased=False)
        self.mean = 0.9 * self.mean + 0.1 * mean.detach()
        self.var = 0.9 * self.var + 0.1 * var.detach()
        return (h - mean) / (var + 1e-5).sqrt()


class InPlace(Reassigned):
    """The same with buffers changed in place."""

    def between(self, h: Tensor) -> Tensor:
        if not self.training:
            return (h - self.mean) / (self.var + 1e-5).sqrt()
        mean, var = h.mean(0), h.var(0, unbiased=False)
        self.mean.mul_(0.9).add_(0.1 * mean.detach())
        self.var.mul_(0.9).add_(0.1 * var.detach())
        return (h - mean) / (var + 1e-5).sqrt()


class Silent(Network):
    """A buffer that only watches: it changes no answer in training."""

    def begin(self) -> None:
        self.register_buffer("seen", torch.zeros(12))

    def between(self, h: Tensor) -> Tensor:
        if self.training:
            self.seen.mul_(0.9).add_(0.1 * h.detach().mean(0))
            return h
        return h - self.seen


class Centred(Network):
    """Rows that see each other, in training only."""

    def between(self, h: Tensor) -> Tensor:
        return h - h.mean(0) if self.training else h


class AlwaysCentred(Network):
    """Rows that see each other, in evaluation too."""

    def between(self, h: Tensor) -> Tensor:
        return h - h.mean(0)


class FunctionalDropout(Network):
    """Dropout that is no module."""

    def between(self, h: Tensor) -> Tensor:
        return F.dropout(h, 0.3, self.training)


class GroupNormed(Network):
    """A normalisation of each row by itself."""

    def begin(self) -> None:
        self.norm = nn.GroupNorm(3, 12)

    def between(self, h: Tensor) -> Tensor:
        return self.norm(h)


class Looking(Network):
    """An activation that is kept to be looked at, made anew each time."""

    def between(self, h: Tensor) -> Tensor:
        self.last = h
        return h


class Cached(Network):
    """A mask that is made when it is first needed."""

    mask: Tensor | None = None

    def between(self, h: Tensor) -> Tensor:
        if self.mask is None:
            self.mask = torch.linspace(0.5, 1, h.shape[1], dtype=h.dtype)
        return h * self.mask


class Scaled(Network):
    """Something follows the last linear layer."""

    def forward(self, x: Tensor) -> Any:
        return 0.5 * super().forward(x)


# --- what cannot serve several clients ----------------------------------------------------------


class MovingMean(Network):
    """A moving mean in an attribute."""

    mean: Any = 0.0

    def between(self, h: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return h - self.mean


class NotPersistent(Network):
    """A moving mean in a buffer that is not saved."""

    def begin(self) -> None:
        self.register_buffer("mean", torch.zeros(12), persistent=False)

    def between(self, h: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return h - self.mean


class Counting(Network):
    """A number of steps that will change something later."""

    steps = 0

    def between(self, h: Tensor) -> Tensor:
        self.steps += self.training
        return h if self.steps < 1000 else 2 * h


class InAList(Network):
    """The same deep in a container."""

    def begin(self) -> None:
        self.kept: dict[str, list[float]] = {"norms": [0.0]}

    def between(self, h: Tensor) -> Tensor:
        self.kept["norms"][0] += float(h.detach().norm())
        return h


class OwnGenerator(Network):
    """Noise from a generator of its own."""

    def begin(self) -> None:
        self.noise = np.random.default_rng(0)

    def between(self, h: Tensor) -> Tensor:
        if not self.training:
            return h
        return h + torch.as_tensor(self.noise.normal(size=h.shape), dtype=h.dtype)


SEEN = [0.0]


class Worldwide(Network):
    """State in a global variable."""

    def between(self, h: Tensor) -> Tensor:
        SEEN[0] = 0.9 * SEEN[0] + 0.1 * float(h.detach().mean())
        return h + SEEN[0]


class AlwaysDropping(Network):
    """Random answers in evaluation."""

    def between(self, h: Tensor) -> Tensor:
        return F.dropout(h, 0.3, True)


class Auxiliary(Network):
    """A pair in training."""

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


class OutOfInk(Network):
    """Nothing that could be trained."""

    def between(self, h: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("out of\nink")
        return h


def of_reassigned(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Reassigned(math.prod(input_shape), num_classes)


def of_in_place(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return InPlace(math.prod(input_shape), num_classes)


def of_counting(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Counting(math.prod(input_shape), num_classes)
