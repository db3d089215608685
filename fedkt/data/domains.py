"""The data a federation is made of: one data set, or several domains joined to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fedkt.data.dataset import Dataset, Unlabelled, labelled
from fedkt.data.inputs import check_input_shape, fit_input, prepared
from fedkt.data.one_encoding import in_one_encoding
from fedkt.data.scaling import Statistics, fitted_scale, rescaled, unit_bytes
from fedkt.data.spec import FederationSpec
from fedkt.data.splits import Array, Ints
from fedkt.errors import ConfigError
from fedkt.rng import derive


@dataclass(frozen=True, eq=False)
class Domains:
    """One or several domains with one shape and one set of classes.

    Rows are counted domain by domain, in the training and in the test part.

    Parameters
    ----------
    datasets : tuple[Dataset, ...]
        The domains, not yet scaled.
    classes : tuple[str, ...]
        The class names of all domains.
    target : int, optional
        The domain that no client owns, see :mod:`fedkt.data.targets`.
    """

    datasets: tuple[Dataset, ...]
    classes: tuple[str, ...]
    target: int | None = None

    def __len__(self) -> int:
        return len(self.datasets)

    @property
    def names(self) -> tuple[str, ...]:
        """One per domain."""
        return tuple(dataset.name for dataset in self.datasets)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample as models see it."""
        return self.datasets[0].input_shape

    @cached_property
    def y_train(self) -> Ints:
        """int64 ``[N]``: the label of each training row."""
        return np.concatenate([dataset.y_train for dataset in self.datasets])

    @cached_property
    def y_test(self) -> Ints:
        """int64 ``[T]``: the label of each test row."""
        return np.concatenate([dataset.y_test for dataset in self.datasets])

    @cached_property
    def train_domain(self) -> Ints:
        """int64 ``[N]``: the domain of each training row, ascending."""
        return _numbered([len(dataset.y_train) for dataset in self.datasets])

    @cached_property
    def test_domain(self) -> Ints:
        """int64 ``[T]``: the domain of each test row, ascending."""
        return _numbered([len(dataset.y_test) for dataset in self.datasets])

    @property
    def sources(self) -> tuple[int, ...]:
        """The domains that clients own; client n owns number n modulo their number."""
        return tuple(d for d in range(len(self)) if d != self.target)

    @property
    def measured(self) -> tuple[int, ...]:
        """The domains that the public and the common test set come from."""
        return self.sources if self.target is None else (self.target,)


def load_domains(references: Sequence[str], spec: FederationSpec, target: int | None) -> Domains:
    """Load domains and bring them to one shape and one set of classes.

    Parameters
    ----------
    references : Sequence[str]
        At least one; see :func:`fedkt.data.columns.load_domain`.
    spec : FederationSpec
        What the federation is built from. Images get its ``input_shape``, by default the
        shape of the first domain.
    target : int, optional
        The place of the target among the domains.

    Returns
    -------
    Domains
        As stored, in the layout and form asked for.

    Raises
    ------
    ConfigError
        If one cannot be loaded or converted, two have one name, or names of classes or columns
        differ.
    """
    if spec.input_shape:
        check_input_shape(spec.input_shape)
    opened: dict[str, Dataset | Unlabelled] = {}  # a set of many domains is opened once
    loaded = [labelled(prepared(reference, spec, True, opened)) for reference in references]
    names = [dataset.name for dataset in loaded]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ConfigError(f"Two domains are called {twice!r}; each must be a data set of its own.")
    loaded = in_one_encoding(loaded)
    shape = spec.input_shape or loaded[0].input_shape
    fitted = tuple(fit_input(dataset, shape) for dataset in loaded)
    for dataset in fitted[1:]:
        check_columns(dataset, fitted[0])
    return Domains(fitted, _common_classes(fitted), target)


class Joined(NamedTuple):
    """All domains as one data set on one scale.

    ``scales`` has the scale of each domain with its statistics, ``notes`` what a reader of the
    results should know.
    """

    dataset: Dataset
    scales: tuple[Statistics, ...]
    notes: tuple[str, ...]


def joined(domains: Domains, how: str | None, held_out: Ints) -> Joined:
    """Return all domains as one data set on one scale.

    Parameters
    ----------
    domains : Domains
        As stored.
    how : str, optional
        See :func:`fedkt.data.scaling.fitted_scale`; each domain by itself.
    held_out : ndarray
        int64: the training rows that clients validate and test on; statistics leave them out.

    Returns
    -------
    Joined
        The data set of a single domain that needs no scaling is the same object.
    """
    hidden = np.zeros(len(domains.y_train), dtype=bool)
    hidden[held_out] = True
    datasets: list[Dataset] = []
    scales: list[Statistics] = []
    notes: list[str] = []
    for d, dataset in enumerate(domains.datasets):
        known = dataset.x_train[~hidden[domains.train_domain == d]]
        scale, remarks = fitted_scale(dataset.name, known, dataset.layout, how)
        datasets.append(rescaled(dataset, scale))
        scales.append(scale)
        notes += remarks
    if len(datasets) == 1:
        return Joined(datasets[0], tuple(scales), tuple(notes))
    alike = len({dataset.x_train.dtype for dataset in datasets}) == 1
    x_train, x_test = (
        np.concatenate([_like(getattr(dataset, key), datasets[0], alike) for dataset in datasets])
        for key in ("x_train", "x_test")
    )
    name = " + ".join(domains.names)
    whole = Dataset(
        name, x_train, domains.y_train, x_test, domains.y_test, domains.classes,
        layout=datasets[0].layout, columns=datasets[0].columns, encoding=datasets[0].encoding,
    )  # fmt: skip
    return Joined(whole, tuple(scales), tuple(notes))


def domain_seed(seed: int, domain: int) -> int:
    """Return the seed of a domain's random streams.

    That of domain 0 is the run's own, so that a single domain gives the federation of that
    data set alone.
    """
    return derive(seed, f"domain/{domain}") if domain else seed


def _like(x: Array, first: Dataset, alike: bool) -> Array:
    """Return samples in the axes of the first domain, in floats where dtypes differ."""
    if not alike:
        x = unit_bytes(x) if first.layout == "image" else x.astype(np.float32)
    # Grey images may be stored with or without an axis for their channel.
    return x.reshape(-1, *first.x_train.shape[1:])


def _common_classes(datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """Return the longest list of class names; a set without the last classes has fewer."""
    longest = max(datasets, key=lambda d: d.num_classes)
    for dataset in datasets:
        if dataset.classes != longest.classes[: dataset.num_classes]:
            pairs = zip(dataset.classes, longest.classes, strict=False)
            k, (short, long) = next((k, pair) for k, pair in enumerate(pairs) if pair[0] != pair[1])
            raise ConfigError(
                f"Class {k} is {short!r} in domain {dataset.name} and {long!r} in {longest.name}; "
                "all domains must have the same class names."
            )
    return longest.classes


def check_columns(one: Dataset | Unlabelled, other: Dataset) -> None:
    """Check that two tables have the same columns in the same order, where both name them.

    Raises
    ------
    ConfigError
        Naming the first column that differs.
    """
    if not (one.columns and other.columns):
        return
    for place, (column, twin) in enumerate(zip(one.columns, other.columns, strict=True)):
        if column != twin:
            raise ConfigError(
                f"Column {place} is {column!r} in {one.name} and {twin!r} in {other.name}; tables "
                "that go together must have the same columns in the same order."
            )


def _numbered(sizes: Sequence[int]) -> Ints:
    return np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
