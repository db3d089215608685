"""The rounds of runs as a tidy pandas frame: one number a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkt.errors import ConfigError, unknown
from fedkt.evaluation.figure import at
from fedkt.evaluation.figures import TARGET, table
from fedkt.metrics import Facts
from fedkt.simulations.results.run_folder import Run

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("strategy", "seed", "round", "client", "metric", "value")

Line = tuple[str, int, int, int | None, str, float]


def frame_of(runs: Iterable[Run]) -> pd.DataFrame:
    """Return every figure of every round as a tidy frame.

    Parameters
    ----------
    runs : Iterable[Run]
        Of one comparison, or a single one.

    Returns
    -------
    pandas.DataFrame
        Columns ``strategy`` (label), ``seed``, ``round``, ``client`` (missing for a figure of the
        whole run), ``metric`` (the name of a figure) and ``value``: accuracies and their
        like as shares in [0, 1], bytes per client and round. A client that was not measured in a
        round has no line.
    """
    import pandas as pd

    lines = [line for run in runs for line in _lines(run)]
    frame = pd.DataFrame(lines, columns=list(COLUMNS))
    return frame.astype({"client": "Int64", "value": "float64"})


def class_frame(run: Run, metric: str, on: str) -> pd.DataFrame:
    """Return a metric that is a table over the classes as a tidy frame; see `per_class`."""
    import pandas as pd

    facts = {m["name"]: Facts(**m) for m in run.summary.get("metrics", ())}
    tables = {name: about for name, about in facts.items() if about.axes}
    if metric not in tables:
        raise unknown("table of this run", metric, tables)
    by_client = run.tables(f"{on}_{metric.replace('-', '_')}")
    if not by_client:
        raise ConfigError(f"{metric} was not measured on {on!r}: personalised or global.")
    lines = []
    for client, values in enumerate(by_client):
        values = np.array([] if values is None else values, dtype=float)
        names = run.federation.get("classes") or list(range(len(values)))
        for place in np.argwhere(~np.isnan(values)):
            lines.append([client, *(names[i] for i in place), values[tuple(place)]])
    return pd.DataFrame(lines, columns=["client", *tables[metric].axes, "value"])


def _lines(run: Run) -> Iterator[Line]:
    figures = [f for f in table() if f is not TARGET or run.federation.get("target")]
    for row in run.rounds:
        for figure in figures:
            value = figure.derived(row) if figure.derived else at(row, figure.name)
            for client, number in _values(value):
                yield run.label, run.seed, int(row["round"]), client, figure.name, number


def _values(value: Any) -> Iterator[tuple[int | None, float]]:
    """Yield client and number of a figure: one a client, or one without a client."""
    if isinstance(value, Mapping):
        each: Sequence[float | None] = value.get("per_client") or ()
        yield from ((i, float(number)) for i, number in enumerate(each) if number is not None)
    elif value is not None:
        yield None, float(value)
