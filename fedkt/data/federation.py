"""Building a federation: the samples of every client, and those kept apart for testing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedkt.data.columns import column_of
from fedkt.data.dataset import Dataset
from fedkt.data.domains import Domains, domain_seed, joined, load_domains
from fedkt.data.natural import Owners, check_natural, client_column, owners_of
from fedkt.data.notes import class_notes, domain_notes, duplicate_notes
from fedkt.data.partition import (
    asks_for,
    drawn_shares,
    follows_data,
    overlaps,
    partition_with_notes,
)
from fedkt.data.preprocessing import Preprocessing, preprocessing_of
from fedkt.data.public import Public, common_test_rows, public_rows, public_set, without_test_rows
from fedkt.data.scaling import Statistics, model_inputs
from fedkt.data.spec import FederationSpec, check_spec
from fedkt.data.splits import Array, Ints, row_digests, sizes_around, split_rows, split_sizes
from fedkt.data.store import Federation
from fedkt.data.targets import TRANSDUCTIVE, references_of
from fedkt.errors import ConfigError
from fedkt.rng import numpy_rng

__all__ = ["Federation", "FederationSpec", "build_federation"]


def build_federation(spec: FederationSpec) -> Federation:
    """Return a federation: the clients' data, the public set and the common test set.

    The public set is drawn, stratified by class, from the training part and kept from all clients,
    or is another data set, or there is none. The rest is shared out; each client's share is split
    into training, validation and test samples of the same class shares. No public sample is a test
    sample. Public samples that equal one are dropped, refused or, in tables, kept (see
    ``deduplicate``); a note says how many. With several domains this is done in each.

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
    check_spec(spec)
    check_natural(spec)
    references, target = references_of(spec)
    domains = load_domains(references, spec, target)
    owners = owners_of(domains.datasets[0], spec) if follows_data(spec.partition) else None
    common = np.empty(0, np.int64) if spec.transductive else common_test_rows(domains, spec)
    rows, pool = public_rows(domains, spec, owners)
    splits, shares, notes = _client_rows(domains, pool, spec, owners)
    train, validation, test = (np.concatenate([parts[i] for parts in splits]) for i in range(3))
    # After the split: samples that clients hold out have no part in statistics.
    dataset, scales, scaling = joined(domains, spec.scaling, np.concatenate([validation, test]))
    tests = [*_digests(dataset, "test", common), *_digests(dataset, "train", test)]
    public = public_set(domains, dataset, rows, spec)
    public = without_test_rows(public, dataset, set(tests), spec)
    if spec.transductive:
        tests += _digests(dataset, "train", public.rows)
    measured = None if spec.transductive else common
    test_x, test_y, test_domain = _common_test(domains, dataset, measured, public.rows)
    train = np.unique(train)
    equal = duplicate_notes(tests, set(_digests(dataset, "train", train)))
    notes = [*_reading_notes(domains), *scaling, *notes]
    notes += domain_notes(domains) if spec.domains else []
    notes += [*_class_notes(dataset, train, test_y, public), *equal, *public.notes]
    notes += [TRANSDUCTIVE] if spec.transductive else []
    return Federation(
        name=dataset.name,
        classes=dataset.classes,
        input_shape=dataset.input_shape,
        **_of_clients(dataset, splits, owners),
        test_x=test_x,
        test_y=test_y,
        public_x=public.x,
        public_y=public.y,
        public_name=public.name,
        class_shares=shares,
        **_of_domains(domains, spec, test_domain, len(splits)),
        preprocessing=_preprocessing(domains, spec, scales),
        transductive=spec.transductive,
        columns=dataset.columns,
        notes=tuple(notes),
    )


def _reading_notes(domains: Domains) -> Iterable[str]:
    """Return the notes on the reading of all domains, each once."""
    return dict.fromkeys(note for each in domains.datasets for note in each.notes)


def _preprocessing(
    domains: Domains, spec: FederationSpec, scales: Sequence[Statistics]
) -> tuple[Preprocessing, ...]:
    """Return what was done to the inputs of each domain."""
    pairs = zip(domains.datasets, scales, strict=True)
    return tuple(preprocessing_of(each, spec.features, scale) for each, scale in pairs)


def _of_clients(
    dataset: Dataset, splits: list[list[Ints]], owners: Owners | None
) -> dict[str, Any]:
    """Return the fields of a federation that hold the clients' samples, rows and names."""
    flat = np.concatenate([rows for parts in splits for rows in parts])
    pool = np.unique(flat)
    return {
        "pool_x": dataset.x_train[pool],
        "pool_y": dataset.y_train[pool],
        "rows": np.searchsorted(pool, flat).astype(np.int64),
        "bounds": _bounds(splits),
        "client_names": () if owners is None else owners.names,
    }


def _of_domains(
    domains: Domains, spec: FederationSpec, test_domain: Ints, clients: int
) -> dict[str, Any]:
    """Return the fields of a federation about its domains; empty for a single data set."""
    if not spec.domains:
        return {}
    return {
        "domains": domains.names,
        "client_domain": _owned(domains, clients),
        "test_domain": test_domain,
        "target": "" if domains.target is None else domains.names[domains.target],
    }


def _class_notes(dataset: Dataset, train: Ints, test_y: Ints, public: Public) -> list[str]:
    """Return notes of classes that the training, the test or the labelled public samples lack."""
    labels = {"training": dataset.y_train[train], "test": test_y}
    public_labels = {} if public.y is None else {"public": public.y}
    return class_notes({**labels, **public_labels}, dataset.classes)


def _digests(dataset: Dataset, split: str, rows: Ints | None) -> list[bytes]:
    """Return the digests of some training or test rows as models see them."""
    x = getattr(dataset, f"x_{split}")[rows]
    return list(row_digests(model_inputs(x, dataset.input_shape)))


def _bounds(splits: list[list[Ints]]) -> Ints:
    """Return where each client's parts begin and end when all are put in a row, ``[N, 4]``."""
    ends = np.cumsum([len(rows) for parts in splits for rows in parts]).reshape(-1, 3)
    starts = np.concatenate([[0], ends[:-1, 2]])
    return np.column_stack([starts, ends]).astype(np.int64)


def _owned(domains: Domains, clients: int) -> Ints:
    """Return the domain of each client: the sources in turn."""
    owned = np.array(domains.sources, dtype=np.int64)
    return owned[np.arange(clients) % len(owned)]


def _common_test(
    domains: Domains, dataset: Dataset, common: Ints | None, public: Ints | None
) -> tuple[Array, Array, Ints]:
    """Return inputs, labels and domains of the common test set; None for the public one."""
    if common is not None:
        return dataset.x_test[common], dataset.y_test[common], domains.test_domain[common]
    assert public is not None  # a target's public set is of its training part
    return dataset.x_train[public], dataset.y_train[public], domains.train_domain[public]


def _client_rows(
    domains: Domains, pool: Ints, spec: FederationSpec, owners: Owners | None
) -> tuple[list[list[Ints]], Array | None, list[str]]:
    """Return each client's training, validation and test rows, all class shares, and notes."""
    number = spec.number_of_clients if owners is None else len(owners.names)
    splits: list[list[Ints]] = [[] for _ in range(number)]
    shares = np.zeros((number, len(domains.classes)))
    notes = [] if owners is None else [*owners.notes]
    sources = domains.sources
    for place, d in enumerate(sources):
        name, clients = domains.names[d], range(place, number, len(sources))
        # Streams are numbered as if every domain had clients: the target changes none of them.
        streams = range(d, d + len(domains) * len(clients), len(domains))
        rows = pool[domains.train_domain[pool] == d]
        labels, seed = domains.y_train[rows], domain_seed(spec.seed, d)
        try:
            beside = _beside(domains, d, rows, spec, owners)
            splits_of_domain, remarks = _share_out(labels, streams, seed, spec, beside)
            drawn = drawn_shares(labels, spec.partition, len(clients), seed, shares.shape[1])
        except ConfigError as error:
            if len(domains) == 1:
                raise
            raise ConfigError(f"Domain {name}: {error}") from error
        for client, parts in zip(clients, splits_of_domain, strict=True):
            splits[client] = [rows[chosen] for chosen in parts]
        if drawn is not None:
            shares[clients] = drawn
        notes += remarks if len(domains) == 1 else [f"{name}: {note}" for note in remarks]
    untested = sum(len(split[2]) == 0 for split in splits)
    if untested and spec.test_fraction > 0:
        notes.append(f"{untested} of {number} clients are too small for test samples")
    return splits, shares if overlaps(spec.partition) else None, notes


def _beside(
    domains: Domains, d: int, rows: Ints, spec: FederationSpec, owners: Owners | None
) -> dict[str, Array]:
    """Return what the partition asks for beside the labels of some rows of one domain."""
    asked, dataset = asks_for(spec.partition), domains.datasets[d]
    places = rows - np.searchsorted(domains.train_domain, d)  # within the domain
    beside: dict[str, Array] = {"rows": places}
    if "domains" in asked:
        several = dataset.domain_train is not None
        column = (
            column_of(dataset).train if several else np.full(len(dataset.y_train), dataset.name)
        )
        beside["domains"] = column[places]
    if "owners" in asked and owners is not None:
        beside["owners"] = owners.rows[rows]
    elif "owners" in asked:
        _, numbers = np.unique(client_column(dataset, "train"), return_inverse=True)
        beside["owners"] = numbers[places]
    return beside


def _share_out(
    labels: Array, clients: range, seed: int, spec: FederationSpec, beside: Mapping[str, Array]
) -> tuple[list[list[Ints]], list[str]]:
    """Share one domain out among its clients: training, validation and test rows of each.

    ``clients`` are the numbers of their random streams.
    """
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
    least = spec.min_samples
    parts, notes = partition_with_notes(
        labels, spec.partition, len(clients), seed, each, least, beside
    )
    splits = []
    for client, rows in zip(clients, parts, strict=True):
        rng = numpy_rng(spec.seed, "split", 0, client)
        sizes = exact or split_sizes(len(rows), *fractions)
        splits.append([rows[chosen] for chosen in split_rows(labels[rows], sizes, rng)])
    return splits, notes
