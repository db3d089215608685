"""The arrays that a party brings: brought to tensors, checked, and some of them held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkt.data.splits import split_rows, split_sizes
from fedkt.errors import ConfigError
from fedkt.rng import numpy_rng

HELD_OUT = 0.1, 0.2  # of a party's samples, for validation and for tests
Labelled = tuple[Any, Any]  # arrays or tensors (x, y)
Pair = tuple[Tensor, Tensor | None]


def party_arrays(
    train: Labelled,
    held_out: Mapping[str, Labelled | float],
    public: Any,
    common_test: Labelled | None,
    classes: tuple[str, ...],
) -> dict[str, Pair]:
    """Return inputs and labels by the name of their set, in the order of their ids.

    Parameters
    ----------
    train : tuple
        The party's samples.
    held_out : Mapping
        ``validation`` and ``test``: other samples of its own, or parts of these.
    public, common_test
        What all parties have, or None.
    classes : tuple[str, ...]
        The class names.

    Raises
    ------
    ConfigError
        If anything does not fit.
    """
    x, y = _labelled(("x", "y"), train, classes)
    fractions = {k: float(v) for k, v in held_out.items() if not isinstance(v, tuple | list)}
    parts = _held_out(y, fractions)
    sets: dict[str, Pair] = {}
    if public is not None:
        sets["public"] = _inputs("public", public), None
    sets["train"] = x[parts["train"]], y[parts["train"]]
    for name, given in held_out.items():
        sets[name] = (
            (x[parts[name]], y[parts[name]])
            if not isinstance(given, tuple | list)
            else _labelled((f"{name}[0]", f"{name}[1]"), given, classes)
        )
    if common_test is not None:
        sets["common_test"] = _labelled(("common_test[0]", "common_test[1]"), common_test, classes)
    for name, (inputs, _) in sets.items():
        if inputs.shape[1:] != x.shape[1:] or inputs.dtype != x.dtype:
            raise ConfigError(
                f"{name} has samples {inputs.dtype} {list(inputs.shape[1:])}, and x {x.dtype} "
                f"{list(x.shape[1:])}."
            )
    return sets


def class_names(classes: int | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes; ConfigError for fewer than two, or one name twice."""
    names = map(str, range(classes)) if isinstance(classes, int) else classes
    names = tuple(names)
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"classes is {classes!r}; give their number, at least 2, or their names.")
    return names


def _inputs(name: str, x: Any) -> Tensor:
    """Return inputs as float32 or int64, ``[n, ...]``."""
    tensor = x.detach().cpu() if isinstance(x, Tensor) else torch.tensor(np.asarray(x))
    if tensor.dim() < 2:
        raise ConfigError(f"{name} has shape {list(tensor.shape)}; samples are [n, ...].")
    if tensor.is_floating_point():
        return tensor.float()
    if tensor.dtype != torch.int64:
        raise ConfigError(
            f"{name} holds {tensor.dtype}; models take floats (images divided by 255) or int64 "
            "token ids."
        )
    return tensor


def _labels(name: str, y: Any, classes: tuple[str, ...]) -> Tensor:
    """Return labels as int64 ``[n]``."""
    labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if labels.ndim != 1:
        raise ConfigError(f"{name} has shape {list(labels.shape)}; labels are [n].")
    if labels.dtype.kind in "OUS":
        places = {label: place for place, label in enumerate(classes)}
        strange = [row for row, label in enumerate(map(str, labels)) if label not in places]
        if strange:  # not the value: the line may leave the party
            raise ConfigError(f"{name}[{strange[0]}] is none of the classes {', '.join(classes)}.")
        labels = np.array([places[str(label)] for label in labels], dtype=np.int64)
    if labels.dtype.kind not in "iu" or (
        len(labels) and not 0 <= labels.min() <= labels.max() < len(classes)
    ):
        raise ConfigError(
            f"{name} holds {labels.dtype} that are no labels: whole numbers from 0 to "
            f"{len(classes) - 1}, or names of classes."
        )
    return torch.tensor(labels.astype(np.int64))


def _labelled(
    names: tuple[str, str], given: Labelled, classes: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    x, y = _inputs(names[0], given[0]), _labels(names[1], given[1], classes)
    if len(x) != len(y):
        raise ConfigError(f"{names[0]} has {len(x)} samples and {names[1]} {len(y)} labels.")
    return x, y


def _held_out(labels: Tensor, fractions: Mapping[str, float]) -> dict[str, Tensor]:
    """Return the rows for training, and those that are held out by fractions."""
    wanted = {name: fractions.get(name, 0.0) for name in ("validation", "test")}
    if min(wanted.values()) < 0 or sum(wanted.values()) >= 1 or not len(labels):
        raise ConfigError(
            f"validation {wanted['validation']} and test {wanted['test']} of {len(labels)} samples "
            "leave nothing to train on; they are parts in [0, 1), together below 1."
        )
    sizes = split_sizes(len(labels), *wanted.values())
    parts = split_rows(labels.numpy(), sizes, numpy_rng(0, "split"))
    return {
        name: torch.tensor(np.sort(rows))
        for name, rows in zip(("train", *wanted), parts, strict=True)
    }
