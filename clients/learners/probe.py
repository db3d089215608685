"""The nature of a network: properties beside its answers, found by trying it.

One module serves all clients of a process, so state outside its ``state_dict`` would pass from
client to client. And a cohort pads batches, which must not change the answer of any client.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedkt.clients.learners.feature_hook import FeatureTap
from fedkt.errors import ConfigError
from fedkt.rng import global_torch_stream
from fedkt.text import one_line

ROWS = 4  # in a batch of the trial
TOLERANCE = 1e-4  # of the largest number; a real difference is far larger, rounding far smaller
STEPS, RATE = 3, 0.01  # of the earlier training that must leave no trace


@dataclass(frozen=True)
class Nature:
    """The properties of a network, found by trying it.

    Parameters
    ----------
    coupled : bool
        Whether in training an answer depends on the rows beside it, or buffers change. Then every
        row of a batch counts, and batches must not be padded.
    refusal : str, optional
        Why clients of the network cannot be trained together, in a few words.
    open_ended : bool
        Whether the model goes on behind the layer that takes the features in. Then this layer
        alone does not classify.
    """

    coupled: bool = False
    refusal: str | None = None
    open_ended: bool = False


def examine(build: Callable[[], nn.Module], x: Tensor, num_classes: int, name: str) -> Nature:
    """Return the nature of a network, tried in training and in evaluation.

    Parameters
    ----------
    build : callable
        Returns a new module; draws from torch's global generator only.
    x : Tensor
        Real inputs, ``[n, ...]``; the first few are used.
    num_classes : int
        C, the width of its logits.
    name : str
        The network's name, for messages.

    Raises
    ------
    ConfigError
        If it cannot be trained, does not give logits ``[n, C]`` in training, draws random numbers
        in evaluation, or keeps state outside its ``state_dict``.
    """
    try:
        return _examined(build, x, num_classes, name)
    except ConfigError:
        raise
    except Exception as error:  # a user's code may raise anything
        what = f"{type(error).__name__}: {one_line(error)}"
        if not x.is_floating_point():
            what += '; whole numbers count as token ids, unless data.layout is "vector"'
        raise ConfigError(
            f"model {name!r} cannot be trained on samples of shape {list(x.shape[1:])}: {what}"
        ) from error


def _examined(build: Callable[[], nn.Module], x: Tensor, num_classes: int, name: str) -> Nature:
    x = x[: 2 * ROWS].to("cpu", torch.float32 if x.is_floating_point() else x.dtype)
    rows = torch.cat([x] * (-(-ROWS // len(x))))[:ROWS]  # a batch, with rows twice if there are few
    model = _built(build)
    start = _copied(model.state_dict())
    random = _draws(model.train(), rows, num_classes, name)
    if _draws(model.eval(), rows, num_classes, name):
        raise ConfigError(
            f"model {name!r} draws random numbers in evaluation, so its answers cannot be repeated."
        )
    changed = _differs(start, model.state_dict())
    _check_history(build, rows, name)
    several = not all(torch.equal(row, rows[0]) for row in rows)
    beside = [several and _couples(model, start, rows, training) for training in (False, True)]
    refusal = None
    if random:
        refusal = "it draws random numbers, which come from one stream for all"
    elif beside[0]:
        refusal = "its answers depend on the rows beside them, in evaluation too"
    coupled = changed or beside[1] or not several
    return Nature(coupled, refusal, _open_ended(model, start, rows))


def _built(build: Callable[[], nn.Module]) -> nn.Module:
    with global_torch_stream(0, "examined"):
        return build()


def _answer(model: nn.Module, x: Tensor, name: str = "drawn") -> Tensor:
    with global_torch_stream(0, name):
        logits: Tensor = model(x)
        return logits


def _draws(model: nn.Module, x: Tensor, num_classes: int, name: str) -> bool:
    """Return whether an answer draws from torch's global generator; check its shape."""
    with torch.no_grad(), global_torch_stream(0, "drawn"):
        before = torch.get_rng_state()
        logits: object = model(x)
        drawn = not torch.equal(before, torch.get_rng_state())
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (len(x), num_classes):
        mode = "training" if model.training else "evaluation"
        what = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(
            f"model {name!r} gives {what} in {mode} for {len(x)} samples; logits "
            f"{[len(x), num_classes]} are needed."
        )
    return drawn


@torch.no_grad()
def _couples(model: nn.Module, start: Mapping[str, Tensor], x: Tensor, training: bool) -> bool:
    """Return whether the answers for half a batch depend on its other rows."""
    half = len(x) // 2
    others = torch.cat([x[:half], x[half:].flip(0)]), torch.cat([x[:half], x[:1], x[:1]]), x[:half]
    answers = []
    for batch in (x, *others):
        model.load_state_dict(start)
        answers.append(_answer(model.train(training), batch)[:half])
    return any(_apart(answers[0], answer) for answer in answers[1:])


@torch.no_grad()
def _open_ended(model: nn.Module, start: Mapping[str, Tensor], x: Tensor) -> bool:
    model.load_state_dict(start)
    with FeatureTap(model.eval()) as tap:
        logits, features, classify = _answer(model, x), tap.features, tap.classifier({})
        if features is None or classify is None:
            return True
        try:
            return _apart(classify(features), logits)
        except Exception:  # the layer wants another shape than [n, d]
            return True


# --- traces beside the state -----------------------------------------------------------------


def _check_history(build: Callable[[], nn.Module], x: Tensor, name: str) -> None:
    """Require that a module loaded with a state shows no trace of earlier training.

    One module takes a step from a state. Another trains on other samples first, is loaded with
    the same state, and takes the same step. Answers, states and attributes must be equal. An
    attribute made anew from each input, such as an activation kept for inspection, passes.
    """
    fresh, used = _built(build), _built(build)
    start = _copied(fresh.state_dict())
    for _ in range(STEPS):
        _trained(used, torch.cat([x[-1:]] * len(x)))
    used.load_state_dict(start)
    answers = [_trained(model, x) for model in (fresh, used)]
    kept = [
        f"{place}.{attribute}".strip(".")
        for (place, attribute, a), (_, _, b) in zip(_kept(fresh), _kept(used), strict=False)
        if not _alike(a, b)
    ]
    if kept:
        raise ConfigError(
            f"model {name!r} keeps {', '.join(map(repr, kept[:3]))} outside its state_dict, which "
            "would pass from client to client: make it a persistent buffer (register_buffer)."
        )
    if _apart(*answers) or _differs(fresh.state_dict(), used.state_dict()):
        raise ConfigError(
            f"model {name!r} answers differently after other samples, although its state_dict is "
            "the same: whatever it learns or counts must be in parameters or persistent buffers, "
            "and random numbers must come from torch's global generator."
        )


def _trained(model: nn.Module, x: Tensor) -> Tensor:
    """Take a step in training; return its logits and those in evaluation mode after it."""
    logits = _answer(model.train(), x, "trained")
    moving = [p for p in model.parameters() if p.requires_grad]
    if moving and logits.requires_grad:
        gradients = torch.autograd.grad(logits.square().mean(), moving, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(moving, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(RATE * gradient)
    with torch.no_grad():
        return torch.cat([logits.detach(), _answer(model.eval(), x)])


def _kept(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Yield (module, attribute, value) of everything outside the state_dict."""
    usual = vars(nn.Module()).keys()
    for place, module in model.named_modules():
        for attribute in sorted(vars(module).keys() - usual):
            yield place, attribute, vars(module)[attribute]
        for buffer in sorted(module._non_persistent_buffers_set):
            yield place, buffer, module._buffers[buffer]


def _alike(first: Any, second: Any) -> bool:
    if isinstance(first, nn.Module | type) or inspect.isroutine(first):
        return True  # each module is visited by itself
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return not _apart(first, second)
    if isinstance(first, np.ndarray):
        return bool(np.array_equal(first, second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_alike(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_alike, first, second))
    if isinstance(first, torch.Generator) and isinstance(second, torch.Generator):
        return torch.equal(first.get_state(), second.get_state())
    try:
        return bool(first == second) or pickle.dumps(first) == pickle.dumps(second)
    except Exception:  # the values can be neither compared nor pickled
        return True


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _differs(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return any(_apart(tensor, second[name]) for name, tensor in first.items())


def _apart(first: Tensor, second: Tensor) -> bool:
    """Return whether tensors differ by more than rounding."""
    if first.shape != second.shape:
        return True
    a, b = first.detach().double(), second.detach().double()
    largest = float(a.abs().nan_to_num(0, 0, 0).max()) if a.numel() else 0.0
    exact = not first.is_floating_point()
    return not torch.allclose(a, b, 0.0, 0.0 if exact else TOLERANCE * largest, equal_nan=True)
