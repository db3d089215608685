"""Building a federation: who holds which samples, and what is kept apart for testing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedkt.data.domains import Domains, domain_seed, load_domains
from fedkt.data.inputs import fit_input
from fedkt.data.partition import drawn_shares, overlaps, partition_with_notes
from fedkt.data.sources import Dataset, load_dataset, scale
from fedkt.data.splits import (
    Array,
    Ints,
    row_digests,
    sizes_around,
    split_rows,
    split_sizes,
    stratified,
)
from fedkt.data.store import Federation
from fedkt.errors import ConfigError
from fedkt.rng import numpy_rng

__all__ = ["Federation", "FederationSpec", "build_federation"]

PUBLIC_FRACTION = 0.2
LARGEST_DEFAULT_PUBLIC = 2000


@dataclass(frozen=True)
class FederationSpec:
    """What a federation is built from; equal specifications give equal federations.

    Parameters
    ----------
    dataset : str
        See :func:`fedkt.data.sources.load_dataset`.
    domains : tuple[str, ...]
        Data sets of the same classes, instead of ``dataset``: client n owns domain n modulo
        their number. Empty: ``dataset`` alone, which clients do not own parts of.
    input_shape : tuple[int, ...]
        What images are brought to, ``(1, H, W)`` or ``(3, H, W)``; see
        :func:`fedkt.data.inputs.fit_input`. Empty: the shape of ``dataset`` or of the first
        domain.
    data_dir : str, optional
        The folder with ``.npz`` files.
    clients : int
        How many clients.
    partition : str
        See :func:`fedkt.data.partition.partition`; each domain is shared out among its
        clients alone.
    samples_per_client : int
        Training samples per client, validation and test on top; 0 = all the data.
    public_samples : int
        The size of the public set, in equal parts from all domains. 0 = of each 20 % of the
        training part and at most 2,000 samples; with ``public_dataset`` the whole of that,
        at most 2,000 samples.
    public_dataset : str, optional
        Another data set, whose training part is the public set. It must have the same input
        shape, unless ``input_shape`` or ``domains`` says what all images are brought to.
    test_samples : int
        The size of the common test set, a stratified part of the test part, in equal parts
        from all domains; 0 = the whole.
    validation_fraction, test_fraction : float
        The parts of each client's samples that are held out.
    seed : int
        The seed of the run.
    """

    dataset: str = "digits"
    domains: tuple[str, ...] = ()
    input_shape: tuple[int, ...] = ()
    data_dir: str | None = None
    clients: int = 10
    partition: str = "dirichlet:0.5"
    samples_per_client: int = 0
    public_samples: int = 0
    public_dataset: str | None = None
    test_samples: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0


@dataclass(frozen=True, eq=False)
class _Public:
    """The public set on its way into the federation."""

    x: Array
    y: Array | None
    peak: float
    name: str
    notes: tuple[str, ...] = ()


def build_federation(spec: FederationSpec) -> Federation:
    """Build a federation.

    The public set is drawn, stratified by class, from the training part and kept from every
    client, or is another data set. The rest is shared out; each client's share is split into
    training, validation and test samples of the same class shares. No public sample equals
    a test sample, the clients' or the common: of a set drawn from the training part such
    samples are dropped (and a note says so), with another data set it is an error. With
    several domains all this is done in each of them, with random streams of its own.

    Parameters
    ----------
    spec : FederationSpec
        What to build.

    Returns
    -------
    Federation
        The same for the same ``spec``.

    Raises
    ------
    ConfigError
        Naming the value at fault and what is allowed.
    """
    _check(spec)
    domains = load_domains(
        spec.domains or (spec.dataset,), spec.data_dir, spec.input_shape, spec.seed
    )
    dataset = domains.joint
    common = _common_test_rows(domains, spec)
    public, pool = _public_set(domains, spec)
    splits, shares, notes = _client_rows(domains, pool, spec)
    tests = np.concatenate([parts[2] for parts in splits])
    public = _without_test_rows(public, dataset, tests, common, drop=not spec.public_dataset)

    flat = np.concatenate([rows for parts in splits for rows in parts])
    held = np.unique(flat)
    ends = np.cumsum([len(rows) for parts in splits for rows in parts]).reshape(-1, 3)
    starts = np.concatenate([[0], ends[:-1, 2]])
    return Federation(
        name=dataset.name,
        classes=dataset.classes,
        input_shape=dataset.input_shape,
        pool_x=dataset.x_train[held],
        pool_y=dataset.y_train[held],
        test_x=dataset.x_test[common],
        test_y=dataset.y_test[common],
        public_x=public.x,
        public_y=public.y,
        rows=np.searchsorted(held, flat).astype(np.int64),
        bounds=np.column_stack([starts, ends]).astype(np.int64),
        peak=dataset.peak,
        public_peak=public.peak,
        public_name=public.name,
        class_shares=shares,
        domains=domains.names if spec.domains else (),
        client_domain=np.arange(spec.clients, dtype=np.int64) % len(domains)
        if spec.domains
        else None,
        test_domain=domains.test_domain[common] if spec.domains else None,
        notes=(*notes, *public.notes),
    )


def _check(spec: FederationSpec) -> None:
    if spec.clients < 1:
        raise ConfigError(f"clients is {spec.clients}; at least 1 is needed.")
    for key in ("samples_per_client", "public_samples", "test_samples"):
        if getattr(spec, key) < 0:
            raise ConfigError(f"{key} is {getattr(spec, key)}; it must be 0 or more.")
    for key in ("validation_fraction", "test_fraction"):
        if not 0 <= getattr(spec, key) < 1:
            raise ConfigError(f"{key} is {getattr(spec, key)}; it must be at least 0 and below 1.")
    if spec.validation_fraction + spec.test_fraction >= 1:
        raise ConfigError(
            f"validation_fraction {spec.validation_fraction} and test_fraction "
            f"{spec.test_fraction} leave nothing to train on; their sum must be below 1."
        )
    if spec.domains:
        _check_domains(spec)


def _check_domains(spec: FederationSpec) -> None:
    if spec.dataset != FederationSpec.dataset:
        raise ConfigError(
            f"dataset is {spec.dataset!r} and domains has {', '.join(map(repr, spec.domains))}; "
            "give one or the other."
        )
    least = len(spec.domains)
    for key in ("clients", "public_samples", "test_samples"):
        # 0 public or test samples stand for the default.
        if 0 < getattr(spec, key) < least and not (key == "public_samples" and spec.public_dataset):
            raise ConfigError(
                f"{key} is {getattr(spec, key)}; {least} domains need at least {least}."
            )


def _equal_parts(key: str, spec: FederationSpec, domains: Domains) -> list[tuple[int, str]]:
    """Return how many samples each domain gives (0 = the default), and the words for it."""
    total, ways = getattr(spec, key), len(domains)
    parts = [total // ways + (d < total % ways) for d in range(ways)]
    said = "" if ways == 1 else ", {} of them of domain {}"
    return [
        (part, f"{key} is {total}{said.format(part, name)}")
        for part, name in zip(parts, domains.names, strict=True)
    ]


def _common_test_rows(domains: Domains, spec: FederationSpec) -> Ints:
    chosen = []
    for d, (part, asked) in enumerate(_equal_parts("test_samples", spec, domains)):
        rows = np.flatnonzero(domains.test_domain == d)
        if part > len(rows):
            name = domains.names[d]
            raise ConfigError(f"{asked}; the test part of {name} has {len(rows)}.")
        rng = numpy_rng(domain_seed(spec.seed, d), "common-test")
        labels = domains.joint.y_test[rows]
        chosen.append(rows[stratified(labels, part or len(rows), rng)])
    return np.concatenate(chosen)


def _public_set(domains: Domains, spec: FederationSpec) -> tuple[_Public, Ints]:
    """Return the public set and the rows of the training part that are left to the clients."""
    dataset = domains.joint
    everything = np.arange(len(dataset.y_train), dtype=np.int64)
    if spec.public_dataset:
        return _other_public_set(dataset, spec), everything
    chosen = []
    for d, (part, asked) in enumerate(_equal_parts("public_samples", spec, domains)):
        rows = np.flatnonzero(domains.train_domain == d)
        wanted = part or max(1, min(int(len(rows) * PUBLIC_FRACTION), LARGEST_DEFAULT_PUBLIC))
        if wanted >= len(rows):
            raise ConfigError(
                f"{asked}; the training part of {domains.names[d]} has {len(rows)} samples and the "
                "clients need some."
            )
        rng = numpy_rng(domain_seed(spec.seed, d), "public-set")
        chosen.append(rows[stratified(dataset.y_train[rows], wanted, rng)])
    rows = np.concatenate(chosen)
    public = _Public(dataset.x_train[rows], dataset.y_train[rows], dataset.peak, dataset.name)
    return public, np.setdiff1d(everything, rows, assume_unique=True)


def _other_public_set(dataset: Dataset, spec: FederationSpec) -> _Public:
    assert spec.public_dataset is not None
    other = load_dataset(spec.public_dataset, spec.data_dir, spec.seed)
    if spec.input_shape or spec.domains:
        other = fit_input(other, dataset.input_shape)
    if other.input_shape != dataset.input_shape:
        raise ConfigError(
            f"public_dataset {other.name} has samples of shape {list(other.input_shape)}, "
            f"{dataset.name} of {list(dataset.input_shape)}; the shapes must agree, or input_shape "
            "must say what images are brought to."
        )
    there = len(other.y_train)
    if spec.public_samples > there:
        raise ConfigError(
            f"public_samples is {spec.public_samples}; the training part of {other.name} has "
            f"{there}."
        )
    rng = numpy_rng(spec.seed, "public-set")
    rows = stratified(other.y_train, spec.public_samples or min(there, LARGEST_DEFAULT_PUBLIC), rng)
    same_classes = other.classes == dataset.classes
    notes = (
        ()
        if same_classes
        else (f"the labels of public set {other.name} are not used: its classes differ",)
    )
    y = other.y_train[rows] if same_classes else None
    return _Public(other.x_train[rows], y, other.peak, other.name, notes)


def _client_rows(
    domains: Domains, pool: Ints, spec: FederationSpec
) -> tuple[list[list[Ints]], Array | None, list[str]]:
    """Return each client's training, validation and test rows, all class shares, and notes."""
    splits: list[list[Ints]] = [[] for _ in range(spec.clients)]
    shares = np.zeros((spec.clients, domains.joint.num_classes))
    notes = []
    for d, name in enumerate(domains.names):
        clients = range(d, spec.clients, len(domains))
        rows = pool[domains.train_domain[pool] == d]
        labels, seed = domains.joint.y_train[rows], domain_seed(spec.seed, d)
        try:
            found, said = _share_out(labels, clients, seed, spec)
            drawn = drawn_shares(labels, spec.partition, len(clients), seed, shares.shape[1])
        except ConfigError as error:
            if len(domains) == 1:
                raise
            raise ConfigError(f"Domain {name}: {error}") from error
        for client, parts in zip(clients, found, strict=True):
            splits[client] = [rows[chosen] for chosen in parts]
        if drawn is not None:
            shares[clients] = drawn
        notes += said if len(domains) == 1 else [f"{name}: {note}" for note in said]
    untested = sum(len(split[2]) == 0 for split in splits)
    if untested and spec.test_fraction > 0:
        notes.append(f"{untested} of {spec.clients} clients are too small for test samples")
    return splits, shares if overlaps(spec.partition) else None, notes


def _share_out(
    labels: Array, clients: range, seed: int, spec: FederationSpec
) -> tuple[list[list[Ints]], list[str]]:
    """Share one domain out among its clients: training, validation and test rows of each."""
    fractions = spec.validation_fraction, spec.test_fraction
    exact = sizes_around(spec.samples_per_client, *fractions) if spec.samples_per_client else None
    each = sum(exact) if exact else 0
    if overlaps(spec.partition) and any(fractions):
        raise ConfigError(
            f"Under partition {spec.partition!r} clients may hold the same samples, so none can be "
            "held out: set validation_fraction and test_fraction to 0 and personalised to matched."
        )
    if exact and each * len(clients) > len(labels) and not overlaps(spec.partition):
        raise ConfigError(
            f"{len(clients)} clients with {each} samples each ({exact[0]} to train, {exact[1]} to "
            f"validate, {exact[2]} to test) need {each * len(clients)} samples; there are "
            f"{len(labels)} beside the public set."
        )
    parts, notes = partition_with_notes(labels, spec.partition, len(clients), seed, each)
    splits = []
    for client, rows in zip(clients, parts, strict=True):
        rng = numpy_rng(spec.seed, "split", 0, client)
        sizes = exact or split_sizes(len(rows), *fractions)
        splits.append([rows[chosen] for chosen in split_rows(labels[rows], sizes, rng)])
    return splits, notes


def _without_test_rows(
    public: _Public, dataset: Dataset, own_tests: Ints, common: Ints, drop: bool
) -> _Public:
    """Compare contents as models see them: a copy under another file or dtype counts too."""
    tests = set(row_digests(scale(dataset.x_test[common], dataset.peak)))
    tests.update(row_digests(scale(dataset.x_train[own_tests], dataset.peak)))
    kept = np.array([d not in tests for d in row_digests(scale(public.x, public.peak))], dtype=bool)
    overlap = int((~kept).sum())
    if not overlap:
        return public
    if not drop:
        raise ConfigError(
            f"{overlap} of {len(kept)} rows of public_dataset {public.name} are also test samples "
            f"of {dataset.name}; public and test data must not overlap."
        )
    if not kept.any():
        raise ConfigError(f"Every public sample of {dataset.name} is also a test sample.")
    assert public.y is not None
    note = f"{overlap} public samples equal to test samples were dropped"
    return _Public(public.x[kept], public.y[kept], public.peak, public.name, (*public.notes, note))
