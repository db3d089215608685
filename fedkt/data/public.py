"""The sets that all clients share: the public set and the common test set."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from fedkt.data.dataset import Dataset
from fedkt.data.domains import Domains, check_columns, domain_seed
from fedkt.data.inputs import fit_input, prepared
from fedkt.data.natural import NOBODY, Owners
from fedkt.data.one_encoding import in_encoding
from fedkt.data.scaling import fitted_scale, model_inputs, stored_on_scale
from fedkt.data.spec import FederationSpec
from fedkt.data.splits import Array, Ints, row_digests, stratified
from fedkt.errors import ConfigError
from fedkt.rng import numpy_rng

PUBLIC_FRACTION = 0.2
LARGEST_DEFAULT_PUBLIC = 2000


@dataclass(frozen=True, eq=False)
class Public:
    """A public set that is not yet part of a federation.

    Parameters
    ----------
    x, y : ndarray
        Scaled; ``y`` is None where labels are unknown or mean other classes.
    name : str
        The data set; empty where there is no public set.
    rows : ndarray, optional
        int64 ``[M]``: their rows in the training part, if they were drawn from it.
    notes : tuple[str, ...]
        What a reader of the results should know.
    """

    x: Array
    y: Array | None
    name: str
    rows: Ints | None = None
    notes: tuple[str, ...] = ()


def _equal_parts(key: str, spec: FederationSpec, domains: Domains) -> list[tuple[int, str]]:
    """Return how many samples each domain gives (0 = the default), and the words for it."""
    total, givers = getattr(spec, key), domains.measured
    ways = len(givers)
    parts = [total // ways + (place < total % ways) for place in range(ways)]
    share = "" if ways == 1 else ", {} of them of domain {}"
    return [
        (part, f"{key} is {total}{share.format(part, domains.names[d])}")
        for part, d in zip(parts, givers, strict=True)
    ]


def common_test_rows(domains: Domains, spec: FederationSpec) -> Ints:
    """Return the rows of the test part that are the common test set, int64 ``[T]``.

    Raises
    ------
    ConfigError
        If a domain has fewer test samples than asked for.
    """
    chosen = []
    parts = _equal_parts("test_samples", spec, domains)
    for d, (part, asked) in zip(domains.measured, parts, strict=True):
        rows = np.flatnonzero(domains.test_domain == d)
        if part > len(rows):
            name = domains.names[d]
            raise ConfigError(f"{asked}; the test part of {name} has {len(rows)}.")
        rng = numpy_rng(domain_seed(spec.seed, d), "common-test")
        labels = domains.y_test[rows]
        chosen.append(rows[stratified(labels, part or len(rows), rng)])
    return np.concatenate(chosen)


def public_rows(
    domains: Domains, spec: FederationSpec, owners: Owners | None = None
) -> tuple[Ints | None, Ints]:
    """Return the rows of the training part that are the public set, and those of the clients.

    Each natural client keeps a row; rows of nobody are in neither.

    Returns
    -------
    tuple of two ndarrays
        int64 ``[M]`` (None where another data set is the public one, or there is none) and
        ``[n]``.

    Raises
    ------
    ConfigError
        If there are too few samples.
    """
    everything = np.arange(len(domains.y_train), dtype=np.int64)
    allowed = np.ones(len(everything), dtype=bool)
    if owners is not None:
        everything = np.flatnonzero(owners.rows != NOBODY)
        allowed = owners.may_be_public(numpy_rng(spec.seed, "public-owners"))
    if spec.public_dataset or not spec.takes_public:
        return None, everything
    if domains.target is not None:
        left = everything[domains.train_domain != domains.target]
        return _adaptation_pool(domains, domains.target, spec), left
    chosen = []
    for d, (part, asked) in enumerate(_equal_parts("public_samples", spec, domains)):
        rows = everything[domains.train_domain[everything] == d]
        candidates = rows[allowed[rows]]
        count = part or max(1, min(int(len(rows) * PUBLIC_FRACTION), LARGEST_DEFAULT_PUBLIC))
        if count >= len(rows) or count > len(candidates):
            raise ConfigError(
                f"{asked}; the training part of {domains.names[d]} has {len(rows)} samples and the "
                "clients need some."
            )
        rng = numpy_rng(domain_seed(spec.seed, d), "public-set")
        chosen.append(candidates[stratified(domains.y_train[candidates], count, rng)])
    rows = np.concatenate(chosen)
    return rows, np.setdiff1d(everything, rows, assume_unique=True)


def public_set(
    domains: Domains, dataset: Dataset, rows: Ints | None, spec: FederationSpec
) -> Public:
    """Return the public set, of length 0 where there is none.

    Parameters
    ----------
    domains : Domains
        The domains.
    dataset : Dataset
        All of them, scaled.
    rows : ndarray, optional
        What :func:`public_rows` chose.
    spec : FederationSpec
        What the federation is built from.

    Raises
    ------
    ConfigError
        If another data set does not fit.
    """
    if not spec.takes_public:
        return Public(dataset.x_train[:0], None, "")
    if rows is None:
        return _other_public_set(dataset, spec)
    if domains.target is None:
        return Public(dataset.x_train[rows], dataset.y_train[rows], dataset.name, rows)
    return Public(dataset.x_train[rows], None, domains.names[domains.target], rows)


def _adaptation_pool(domains: Domains, target: int, spec: FederationSpec) -> Ints:
    rows = np.flatnonzero(domains.train_domain == target)
    if spec.public_samples > len(rows):
        raise ConfigError(
            f"public_samples is {spec.public_samples}; the training part of target "
            f"{domains.names[target]} has {len(rows)}."
        )
    count = spec.public_samples or min(len(rows), LARGEST_DEFAULT_PUBLIC)
    # Not stratified: the labels of a target must not even choose among its samples.
    rng = numpy_rng(domain_seed(spec.seed, target), "public-set")
    return np.sort(rng.permutation(rows)[:count])


def _other_public_set(dataset: Dataset, spec: FederationSpec) -> Public:
    """Return inputs without labels, or the training part of another data set, as public set."""
    assert spec.public_dataset is not None
    source = in_encoding(prepared(spec.public_dataset, spec), dataset.encoding)
    if spec.input_shape or spec.domains:
        source = fit_input(source, dataset.input_shape)
    if source.input_shape != dataset.input_shape:
        raise ConfigError(
            f"public_dataset {source.name} has samples of shape {list(source.input_shape)}, "
            f"{dataset.name} of {list(dataset.input_shape)}; the shapes must agree, or input_shape "
            "must say what images are brought to."
        )
    check_columns(source, dataset)
    x, y = source.train
    if spec.public_samples > len(x):
        what = source.name if y is None else f"the training part of {source.name}"
        raise ConfigError(f"public_samples is {spec.public_samples}; {what} has {len(x)}.")
    rng = numpy_rng(spec.seed, "public-set")
    count = spec.public_samples or min(len(x), LARGEST_DEFAULT_PUBLIC)
    rows = np.sort(rng.permutation(len(x))[:count]) if y is None else stratified(y, count, rng)
    statistics, notes = fitted_scale(source.name, x, source.layout, spec.scaling)
    x = stored_on_scale(x, source.layout, statistics)[rows]
    notes = (*source.notes, *notes)
    if source.classes == dataset.classes and y is not None:
        return Public(x, y[rows], source.name, notes=notes)
    if y is not None:
        notes += (f"the labels of public set {source.name} are not used: its classes differ",)
    return Public(x, None, source.name, notes=notes)


def without_test_rows(
    public: Public, dataset: Dataset, tests: Collection[bytes], spec: FederationSpec
) -> Public:
    """Return the public set without the samples that are tested on.

    Contents are compared as models see them: a copy under another file or dtype counts too. Rows
    of tables may be equal by chance, and stay unless the specification says ``deduplicate``.

    Parameters
    ----------
    public : Public
        The public set.
    dataset : Dataset
        What the clients' samples and the test samples are of.
    tests : collection of bytes
        The digests of the test samples as models see them, see :func:`row_digests`.
    spec : FederationSpec
        What the federation is built from.

    Raises
    ------
    ConfigError
        If another data set holds test samples that are not rows of a table, or none would be
        left.
    """
    inputs = model_inputs(public.x, dataset.input_shape)
    keep = np.array([digest not in tests for digest in row_digests(inputs)], dtype=bool)
    overlap = int((~keep).sum())
    if not overlap:
        return public
    if not spec.deduplicate and dataset.layout == "vector":
        return replace(public, notes=(*public.notes, _equal_rows(overlap, len(keep))))
    if not spec.deduplicate and spec.public_dataset:
        raise ConfigError(
            f"{overlap} of {len(keep)} rows of public_dataset {public.name} are also test samples "
            f"of {dataset.name}; public and test data must not overlap. data.deduplicate = true "
            "drops them."
        )
    if not keep.any():
        raise ConfigError(f"Every public sample of {public.name} is also a test sample.")
    note = f"{overlap} public samples equal to test samples were dropped"
    return replace(
        public,
        x=public.x[keep],
        y=None if public.y is None else public.y[keep],
        rows=None if public.rows is None else public.rows[keep],
        notes=(*public.notes, note),
    )


def _equal_rows(overlap: int, size: int) -> str:
    return (
        f"{overlap:,} of {size:,} public rows equal test rows, which may be chance in a table with "
        "few distinct rows; data.deduplicate = true drops them"
    )
