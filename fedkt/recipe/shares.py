"""Share steps: what a client uploads, as plain data. ``fedkt.recipe`` exports them all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedkt.knowledge import Kind
from fedkt.options import AtLeastOne, Count, Positive, checked

Form = Literal["logits", "probabilities", "labels"]


@checked
@dataclass(frozen=True)
class Predict:
    """Share the model's answers on the public set.

    Parameters
    ----------
    on : {"public"}
        Private data is never predicted for sharing.
    form : {"logits", "probabilities", "labels"}
        ``probabilities`` are softmax(logits / temperature).
    temperature : float
        For probabilities only.
    samples : int
        How many public samples a round, drawn anew each round by (seed, round) on
        both sides, so that no ids travel; 0 takes them all.
    name : str
        The share's name.
    """

    on: Literal["public"] = "public"
    form: Form = "probabilities"
    temperature: Positive = 1.0
    samples: Count = 0
    name: str = "public"
    step: ClassVar[str] = "predict"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return self.form


@checked
@dataclass(frozen=True)
class Weights:
    """Share the model's weights (float parameters and buffers).

    Parameters
    ----------
    name : str
        The share's name.
    local_norms : bool
        Whether batch normalisation, its affine map and running statistics, stays with the
        client and is neither shared nor loaded (FedBN).
    """

    name: str = "weights"
    local_norms: bool = False
    step: ClassVar[str] = "weights"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "weights"


@checked
@dataclass(frozen=True)
class Gate:
    """Share the mean losses of the client's held-out samples under the gate's read-outs.

    75 floats, as they were when the client last absorbed; see ``fedkt.readouts``. The server
    returns their mean over the clients (``fedkt.readouts.mean_losses``) under the same name.
    """

    name: str = "gate"
    step: ClassVar[str] = "gate"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "statistics"


@checked
@dataclass(frozen=True)
class Styles:
    """Share the styles of the private images: channel means and standard deviations of pixels.

    Statistics ``mean [k, C]`` and ``std [k, C]`` float32 of the training images, C channels.

    Parameters
    ----------
    of : {"overall", "single"}
        ``overall``: one style, over the pixels of all images (k = 1). ``single``: the styles of
        ``images`` single images (k = ``images``), drawn once by (seed, client); some more than
        once where the client has fewer.
    images : int
        How many, for ``single``; every round the same ones.
    name : str
        The share's name.
    """

    of: Literal["overall", "single"] = "overall"
    images: AtLeastOne = 10
    name: str = "styles"
    step: ClassVar[str] = "styles"

    @property
    def count(self) -> int:
        """How many styles a client shares, k."""
        return 1 if self.of == "overall" else self.images

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "statistics"


@checked
@dataclass(frozen=True)
class Validation:
    """Share how well two models do on the client's validation samples.

    Statistics ``own`` and ``received``, each float32 ``[2]``: mean cross-entropy in nats (at most
    10000) and accuracy, of the client's model as it is when it shares, and of the same model
    with the weights that it last received. A client without validation samples measures both on
    its training samples.

    Parameters
    ----------
    source : str
        The weights that the ``learn`` phase has loaded.
    name : str
        The share's name.
    """

    source: str = "weights"
    name: str = "validation"
    step: ClassVar[str] = "validation"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "statistics"

    @property
    def between(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest cross-entropy and accuracy, each float32 ``[2]``."""
        return torch.zeros(2), torch.tensor([math.inf, 1.0])


Share = Predict | Weights | Gate | Styles | Validation
