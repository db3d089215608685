"""A federation of parties whose data are ready, as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkt import registry
from fedkt.data.samples import ClientData, Samples
from fedkt.data.spec import FederationSpec
from fedkt.data.splits import Array, Ints
from fedkt.data.store import Federation
from fedkt.errors import PYTHON, ConfigError

# What may be said beside a federation that is ready; all else was decided when it was made.
BESIDE = ("dataset", "partition", "clients", "public", "seed")


def gathered(parties: Sequence[ClientData], name: str, public_y: Any = None) -> Federation:
    """Return the federation of parties: their samples, splits and shared sets as they are.

    Parameters
    ----------
    parties : Sequence[ClientData]
        One for each client, in order.
    name : str
        What the data are called.
    public_y : array, optional
        Labels of the public samples that the server knows, -1 where it does not.

    Raises
    ------
    ConfigError
        If they differ in classes, in the shape of samples, or in the public or common test set.
    """
    first = parties[0]
    _check_alike(parties)
    pool = [samples for p in parties for samples in (p.train, p.validation, p.test)]
    sizes = np.array([len(samples) for samples in pool], dtype=np.int64)
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    test = first.common_test or _none_of(first.train)
    public = first.public or _none_of(first.train)
    return Federation(
        name=name,
        classes=first.classes,
        input_shape=first.input_shape,
        pool_x=_stored(torch.cat([samples.x for samples in pool])),
        pool_y=torch.cat([_labels(samples) for samples in pool]).numpy(),
        test_x=_stored(test.x),
        test_y=_labels(test).numpy(),
        public_x=_stored(public.x),
        public_y=public.y.numpy() if public_y is None and public.y is not None else public_y,
        rows=np.arange(int(ends[-1]), dtype=np.int64),
        bounds=_bounds(ends, len(parties)),
        public_name=name if first.public is not None else "",
        columns=tuple(first.columns),
        preprocessing=({},),
    )


def ready_federation(spec: FederationSpec) -> Federation | None:
    """Return the federation that a specification names; None if it names a data set.

    Raises
    ------
    ConfigError
        If the specification says anything about how it is to be made.
    """
    if not spec.dataset.startswith(PYTHON):
        return None
    federation: Federation = registry.lookup("datasets", spec.dataset)
    if not is_ready(federation):
        return None
    plain = FederationSpec()
    for name in (field.name for field in fields(spec) if field.name not in BESIDE):
        if getattr(spec, name) != getattr(plain, name):
            raise ConfigError(
                f"data.{name} is {getattr(spec, name)!r}, and the data are a federation that is "
                "ready; leave it out."
            )
    if spec.clients not in (None, federation.num_clients):
        raise ConfigError(
            f"data.clients is {spec.clients}, and the federation has {federation.num_clients}."
        )
    return federation


def is_ready(thing: object) -> bool:
    """Return whether a thing is a federation, which gives the data of its clients."""
    return callable(getattr(thing, "client", None))


def _bounds(ends: Ints, parties: int) -> Ints:
    """Return where each party's training, validation and test rows start, and the end of these."""
    starts = ends[:-1].reshape(parties, 3)
    return np.concatenate([starts, ends[3::3, None]], axis=1)


def _check_alike(parties: Sequence[ClientData]) -> None:
    facts: dict[str, Callable[[ClientData], object]] = {
        "classes": lambda party: party.classes,
        "shape of samples": lambda party: party.input_shape,
        "columns": lambda party: dict(party.columns),
        "preprocessing": lambda party: dict(party.preprocessing),
    }
    for what, fact in facts.items():
        for place, party in enumerate(parties):
            if fact(party) != fact(parties[0]):
                raise ConfigError(
                    f"client {place} has another {what}: {fact(party)}, and client 0 "
                    f"{fact(parties[0])}."
                )
    for place, party in enumerate(parties):
        for what, mine, others in (
            ("public set", party.public, parties[0].public),
            ("common test set", party.common_test, parties[0].common_test),
        ):
            if not _equal(mine, others):
                raise ConfigError(f"client {place} has another {what} than client 0.")


def _equal(one: Samples | None, other: Samples | None) -> bool:
    if one is None or other is None:
        return one is other
    if one.x.shape != other.x.shape or not _equal_inputs(one.x, other.x):
        return False
    if one.y is None or other.y is None:
        return one.y is other.y
    return torch.equal(one.y, other.y)


def _equal_inputs(x: Tensor, y: Tensor) -> bool:
    """Return whether inputs are equal; gaps (NaN) are where the other has them."""
    gaps = x.isnan()
    return torch.equal(gaps, y.isnan()) and torch.equal(x[~gaps], y[~gaps])


def _none_of(samples: Samples) -> Samples:
    return samples.select(torch.arange(0))


def _labels(samples: Samples) -> Tensor:
    assert samples.y is not None  # a party's own have labels
    return samples.y


def _stored(x: Tensor) -> Array:
    """Return samples as a federation stores them: images with their channels last."""
    array: Array = x.numpy()
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if array.ndim == 4 else array
