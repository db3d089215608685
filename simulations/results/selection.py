"""Which round of a run is reported: the rules of model selection, apart from all methods.

After Gulrajani and Lopez-Paz, "In search of lost domain generalization", ICLR 2021
(arXiv:2007.01434): a result is not complete without the rule that has selected its model.
Headline figures come from the last round and from the round that the clients' own validation
data select (on their own domains, so what the paper calls training-domain validation); both
are blind to test data. The oracle looks at them, and is reported under that name only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SELECTIONS = ("last", "validation_selected", "oracle")
"""The rounds a figure may be taken from; the first is the headline."""

Row = Mapping[str, Any]
"""A line of ``rounds.jsonl``."""


def target_accuracy(row: Row) -> float | None:
    """Return the accuracy of a method on the target domain.

    Parameters
    ----------
    row : Mapping
        A line of ``rounds.jsonl``, or the figures of one round in ``summary.json``, of a
        federation whose common test set is the target's.

    Returns
    -------
    float or None
        That of the server's model if there is one, else the mean over clients of global
        accuracy, in [0, 1].
    """
    served = row.get("server_accuracy")
    return _mean(row.get("global_accuracy")) if served is None else float(served)


def last_round(rows: Sequence[Row]) -> Row | None:
    """Select the last round."""
    return rows[-1] if rows else None


def source_validation(rows: Sequence[Row]) -> Row | None:
    """Select the round with the best mean accuracy on the clients' own validation data.

    The first of equals; ``None`` without validation data.
    """
    return _best(rows, [_mean(row.get("validation_accuracy")) for row in rows])


def oracle(rows: Sequence[Row], target: bool = False) -> Row | None:
    """Select the round that is best on *test* data: an upper bound, no result.

    Parameters
    ----------
    rows : Sequence[Mapping]
        All rounds.
    target : bool
        Whether the federation has a target domain: the best by target accuracy, else by
        personalised accuracy. The first of equals.
    """
    by_test = target_accuracy if target else _personalised
    return _best(rows, [by_test(row) for row in rows])


def _personalised(row: Row) -> float | None:
    return _mean(row.get("personalised_accuracy"))


def _best(rows: Sequence[Row], values: Sequence[float | None]) -> Row | None:
    known = [(value, row) for value, row in zip(values, rows, strict=True) if value is not None]
    return max(known, key=lambda pair: pair[0])[1] if known else None


def _mean(value: Any) -> float | None:
    """Return a figure that is given as such or with its spread over clients."""
    found = value.get("mean") if isinstance(value, Mapping) else value
    return None if found is None else float(found)
