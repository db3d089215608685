"""The objective of a training step: the terms that are ready, their samples, and their sum.

Both executors use it, so that a step means the same in the loop and in a cohort.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedkt.clients.learners.base import Work
from fedkt.data.samples import Samples
from fedkt.errors import ConfigError, FedktError, KnowledgeError
from fedkt.knowledge import SAMPLE_KINDS, Knowledge, knowledge_in
from fedkt.objectives.term import Batch, Outputs, Term, Transform
from fedkt.recipe import Train, Weighted, weighted
from fedkt.registry import name_of
from fedkt.schedules import Schedule, at, is_scheduled, settled
from fedkt.text import raised
from fedkt.training import Trained, TrainingOptions

Terms = list[tuple[float, Term]]  # with their factors

FORGOTTEN = (
    "; outputs.features and outputs.beside are there for terms with needs_features = True and "
    "needs_beside = True"
)
UNREAD = "; the knowledge that a term reads must be in its needs()"


@dataclass(frozen=True)
class Timed:
    """A term with a factor, of which a schedule is a part: a term that follows the progress.

    What else is asked of it, the term itself answers.
    """

    factor: float | Schedule
    term: Term
    part: ClassVar[str] = "objectives"

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the factor times the loss, both at the progress of the batch."""
        factor, term = at((self.factor, self.term), batch.progress)
        loss = _scalar(term, explained(term, outputs, batch, knowledge))
        return _times(settled(factor), loss)

    def needs(self) -> tuple[str, ...]:
        """Return the names of the fused knowledge the term reads."""
        return self.term.needs()

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "term"), name)


@dataclass(frozen=True)
class Objective:
    """The terms that one client minimises in a step, and their samples.

    Parameters
    ----------
    terms : Terms
        Terms on the samples of the step.
    samples : Samples
        The samples, at least one; of public data only those that the knowledge has rows for.
    rehearse : Terms
        Terms on private batches beside them.
    transforms : Sequence[Transform]
        Transforms of the inputs.
    """

    terms: Terms
    samples: Samples
    rehearse: Terms
    transforms: Sequence[Transform]

    @classmethod
    def of(cls, step: Train, work: Work, beside: bool = False) -> Objective | None:
        """Return the objective of a client's step; None if the step has nothing to do.

        Terms and transforms whose knowledge has not arrived yet (the first round) are left out.

        Parameters
        ----------
        step : Train
            The step.
        work : Work
            The client's data and knowledge.
        beside : bool
            Whether there are samples beside the batches, which some terms need.
        """
        terms = _ready(step.terms, work, beside)
        samples = _samples(step, work, terms)
        if not terms or samples is None or not len(samples) or step.is_idle:
            return None
        rehearse = _ready(step.rehearse, work) if len(work.data.train) else []
        transforms = [t for t in step.transforms if _has(work, t.needs())]
        return cls(terms, samples, rehearse, transforms)

    @property
    def needs(self) -> list[str]:
        """The names of the knowledge that the terms read, in alphabetical order."""
        return sorted({name for _, t in (*self.terms, *self.rehearse) for name in t.needs()})


def learning_rate(step: Train, options: TrainingOptions, progress: float) -> float:
    """Return the learning rate of a step at a point of the run."""
    return options.learning_rate * settled(at(step.rate, progress))


def extent(step: Train, work: Work, sizes: Sequence[int]) -> Trained:
    """Return what a training has done in batches of some sizes, those of all its epochs."""
    total = len(sizes)
    if not is_scheduled(step.rate):
        return Trained(total, sum(sizes), total * learning_rate(step, work.options, 0.0))
    moments = (work.progress(number / total) for number in range(total))
    rates = math.fsum(learning_rate(step, work.options, moment) for moment in moments)
    return Trained(total, sum(sizes), rates)


def sum_of(
    terms: Terms,
    outputs: Outputs,
    batch: Batch,
    knowledge: Mapping[str, Knowledge],
    call: Callable[..., Tensor] = lambda term, *inputs: term(*inputs),
) -> Tensor:
    """Return the weighted sum of the terms, a scalar; ``call`` computes the loss of a term."""
    losses = [_times(f, _scalar(term, call(term, outputs, batch, knowledge))) for f, term in terms]
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def explained(
    term: Term, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
) -> Any:
    """Return the loss of a term.

    Raises
    ------
    ConfigError
        If the term fails; the message names the term and a likely cause.
    """
    try:
        return term(outputs, batch, knowledge)
    except FedktError:
        raise
    except Exception as error:  # a user's code may raise anything
        absent = "NoneType" in str(error)
        hint = FORGOTTEN if absent else UNREAD if isinstance(error, KeyError) else ""
        raise ConfigError(f"term {name_of(type(term))} raised {raised(error)}{hint}") from error


def _ready(terms: Sequence[Term | Weighted], work: Work, beside: bool = False) -> Terms:
    """Return the (factor, term) pairs whose knowledge and samples beside are available."""
    ready = [
        (1.0, Timed(f, t)) if is_scheduled(f) or is_scheduled(t) else (settled(f), t)
        for f, t in weighted(terms)
        if _has(work, t.needs()) and (beside or not getattr(t, "needs_beside", False))
    ]
    read: dict[str, Any] = {n: work.knowledge[n] for _, term in ready for n in term.needs()}
    known = knowledge_in(read)
    for name, value in read.items():
        if name not in known:  # of the client's own
            what = type(value).__name__
            raise KnowledgeError(f"a term reads {name!r}, which is kept as {what}, not Knowledge")
    return ready


def _has(work: Work, names: Iterable[str]) -> bool:
    """Return whether all the named knowledge has arrived, or is kept."""
    return all(name in work.knowledge for name in names)


def _samples(step: Train, work: Work, terms: Terms) -> Samples | None:
    """Return the data of a step; None without public data to train on or to keep pace with."""
    public = work.data.public
    if step.on == "private":
        return work.data.train if step.pace is None or public else None
    for ids in _ids_read(terms, work.knowledge):
        public = None if public is None else public.at_ids(ids)
    return public


def _ids_read(terms: Terms, knowledge: Mapping[str, Knowledge]) -> Iterator[Tensor]:
    """Yield the sample ids of each knowledge that the terms read, if it has any."""
    for name in dict.fromkeys(n for _, t in terms for n in t.needs()):
        ids = knowledge[name].ids
        if knowledge[name].kind in SAMPLE_KINDS and ids is not None:
            yield ids


def scalar(loss: object, says: Callable[[], str]) -> Tensor:
    """Return a loss; refuse what is no scalar tensor, in a line that begins with what it should be.

    Parameters
    ----------
    loss : object
        Whatever a user's function returned.
    says : callable
        Returns the beginning of the line, which is needed for a mistake only.
    """
    if isinstance(loss, Tensor) and not loss.dim():
        return loss
    what = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise ConfigError(f"{says()}, not {what}")


def _scalar(term: Term, loss: object) -> Tensor:
    return scalar(
        loss,
        lambda: (
            f"term {name_of(type(term))} must return a scalar tensor, the mean over the batch "
            "(fedkt.objectives.weighted_mean)"
        ),
    )


def _times(factor: float, loss: Tensor) -> Tensor:
    return loss if factor == 1 else factor * loss
