"""The data a federation is made of: one data set, or several domains joined to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedkt.data.columns import load_domain
from fedkt.data.features import AS_STORED, with_features
from fedkt.data.inputs import check_input_shape, fit_input, one_scale
from fedkt.data.sources import Dataset
from fedkt.data.splits import Ints
from fedkt.errors import ConfigError
from fedkt.rng import derive


@dataclass(frozen=True, eq=False)
class Domains:
    """One or several domains as one data set, domain by domain.

    Parameters
    ----------
    joint : Dataset
        The rows of domain 0, then those of domain 1, ..., in the training and the test part.
    names : tuple[str, ...]
        One per domain.
    train_domain, test_domain : ndarray
        int64 ``[N]``: the domain of each training and each test row, ascending.
    target : int, optional
        The domain that no client owns, see :mod:`fedkt.data.targets`.
    """

    joint: Dataset
    names: tuple[str, ...]
    train_domain: Ints
    test_domain: Ints
    target: int | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sources(self) -> tuple[int, ...]:
        """The domains that clients own; client n owns number n modulo their number."""
        return tuple(d for d in range(len(self)) if d != self.target)

    @property
    def measured(self) -> tuple[int, ...]:
        """The domains that the public and the common test set come from."""
        return self.sources if self.target is None else (self.target,)


def load_domains(
    references: Sequence[str],
    data_dir: str | Path | None,
    input_shape: tuple[int, ...],
    seed: int,
    features: str = AS_STORED,
    target: int | None = None,
) -> Domains:
    """Load domains and bring them to one shape, one scale and one set of classes.

    Parameters
    ----------
    references : Sequence[str]
        At least one; see :func:`fedkt.data.columns.load_domain`.
    data_dir : str or Path, optional
        The folder with ``.npz`` files.
    input_shape : tuple[int, ...]
        The shape of a sample, see :func:`fedkt.data.inputs.fit_input`; empty for that of the
        first domain.
    seed : int
        The seed of the run.
    features : str
        See :func:`fedkt.data.features.with_features`; each domain by itself.
    target : int, optional
        The place of the target among the domains.

    Returns
    -------
    Domains
        A single domain that has the shape is left as it is stored.

    Raises
    ------
    ConfigError
        If one cannot be loaded or converted, two have one name, or class names differ.
    """
    if input_shape:
        check_input_shape(input_shape)
    loaded = [
        with_features(load_domain(reference, data_dir, seed), features) for reference in references
    ]
    names = tuple(dataset.name for dataset in loaded)
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ConfigError(f"Two domains are called {twice!r}; each must be a data set of its own.")
    shape = input_shape or loaded[0].input_shape
    fitted = one_scale([fit_input(dataset, shape) for dataset in loaded])
    return Domains(
        joint=_joined(fitted),
        names=names,
        train_domain=_numbered([len(d.y_train) for d in fitted]),
        test_domain=_numbered([len(d.y_test) for d in fitted]),
        target=target,
    )


def domain_seed(seed: int, domain: int) -> int:
    """Return the seed of a domain's random streams.

    That of domain 0 is the run's own, so that a single domain gives the federation of that
    data set alone.
    """
    return derive(seed, f"domain/{domain}") if domain else seed


def _joined(datasets: Sequence[Dataset]) -> Dataset:
    first = datasets[0]
    if len(datasets) == 1:
        return first
    arrays: dict[str, Any] = {
        # Grey images may be stored with or without an axis for their channel.
        key: np.concatenate(
            [getattr(d, key).reshape(-1, *getattr(first, key).shape[1:]) for d in datasets]
        )
        for key in ("x_train", "y_train", "x_test", "y_test")
    }
    name = " + ".join(d.name for d in datasets)
    return Dataset(name, classes=_common_classes(datasets), **arrays)


def _common_classes(datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """Return the longest list of class names; a set without the last classes has fewer."""
    longest = max(datasets, key=lambda d: d.num_classes)
    for dataset in datasets:
        if dataset.classes != longest.classes[: dataset.num_classes]:
            pairs = zip(dataset.classes, longest.classes, strict=False)
            k, (own, other) = next((k, pair) for k, pair in enumerate(pairs) if pair[0] != pair[1])
            raise ConfigError(
                f"Class {k} is {own!r} in domain {dataset.name} and {other!r} in {longest.name}; "
                "all domains must have the same class names."
            )
    return longest.classes


def _numbered(sizes: Sequence[int]) -> Ints:
    return np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
