"""Networks in two named parts, encoder and head, whose features lie between the two.

The attribute ``feature_layer`` says so: alignment terms then work on the encoder's output
instead of the penultimate features.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fedkt.errors import ConfigError
from fedkt.models.convolutional import image_shape
from fedkt.registry import register

HIDDEN = 100


@register(part="models", name="fedka-cnn")
def fedka_cnn(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """FedKA's CNN (Sun et al., ACML 2022): two 5 x 5 convolutions (64, 50), 100 hidden units.

    Batch normalisation, max-pooling and dropout of whole channels; of a 28 x 28 image it has
    800 features. With the domain head it has the 246,954 parameters of the paper's notebook.
    """
    channels, height, width = image_shape("fedka-cnn", input_shape, 16)
    places = ((height - 4) // 2 - 4) // 2 * (((width - 4) // 2 - 4) // 2)
    encoder = nn.Sequential(
        nn.Conv2d(channels, 64, 5),
        nn.BatchNorm2d(64),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(64, 50, 5),
        nn.BatchNorm2d(50),
        nn.Dropout2d(),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
    )
    return _in_two_parts(encoder, 50 * places, num_classes)


@register(part="models", name="fedka-mlp")
def fedka_mlp(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """FedKA's network for text features: two layers of 500 units with batch normalisation."""
    if len(input_shape) != 1:
        raise ConfigError(
            f"model 'fedka-mlp' needs feature vectors (d,); the data has samples of shape "
            f"{list(input_shape)}"
        )
    encoder = nn.Sequential(
        nn.Linear(input_shape[0], 500),
        nn.BatchNorm1d(500),
        nn.ReLU(),
        nn.Linear(500, 500),
        nn.BatchNorm1d(500),
        nn.ReLU(),
    )
    return _in_two_parts(encoder, 500, num_classes)


def _in_two_parts(encoder: nn.Module, features: int, num_classes: int) -> nn.Module:
    head = nn.Sequential(
        nn.Linear(features, HIDDEN),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, num_classes),
    )
    model = nn.Sequential(OrderedDict(encoder=encoder, head=head))
    # Set as a plain attribute: torch's annotations only know parameters and modules.
    object.__setattr__(model, "feature_layer", "head")
    return model
