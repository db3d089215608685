"""The rules of model selection: which round of a run is reported, whatever the method.

After Gulrajani and Lopez-Paz, "In search of lost domain generalization", ICLR 2021
(arXiv:2007.01434): a result is not complete without the rule that has selected its model.
Headline figures come from the last round and from the round that the clients' own validation
data select (on their own domains, so what the paper calls training-domain validation); both
are blind to test data. The oracle uses test data, and is reported under that name only.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedkt.evaluation.figure import Figure, Row, value_of
from fedkt.evaluation.figures import PERSONALISED, VALIDATION, target_accuracy

SELECTIONS = ("last", "validation_selected", "oracle")
"""The rounds a figure may be taken from; the first is the headline."""


def last_round(rows: Sequence[Row]) -> Row | None:
    """Return the last round."""
    return rows[-1] if rows else None


def source_validation(rows: Sequence[Row], figure: Figure = VALIDATION) -> Row | None:
    """Return the round that is best on the clients' own validation data.

    Parameters
    ----------
    rows : Sequence[Mapping]
        All rounds.
    figure : Figure
        The mean over clients to go by: accuracy, or a metric of the run; see `validation_of`.
        The first of equals; ``None`` where no round has it.
    """
    sign = -1 if figure.better == "lower" else 1
    values = (value_of(row, figure.name) for row in rows)
    return _best(rows, [None if value is None else sign * value for value in values])


def oracle(rows: Sequence[Row], target: bool = False) -> Row | None:
    """Return the round that is best on *test* data: an upper bound, no result.

    Parameters
    ----------
    rows : Sequence[Mapping]
        All rounds.
    target : bool
        Whether the federation has a target domain: the best by target accuracy, else by
        personalised accuracy. The first of equals.
    """
    return _best(
        rows,
        [target_accuracy(row) if target else value_of(row, PERSONALISED.name) for row in rows],
    )


def _best(rows: Sequence[Row], values: Sequence[float | None]) -> Row | None:
    measured = [(value, row) for value, row in zip(values, rows, strict=True) if value is not None]
    return max(measured, key=lambda pair: pair[0])[1] if measured else None
