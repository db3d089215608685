"""Tables that go together: read by themselves, brought to one encoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedkt.data.dataset import D, Dataset, with_inputs
from fedkt.data.encoding import Encoding, aligned, column_names, joint


def in_one_encoding(datasets: Sequence[Dataset]) -> list[Dataset]:
    """Return data sets in one encoding, that of all their categories; others as they are.

    Raises
    ------
    ConfigError
        If two tables have other columns, or a column is a number in one and text in another.
    """
    if not all(dataset.encoding for dataset in datasets):
        return list(datasets)
    wanted = joint([dataset.encoding for dataset in datasets])
    return [in_encoding(dataset, wanted) for dataset in datasets]


def in_encoding(dataset: D, wanted: Encoding) -> D:
    """Return a table in the encoding of another one; what is no table as it is.

    Raises
    ------
    ConfigError
        If a column is not there, or of another kind.
    """
    if not (wanted and dataset.encoding) or dataset.encoding == wanted:
        return dataset
    current = dataset.encoding
    changed = replace(dataset, columns=(), encoding={})
    changed = with_inputs(changed, lambda x: aligned(x, current, wanted, dataset.name))
    return replace(changed, columns=column_names(wanted), encoding=wanted)
