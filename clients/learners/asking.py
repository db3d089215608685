"""A network as a pure function of its weights, which terms may ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedkt.clients.learners.feature_hook import FeatureTap
from fedkt.errors import ConfigError
from fedkt.knowledge import NamedTensors, tensors_of
from fedkt.objectives.heads import PREFIX as HEADS
from fedkt.objectives.term import Outputs

# From weights, which replace the network's by its names, and inputs [n, ...] to its outputs.
Ask = Callable[[NamedTensors, Tensor], Outputs]


def asking(
    model: nn.Module,
    tap: FeatureTap,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor] | None = None,
    half: bool = False,
) -> Ask:
    """Return a network as a function ``ask(weights, x)`` in evaluation mode.

    It changes nothing: modes, weights and buffers are afterwards what they were. Gradients go to
    x, to the weights given, and to the network's own where these are used.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    tap : FeatureTap
        Its features, which are there if the tap is open and wanted.
    parameters, buffers : Mapping[str, Tensor]
        The client's own, those of heads included; the module has the others.
    half : bool
        Whether products are rounded to bfloat16; outputs are float32 all the same.
    """

    def ask(weights: NamedTensors, x: Tensor) -> Outputs:
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        own = {**own, **(buffers or {}), **parameters}
        given = _fitting(weights, own)
        after = {**{n: own[n].clone() for n, _ in model.named_buffers()}, **given}
        tensors = {**own, **after}
        with _evaluating(model), torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            of_model = {n: t for n, t in tensors.items() if not n.startswith(f"{HEADS}.")}
            logits: Tensor = functional_call(model, of_model, (x,))
        features, classify = tap.features, tap.classifier(tensors)
        if half:
            logits = logits.float()
            features = None if features is None else features.float()
        asked = Outputs(logits, features, {n: tensors[n] for n in parameters}, classify=classify)
        return replace(asked, ask=asking(model, tap, {**parameters, **given}, buffers, half))

    return ask


def _fitting(weights: NamedTensors, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in the dtypes of the network; refuse names and shapes that it lacks."""
    given = tensors_of(weights)
    for name, tensor in given.items():
        if name not in own or tensor.shape != own[name].shape:
            what = list(own[name].shape) if name in own else "nothing"
            raise ConfigError(
                f"ask() got {name!r} of shape {list(tensor.shape)} and the network has {what} there"
            )
    return {name: tensor.to(own[name].dtype) for name, tensor in given.items()}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Keep a model in evaluation mode while inside; then every layer has its mode again."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
