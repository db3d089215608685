"""The networks beside a model that terms ask: built for a client, and as pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedkt.clients.learners.feature_hook import FeatureTap, feature_width
from fedkt.errors import ConfigError
from fedkt.models import build_model
from fedkt.objectives.heads import PREFIX, Answer, HeadPart, Place
from fedkt.objectives.term import Outputs

OWN = "own"


def built_heads(
    heads: Iterable[HeadPart],
    model: nn.Module,
    build: Callable[[], nn.Module],
    input_shape: tuple[int, ...] | None,
    num_classes: int,
) -> dict[str, nn.Module]:
    """Return the untrained modules of heads beside a model, by name.

    Parameters
    ----------
    heads : Iterable of HeadPart
        The heads.
    model : torch.nn.Module
        The model.
    build : callable
        Returns another untrained model like it.
    input_shape : tuple[int, ...], optional
        The shape of one sample; None if unknown.
    num_classes : int
        C.

    Raises
    ------
    ConfigError
        Naming a head that cannot be built beside this model.
    """

    def network(reference: str) -> nn.Module:
        if reference == OWN:
            return build()
        if input_shape is None:
            raise ConfigError("its learner was made without input_shape")
        net = build_model(reference, input_shape, num_classes, files=False)
        if not isinstance(net, nn.Module):
            raise ConfigError(f"model {reference!r} is no network")
        return net

    place = Place(model, num_classes, partial(feature_width, model), network)
    modules = {}
    for head in heads:
        try:
            modules[head.name] = in_layout(head.build(place))
        except ConfigError as error:
            text = str(error).rstrip(".")
            raise ConfigError(f"head {head.name!r} cannot be built: {text}.") from error
        _refuse_buffers(head.name, modules[head.name])
    return modules


def answers_of(
    heads: Iterable[HeadPart], modules: Mapping[str, nn.Module] | nn.ModuleDict
) -> dict[str, Answer]:
    """Return the heads that answer themselves as functions of their parameters, by name."""
    return {head.name: _answer(head.name, modules[head.name]) for head in heads if head.answers()}


def in_layout(model: nn.Module) -> nn.Module:
    """Return a model, changed in place: with channels last if it convolves images."""
    if any(isinstance(m, nn.Conv2d) for m in model.modules()):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return model


def _answer(name: str, module: nn.Module) -> Answer:
    tap, prefix = FeatureTap(module), f"{PREFIX}.{name}."
    # Those that are frozen are no client's own, and the module has them.
    needed = [n for n, parameter in module.named_parameters() if parameter.requires_grad]

    def answer(tensors: Mapping[str, Tensor], x: Tensor) -> Outputs:
        missing = [n for n in needed if f"{prefix}{n}" not in tensors]
        if missing:
            raise ConfigError(f"Net {name!r} was asked without its {prefix}{missing[0]}.")
        parameters = {n: tensors[f"{prefix}{n}"] for n in needed}
        with tap:
            logits: Tensor = functional_call(module, parameters, (x,))
        whole = {f"{prefix}{n}": tensor for n, tensor in parameters.items()}
        return Outputs(logits, tap.features, whole, classify=tap.classifier(parameters))

    return answer


def _refuse_buffers(name: str, module: nn.Module) -> None:
    buffers = [buffer for buffer, _ in module.named_buffers()]
    if buffers:
        raise ConfigError(
            f"head {name!r} has buffers ({buffers[0]}), as batch normalisation has, and a head "
            "keeps parameters only."
        )
