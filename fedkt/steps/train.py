"""The base of all steps of a recipe, and the step that trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from fedkt import about, registry
from fedkt.about import Model
from fedkt.data.samples import ClientData, Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.objectives.term import Term, Transform
from fedkt.options import AtLeastOne, Count, Factor, checked
from fedkt.registry import register
from fedkt.schedules import Schedule
from fedkt.shares.share import Question, Share, ShareWork
from fedkt.training import TrainingOptions

Data = Literal["private", "public"]


@checked
@dataclass(frozen=True)
class Weighted:
    """A term with a factor: ``Weighted(0.5, CrossEntropy())``; below 0 the term is maximised.

    The factor may be a schedule: ``Weighted(Cosine(), MMD())``.
    """

    factor: float | Schedule
    term: Term


def weighted(terms: Iterable[Term | Weighted]) -> list[tuple[float | Schedule, Term]]:
    """Return (factor, term) pairs."""
    return [(t.factor, t.term) if isinstance(t, Weighted) else (1.0, t) for t in terms]


@checked
@dataclass(frozen=True)
class Beside:
    """Samples drawn beside every private batch, which alignment terms compare it with.

    Terms find the model's outputs on them in ``outputs.beside``, and their labels, if they have
    any, in ``batch.beside_y``.

    Parameters
    ----------
    source : str
        ``"public"``: public samples, which go through the model as the batch does, labelled if the
        public set is. Else the name of knowledge, fused or kept: rows of its ``features``; class
        prototypes, each labelled by its class; ``statistics`` called ``features [n, d]`` and
        ``labels [n]``, rows of both; or ``statistics`` called ``mean`` and ``variance``, features
        drawn from that normal distribution.
    batch_size : int
        Samples in a batch; fewer where there are fewer.
    """

    source: str = "public"
    batch_size: AtLeastOne = 128


class Trainee(Model, Protocol):
    """A client's model as steps see it; see ``fedkt.clients.Learner``."""

    def train(self, step: Train, work: Any, stream: str) -> float | None:
        """Train by a step; return the mean loss of the last epoch, if there is one."""
        ...

    def reset(self, seed: int, client: int) -> None:
        """Become an untrained model; ``load_state`` brings the client's own back."""
        ...


class StepWork(ShareWork, Protocol):
    """A step's work at the client; see ``fedkt.clients.Work``."""

    def of_another(
        self, train: Samples, knowledge: Mapping[str, Knowledge] | None = None
    ) -> StepWork:
        """Return the work of another model at the client, such as a teacher.

        Parameters
        ----------
        train : Samples
            The private samples that it trains on; may be empty.
        knowledge : Mapping[str, Knowledge], optional
            More knowledge, by name.

        Returns
        -------
        StepWork
            With the same public samples, options and names of streams. What is kept by it, and the
            extent of its trainings, is not the client's.
        """
        ...


class Step(ABC):
    """Base of all steps, which are registered frozen dataclasses.

    Attributes
    ----------
    group : str
        ``"architecture"``: what it tells in the greeting is equal among clients of one
        architecture; else among all clients.
    one_architecture : bool
        Whether all clients must have one architecture, which its ``about`` then tells.
    uses_public : bool
        Whether it needs the public set.
    """

    part: ClassVar[str] = "steps"
    group: str = ""

    @property
    def one_architecture(self) -> bool:
        """Whether all clients must have one architecture."""
        return False

    @property
    def uses_public(self) -> bool:
        """Whether the step needs the public set."""
        return False

    def needs(self) -> tuple[str, ...]:
        """Return the names of the knowledge, fused or kept, that the step reads."""
        return ()

    def makes(self) -> tuple[Share, ...]:
        """Return the shares by which the step makes knowledge that the client keeps."""
        return ()

    def keeps(self) -> tuple[str, ...]:
        """Return the names of what the client keeps by it (``work.keep``)."""
        return tuple(name for share in self.makes() for name in (share.name, *share.keeps()))

    def questions(self, work: StepWork) -> Sequence[Question]:
        """Return the inputs that the model is asked about, which a cohort may answer at once."""
        return ()

    def loads(self) -> tuple[str, ...]:
        """Return the names of the weights that the step puts into the model.

        Where a share has such a name, the share tells what clients must agree on.
        """
        return ()

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return texts that must be equal among clients, told in the greeting; see ``Share``."""
        return {}

    def refuses(self, model: Model, shares: Mapping[str, Share]) -> str | None:
        """Return why a model cannot take the step, in one line; None if it can.

        Parameters
        ----------
        model : Model
            The model, which may be untrained.
        shares : Mapping[str, Share]
            What the recipe shares or keeps, by name.
        """
        return None

    @abstractmethod
    def run(self, learner: Trainee, work: StepWork, stream: str) -> float | None:
        """Take the step; return its loss if it has one.

        Parameters
        ----------
        learner : Trainee
            The client's model.
        work : StepWork
            The knowledge and data at the client.
        stream : str
            The name of the step's random stream.
        """

    def as_train(self) -> Train | None:
        """Return the training that the step is, which cohorts run; None if it is none.

        A step that does more than that is found in the trial before a run, and left to the loop.
        Training alone gets the budget of this training.
        """
        return None

    def budget(self, private: int, public: int, sizes: TrainingOptions) -> int:
        """Return how many private samples it trains on in a round, with repetitions.

        Training alone with the same budget is what every method is compared with.

        Parameters
        ----------
        private, public : int
            The client's training samples, and the public samples.
        sizes : TrainingOptions
            The sizes of batches where a step does not say them.
        """
        return 0


@register(name="train")
@dataclass(frozen=True)
class Train(Step):
    """A step that trains the model on a sum of terms.

    Parameters
    ----------
    on : {"private", "public"}
        The data to draw batches from. On ``"public"``, when a term distils fused
        knowledge, only the samples which that knowledge speaks about.
    terms : Sequence[Term or Weighted]
        The loss is their sum.
    epochs : int
        Passes over the data, at least 0.
    batch_size : int, optional
        ``None`` takes the experiment's for this kind of data.
    rehearse : Sequence[Term or Weighted]
        On ``"public"``: terms on a private batch drawn beside every public one, so that
        the client does not forget its own data while it distils.
    samples : int
        An epoch sees at most this many samples, drawn anew (on ``"public"`` the same for all
        clients of a round); 0 = all.
    rate : float
        Multiplies the experiment's learning rate. A factor on the loss has another effect
        under Adam, whose steps do not depend on the loss's scale. A schedule changes the learning
        rate during the run.
    beside : Beside, optional
        On ``"private"``: what alignment terms compare every batch with.
    transforms : Sequence
        Registered objects that change a private batch's inputs before the model sees it,
        ``transform(x, knowledge) -> x`` with ``needs()`` as terms have; random ones draw from
        torch's global generator, which the executor sets.
    mixup : float
        α ≥ 0. Above 0 every batch x is mixed with itself in another order π,
        λ x + (1 - λ) π(x) with one λ ~ Beta(α, α) a batch, and the loss is λ times that for
        the samples themselves plus 1 - λ times that for their partners (Zhang et al. 2018,
        arXiv:1710.09412): mixed targets, for every term that is linear in them. Batches of
        ``rehearse`` and ``beside`` stay as they are.
    pace : {"public"}, optional
        On ``"private"``: an epoch has as many batches as one on public data would (of which
        ``batch_size`` and ``samples`` then speak), and they are drawn as those of a rehearsal.
    only : str
        The part of the model or its heads that is trained, as in ``Weights(of=...)``: ``"@head"``,
        ``"@body"`` or the beginning of names; empty: all. Other parameters get no gradient and keep
        their values and moments; running statistics move all the same.
    least_steps : int
        The step takes at least so many batches: where the data are small, more passes than
        ``epochs``, the last of which may be cut. With no epochs it takes just as many.
    """

    on: Data
    terms: Sequence[Term | Weighted]
    epochs: Count = 1
    batch_size: AtLeastOne | None = None
    rehearse: Sequence[Term | Weighted] = ()
    samples: Count = 0
    rate: Factor | Schedule = 1.0
    beside: Beside | None = None
    transforms: Sequence[Transform] = ()
    mixup: Factor = 0.0
    pace: Literal["public"] | None = None
    only: str = ""
    least_steps: Count = 0

    def __post_init__(self) -> None:
        for option in ("terms", "rehearse", "transforms"):
            object.__setattr__(self, option, listed("Train", option, getattr(self, option)))
            for _, term in weighted(getattr(self, option)):
                _check_term(option, term)
        if self.rehearse and self.on != "public":
            raise ConfigError("Only a step on public data can rehearse private data.")
        if (self.beside or self.transforms) and self.on != "private":
            raise ConfigError("Only a step on private data has samples beside it or transforms.")
        if self.pace and self.on != "private":
            raise ConfigError("Only a step on private data has a pace.")
        if not self.terms:
            raise ConfigError("Train needs at least one term.")

    def needs(self) -> tuple[str, ...]:
        """Return the names of the fused knowledge that the terms read."""
        names = [n for _, t in weighted((*self.terms, *self.rehearse)) for n in t.needs()]
        names += [name for transform in self.transforms for name in transform.needs()]
        if self.beside and self.beside.source != "public":
            names.append(self.beside.source)
        return unique(names)

    @property
    def uses_public(self) -> bool:
        """Whether the step trains on public samples or beside them."""
        return self.on == "public" or (self.beside is not None and self.beside.source == "public")

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return the public set where the step uses it."""
        return about.of_public(data) if self.uses_public else {}

    def run(self, learner: Trainee, work: StepWork, stream: str) -> float | None:
        """Train the learner."""
        return learner.train(self, work, stream)

    def as_train(self) -> Train:
        """Return the step itself."""
        return self

    def budget(self, private: int, public: int, sizes: TrainingOptions) -> int:
        """Return how many private samples it trains on in a round, rehearsal included."""
        if self.on == "private" and self.pace is None:
            return self.rows(private, self.batch_size or sizes.batch_size)
        if not private or (self.on == "public" and not self.rehearse):
            return 0
        # Private batches at the pace of public ones, pass after pass over the private samples.
        batches = sum(self.passes(public, self.batch_size or sizes.public_batch_size))
        passes, rest = divmod(batches, -(-private // sizes.batch_size))
        return passes * private + rest * sizes.batch_size

    @property
    def is_idle(self) -> bool:
        """Whether the step trains nothing, on whatever data."""
        return not (self.epochs or self.least_steps)

    def passes(self, total: int, size: int) -> tuple[int, ...]:
        """Return how many batches each pass over the data has.

        All passes are equal but the last, which ``least_steps`` may cut.

        Parameters
        ----------
        total : int
            Samples of the data, of which a pass sees no more than ``samples``.
        size : int
            Samples in a batch.
        """
        whole = -(-min(self.samples or total, total) // size)
        if not whole or self.epochs * whole >= self.least_steps:
            return (whole,) * self.epochs
        passes, rest = divmod(self.least_steps, whole)
        return (whole,) * passes + (rest,) * (rest > 0)

    def rows(self, total: int, size: int) -> int:
        """Return how many samples all passes see, with repetitions; see ``passes``."""
        whole = min(self.samples or total, total)
        return sum(min(count * size, whole) for count in self.passes(total, size))


def trainings(steps: Iterable[Step]) -> list[Train]:
    """Return the trainings among steps, in order."""
    return [training for step in steps if (training := step.as_train()) is not None]


def listed(of: str, option: str, held: Any, kinds: tuple[type[Any], ...] = ()) -> tuple[Any, ...]:
    """Return a list as a tuple; refuse other values, and items of other kinds."""
    words = f" of {', '.join(k.__name__ for k in kinds)}" if kinds else ""
    if isinstance(held, str) or not isinstance(held, Iterable):
        raise ConfigError(f"{of}: {option} must be a list{words}, not {held!r}.")
    items = tuple(held)
    for item in items:
        if kinds and not isinstance(item, kinds):
            raise ConfigError(f"{of}: {option} must be a list{words}; it holds {item!r}.")
    return items


def _check_term(option: str, term: Any) -> None:
    """Refuse values that are no term or transform, and those without usable ``needs``."""
    if isinstance(term, type) or not hasattr(term, "needs"):
        raise ConfigError(f"Train: {option} holds {term!r}; write terms such as CrossEntropy().")
    names = term.needs()
    if not isinstance(names, tuple | list) or not all(isinstance(n, str) for n in names):
        raise ConfigError(
            f"{registry.name_of(type(term))}: needs() must return a tuple of names, such as "
            f"('public',), not {names!r}."
        )


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Return names once each, in order."""
    return tuple(dict.fromkeys(names))
