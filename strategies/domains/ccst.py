"""CCST, cross-client style transfer (Chen, Jiang, Dou and Chen, WACV 2023, arXiv:2210.00912)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from fedkt.adaptation.restyle import Restyle
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.options import AtLeastOne, Count, Fraction
from fedkt.recipe import Recipe, Styles
from fedkt.registry import register
from fedkt.strategies.weights.fedavg import FedAvg


@register
class CCST(FedAvg):
    """Average the weights of clients that train on images in each other's styles.

    Chen, Jiang, Dou & Chen: Federated Domain Generalization for Image Recognition via
    Cross-Client Style Transfer, WACV 2023, arXiv:2210.00912. Clients share the styles of their
    images. The server sends the bank of all styles to all clients, which change their images to
    styles of the bank while they train.

    Different from the paper: **a style is the channel means and standard deviations of the
    pixels**, set by adaptive instance normalisation of the image itself (Huang & Belongie 2017,
    equation 8), clipped to [0, 1]. The paper's styles are those of VGG features, and a trained
    decoder makes the image; both need networks trained elsewhere. So this changes brightness,
    contrast and colour, not texture. Each time an image is drawn it keeps its own style or gets
    one of the whole bank, that of its own client included; the paper makes K images of each
    beforehand. Styles are shared with the first weights, so they are used from the second
    round on.

    Bytes a round and client, P parameters, C channels, k styles a client (1, or ``images``), S
    styles in the bank (k for every client that has taken part so far): up 4P + 8kC, down 4P +
    8SC (broadcast; no bank in the first round); 4P more down as in FedAvg. The paper sends
    styles once; these few bytes go every round.

    Parameters
    ----------
    styles : {"overall", "single"}
        One style a client, or those of ``images`` single images, drawn once.
    images : int
        Number of single images.
    probability : float
        Probability that an image gets a style of the bank.
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        Number of samples, drawn anew, in a pass; 0 = all.
    """

    name = "ccst"

    def __init__(
        self,
        styles: Literal["overall", "single"] = "overall",
        images: AtLeastOne = 10,
        probability: Fraction = 0.5,
        local_epochs: Count = 5,
        local_samples: Count = 0,
    ) -> None:
        super().__init__(local_epochs, local_samples)
        self._share, self._restyle = Styles(styles, images), Restyle("styles", probability)
        self.styles, self.images, self.probability = styles, images, probability

    def recipe(self) -> Recipe:
        """Return the recipe: load the global weights, train in many styles, share both."""
        train = replace(self.private_step(), transforms=[self._restyle])
        return Recipe.sharing_weights(train, also=[self._share])

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the weights by number of examples, and all styles; broadcast."""
        # The styles of clients that are not in this round stay in the bank.
        known: dict[int, Knowledge] = self.memory.setdefault("styles", {})
        known.update({upload.client: upload.knowledge["styles"] for upload in uploads})
        banks = [known[client].tensors for client in sorted(known)]
        bank = {name: torch.cat([styles[name] for styles in banks]) for name in ("mean", "std")}
        average = super().fuse(uploads)
        return Fused({**average.shared, "styles": Knowledge("statistics", bank)})
