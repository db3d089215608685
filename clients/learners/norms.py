"""Batch normalisation: the layers that keep statistics of batches, and their adaptation."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from fedkt.clients.learners.devices import device_of

NORMS = nn.modules.batchnorm._BatchNorm


def norms_of(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Return the layers of a model that keep statistics of batches, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, NORMS)}


class NormTap:
    """A hook that keeps the moments of what each layer with statistics of batches takes in.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    wanted : bool
        Whether to keep them.

    Attributes
    ----------
    moments : dict
        By the layer's name the mean and the population variance of each channel, ``[c]`` each.
    """

    def __init__(self, model: nn.Module, wanted: bool = True) -> None:
        self._layers = norms_of(model) if wanted else {}
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> NormTap:
        self._hooks = [
            layer.register_forward_pre_hook(partial(self._take, name))
            for name, layer in self._layers.items()
        ]
        return self

    def __exit__(self, *exc: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _take(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        axes = [0, *range(2, inputs[0].dim())]
        self.moments[name] = inputs[0].mean(axes), inputs[0].var(axes, correction=0)


def norms_in_training(model: nn.Module) -> list[nn.Module]:
    """Return the layers with statistics of batches that a model in training trains.

    A network may keep part of itself in evaluation mode, as a frozen backbone.
    """
    return [norm for norm in norms_of(model).values() if norm.training]


def suit(norms: Iterable[nn.Module], x: Tensor) -> None:
    """Let layers use the statistics of a batch in training, unless it is a single sample."""
    for norm in norms:
        norm.train(len(x) > 1)


@torch.no_grad()
def adapt_norms(model: nn.Module, x: Tensor, batch_size: int = 64) -> None:
    """Replace the running statistics of batch normalisation by those of other samples.

    AdaBN (Li et al., 2016, arXiv:1603.04779): the mean over batches of x ``[n, ...]``. Every
    layer sees the outputs of the layers before it, normalised in the same way. Dropout stays
    off. The sizes of the batches differ by one sample at most, and each batch is spread over
    all of x: samples stored class by class do not make batches of one class. A single sample
    has no variance and changes nothing.
    """
    if len(x) < 2:
        return
    count = -(-len(x) // batch_size)
    norms = [norm for norm in norms_of(model).values() if norm.track_running_stats]
    momenta = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches instead of a moving one
        norm.train()
    device = device_of(model)
    for start in range(count if norms else 0):
        model(x[start::count].to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
