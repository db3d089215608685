"""Makers of models: of a function, a class, an object with weights, or an estimator."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from fedkt.by_value import code_digest
from fedkt.errors import ConfigError
from fedkt.models.outputs import logits_of, returning_logits
from fedkt.rng import global_torch_stream
from fedkt.text import raised

# What parameters of a user's function or class may be called, to be given by name.
SHAPES = ("input_shape", "shape")
CLASSES = ("num_classes", "classes", "n_classes", "num_labels")


@dataclass(frozen=True, eq=False)
class Builder:
    """A maker of new models that are alike; each call draws from torch's global generator only.

    Parameters
    ----------
    thing : object
        ``f(input_shape, num_classes)``, a class of models, a torch module or an estimator. Of a
        module every model is a copy, weights included; of an estimator an unfitted clone.
    reference : str
        Its name, for messages.
    input_shape : tuple[int, ...]
        The shape of one sample.
    num_classes : int
        C.
    unwraps : bool
        Whether the model returns something else than logits alone, with logits in it.
    """

    thing: Any
    reference: str
    input_shape: tuple[int, ...]
    num_classes: int
    unwraps: bool = False

    def __call__(self) -> Any:
        """Return a new model: a torch module that returns logits, or whatever the thing makes.

        Raises
        ------
        ConfigError
            If it cannot be built.
        """
        try:
            model = _new(self.thing, self.input_shape, self.num_classes)
        except ConfigError:
            raise
        except Exception as error:  # a user's code may raise anything
            raise ConfigError(
                f"model {self.reference!r} cannot be built: {raised(error)}"
            ) from error
        if not isinstance(model, nn.Module):
            return model
        if _lazy(model):
            self._materialise(model)
        return returning_logits(model) if self.unwraps else model

    def checked(self, model: nn.Module) -> object:
        """Return the outputs of a model on two samples of zeros, with logits ``[2, C]`` in them.

        Raises
        ------
        ConfigError
            If it does not take samples of the shape, or its answer is no logits.
        """
        outputs = self._answer(model, training=False)
        try:
            logits = logits_of(outputs)
        except ConfigError as error:
            raise ConfigError(f"model {self.reference!r} gives {error}") from error
        classes = self.num_classes
        if logits.dim() == 2 and len(logits) == 2 and logits.shape[1] != classes:
            raise ConfigError(
                f"model {self.reference!r} gives outputs of width {logits.shape[1]}; the data has "
                f"{classes} classes"
            )
        if tuple(logits.shape) != (2, classes) or not logits.is_floating_point():
            raise ConfigError(
                f"model {self.reference!r} gives {logits.dtype} {list(logits.shape)} for 2 "
                f"samples; float logits [2, {classes}] are needed"
            )
        return outputs

    def tried(self) -> Builder:
        """Return the builder, told by the answers of one model whether it unwraps logits.

        Some networks return more in training than in evaluation, as auxiliary logits.
        """
        with global_torch_stream(0, "probe"):
            model = self()
            if not isinstance(model, nn.Module):
                return self
            outputs = [self.checked(model)]
            with suppress(ConfigError):  # whoever trains it finds what is wrong there
                outputs.append(self._answer(model, training=True))
        if all(isinstance(answer, Tensor) for answer in outputs):
            return self
        return Builder(self.thing, self.reference, self.input_shape, self.num_classes, True)

    def _answer(self, model: nn.Module, training: bool) -> object:
        """Return the outputs of a model for two samples of zeros; its mode stays."""
        try:
            return in_mode(model, training, lambda: on_zeros(model, self.input_shape, 2))
        except Exception as error:  # a user's code may raise anything
            raise ConfigError(
                f"model {self.reference!r} cannot take samples of shape {list(self.input_shape)}: "
                f"{raised(error)}"
            ) from error

    def _materialise(self, model: nn.Module) -> None:
        """Give lazy layers their widths, and their weights from the generator."""
        self._answer(model, training=False)
        if name := _lazy(model):
            raise ConfigError(
                f"model {self.reference!r} has no shape for {name!r} after an answer; give the "
                "widths: nn.Linear(inputs, outputs)"
            )


def builder_of(
    thing: Any, reference: str, input_shape: tuple[int, ...], num_classes: int
) -> Builder:
    """Return the builder of a model: the same object each time, for use as a key.

    Raises
    ------
    ConfigError
        If the model cannot be built, or does not fit the shape of the data.
    """
    # A function is another one after an edit of what it uses, as of a notebook's variable.
    code = code_digest(thing)
    return _builder(_Same(thing), reference, tuple(input_shape), num_classes, code)


def on_zeros(model: nn.Module, input_shape: tuple[int, ...], rows: int) -> object:
    """Return what a model returns for samples of zeros: floats, or integers where it asks for them.

    Layers that look integers up, as embeddings, refuse floats.
    """
    zeros = torch.zeros(rows, *input_shape)
    with torch.no_grad():
        try:
            return model(zeros)
        except Exception:
            with suppress(Exception):
                return model(zeros.long())
            raise


def in_mode(model: nn.Module, training: bool, act: Callable[[], Any]) -> Any:
    """Return the result of an action with a model in a mode; then every layer has its own again."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        return act()
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Same:
    """A key that is equal for one and the same object, which may have no hash."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __hash__(self) -> int:
        return id(self.thing)

    def __eq__(self, other: object) -> bool:
        return self.thing is getattr(other, "thing", None)


@lru_cache(maxsize=64)
def _builder(
    same: _Same, reference: str, input_shape: tuple[int, ...], num_classes: int, code: str
) -> Builder:
    return Builder(same.thing, reference, input_shape, num_classes).tried()


def _new(thing: Any, input_shape: tuple[int, ...], num_classes: int) -> Any:
    """Return a new model of a thing: a copy of an object, else what a call makes."""
    if isinstance(thing, nn.Module):
        return _copied(thing)
    if callable(thing):
        return _called(thing, input_shape, num_classes)
    if hasattr(thing, "get_params"):
        from sklearn.base import clone

        return clone(thing)
    return copy.deepcopy(thing)


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy of a network, weights included, without gradients."""
    # torch copies parameters that have no shape yet, but not buffers.
    lazy = [buffer for buffer in model.buffers() if isinstance(buffer, UninitializedBuffer)]
    like: Any = UninitializedBuffer  # its arguments are missing in torch's stubs
    memo = {id(b): like(device=b.device, dtype=b.dtype) for b in lazy}
    twin = copy.deepcopy(model, memo)
    twin.zero_grad()
    return twin


def _called(make: Callable[..., Any], input_shape: tuple[int, ...], num_classes: int) -> Any:
    """Return what a function or class makes, given what its parameters ask for.

    By name where it names the number of classes and needs nothing else; a class that needs
    nothing and asks for nothing gets nothing; all others get both in order.
    """
    try:
        parameters = list(inspect.signature(make).parameters.values())
    except (TypeError, ValueError):  # written in C
        return make(input_shape, num_classes)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in several]
    known = _known(parameters, input_shape, num_classes)
    if any(name in known for name in CLASSES) and known.keys() >= set(required):
        return make(**known)
    by_place = [p for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    of_class = isinstance(getattr(make, "func", make), type)  # of a partial's too
    if not required and not known and (of_class or len(by_place) < 2):
        return make()
    return make(input_shape, num_classes)


def _known(
    parameters: list[inspect.Parameter], input_shape: tuple[int, ...], num_classes: int
) -> Mapping[str, Any]:
    """Return the parameters that have a known name, with their values."""
    values = {**dict.fromkeys(SHAPES, input_shape), **dict.fromkeys(CLASSES, num_classes)}
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: values[p.name] for p in parameters if p.name in values and p.kind in by_name}


def _lazy(model: nn.Module) -> str:
    """Return the name of a parameter or buffer that has no shape yet; empty if all have one."""
    named = (*model.named_parameters(), *model.named_buffers())
    return next((name for name, tensor in named if is_lazy(tensor)), "")
