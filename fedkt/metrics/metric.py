"""The base of metrics, and metrics by name."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

from torch import Tensor

from fedkt import registry
from fedkt.calls import made, read_call
from fedkt.errors import ConfigError

Compute = Callable[[Tensor, Tensor, Tensor], float | Tensor | None]

TAKEN = ("accuracy",)  # measured in any case


class Metric(ABC):
    """A figure of a client's answers for some labelled samples.

    A metric is a registered frozen dataclass whose fields are its options, or a registered function
    of the same three arguments; the facts are class variables, or attributes of the function.

    Attributes
    ----------
    title : str
        The heading, in words that follow "Personalised"; by default the name.
    unit : {"%", ""}
        How values are shown: ``"%"`` for hundredfold, or as they are.
    better : {"higher", "lower", ""}
        Which values are the good ones; empty if neither are.
    bounds : tuple[float, float]
        The least and the most that it can be; the server refuses other values.
    short : str
        Instead of the title in narrow tables.
    axes : tuple[str, ...]
        The axes of a metric that is a table, at most two: ``("class",)`` or ``("label",
        "prediction")``, each with a place for every class. Clients measure it after the last
        round, not on validation data. Empty for a number.
    """

    part: ClassVar[str] = "metrics"
    title: ClassVar[str] = ""
    unit: ClassVar[Literal["%", ""]] = ""
    better: ClassVar[Literal["higher", "lower", ""]] = "higher"
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    short: ClassVar[str] = ""
    axes: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor) -> float | Tensor | None:
        """Return the figure; None where it is not defined.

        A table is a tensor ``[C]`` or ``[C, C]``, NaN where an entry is not defined.

        Parameters
        ----------
        logits : Tensor
            float32 ``[n, C]``, finite, n > 0. Those of learners that give probabilities are their
            logarithms.
        labels : Tensor
            int64 ``[n]``.
        weight : Tensor
            float64 ``[n]``, positive, with a mean of 1: all ones, or, for ``personalised =
            "matched"``, such that the samples stand for the client's distribution of classes.
        """


@dataclass(frozen=True)
class Facts:
    """The facts about a metric; see :class:`Metric`. ``summary.json`` has them.

    Parameters
    ----------
    name : str
        The registered name, without the file of a user's metric.
    title, short, unit, better : str
        As of :class:`Metric`.
    low, high : float, optional
        The bounds; None for none.
    definition : str
        The first line of the docstring.
    axes : tuple[str, ...]
        As of :class:`Metric`.
    """

    name: str
    title: str
    short: str
    unit: str
    better: Literal["higher", "lower", ""]
    low: float | None
    high: float | None
    definition: str
    axes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", tuple(self.axes))  # of JSON: a list

    def stands_on(self, samples: str) -> bool:
        """Return whether clients measure it on ``personalised``, ``global`` or ``validation``."""
        return not self.axes or samples != "validation"

    def shape(self, num_classes: int) -> tuple[int, ...]:
        """Return the shape of its values; () for a number."""
        return (num_classes,) * len(self.axes)

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the most that the metric can be."""
        low, high = self.low, self.high
        return -math.inf if low is None else low, math.inf if high is None else high


@dataclass(frozen=True)
class Measured:
    """A metric as a configuration names it.

    Parameters
    ----------
    wire : str
        The text by which the other side finds it.
    compute : callable
        The metric.
    facts : Facts
        Its facts.
    """

    wire: str
    compute: Compute
    facts: Facts


def metric_of(reference: str, files: bool = False) -> Measured:
    """Return the metric that a text stands for.

    Parameters
    ----------
    reference : str
        ``macro-f1``, ``expected-calibration-error(bins=10)`` or ``path/to/file.py:Kappa``.
    files : bool
        Whether files may be named; never in what came over the wire.

    Raises
    ------
    ConfigError
        If there is no such metric or option, it is not registered, or its facts make no sense.
    """
    name, _ = read_call(reference)
    part = registry.lookup("metrics", name, files)
    compute: Compute = made("metrics", reference, files) if inspect.isclass(part) else part
    options = reference.strip().removeprefix(name).strip()
    if compute is part and (options or not callable(part)):
        raise ConfigError(f"metric {name} is a function and has no options, not {options}.")
    if registry.name_in("metrics", part) is None:
        raise ConfigError(f'metric {name} is not registered: write @register(part="metrics").')
    wire = registry.registered_name("metrics", part)
    return Measured(wire + options, compute, _facts(wire.rpartition(":")[2], part))


def metrics_of(references: Iterable[str], files: bool = False) -> Sequence[Measured]:
    """Return the metrics that several texts stand for; see :func:`metric_of`.

    Raises
    ------
    ConfigError
        If two have one name, which their figures would share.
    """
    return _metrics(tuple(references), files, registry.version())


@lru_cache(maxsize=16)
def _metrics(references: Sequence[str], files: bool, version: int) -> Sequence[Measured]:
    """Return metrics; ``version`` of the registry belongs to the key of the cache."""
    metrics = tuple(metric_of(reference, files) for reference in references)
    names = [*TAKEN, *(metric.facts.name for metric in metrics)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"metrics: {twice!r} is there twice, and its figures have one name.")
    return metrics


def wire_metrics(references: Iterable[str]) -> tuple[str, ...]:
    """Return the texts by which the other side finds metrics; files are loaded."""
    return tuple(metric.wire for metric in metrics_of(references, files=True))


def _facts(name: str, part: Any) -> Facts:
    """Return the facts on a metric's class or function, defaults filled in."""
    facts = {key: getattr(part, key, getattr(Metric, key)) for key in _FACTS}
    low, high = facts["bounds"]
    if facts["unit"] not in ("%", "") or facts["better"] not in ("higher", "lower", ""):
        raise ConfigError(f'metric {name}: unit is "%" or "", better "higher", "lower" or "".')
    if not low < high:
        raise ConfigError(f"metric {name}: bounds are the least and the most, not {low}, {high}.")
    axes = facts["axes"]
    if isinstance(axes, str) or len(set(axes)) != len(axes) or len(axes) > 2:
        raise ConfigError(f'metric {name}: axes are at most two names, ("class",), not {axes!r}.')
    title = facts["title"] or name.replace("-", " ")
    return Facts(
        name=name,
        title=title,
        short=facts["short"] or title,
        unit=facts["unit"],
        better=facts["better"],
        low=float(low) if math.isfinite(low) else None,
        high=float(high) if math.isfinite(high) else None,
        axes=tuple(map(str, axes)),
        definition=(inspect.getdoc(part) or "").partition("\n")[0],
    )


_FACTS = ("title", "short", "unit", "better", "bounds", "axes")
