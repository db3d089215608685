"""Recipes: what the clients of a method do, as plain data.

A recipe is four short lists of steps. ``start`` runs once, before a client's first
round; then every round ``learn`` (private data) → ``share`` (what is uploaded) → the
server fuses → ``absorb`` (what came back). A phase without steps sends no message.
Recipes travel to the clients as JSON, so a step or term holds only numbers, strings
and other steps or registered terms.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast, get_args

from fedkt import registry
from fedkt.errors import ConfigError
from fedkt.objectives.base import Term, Transform
from fedkt.objectives.heads import Head
from fedkt.options import AtLeastOne, Count, Factor, checked
from fedkt.shares import Form, Gate, Predict, Share, Styles, Validation, Weights

__all__ = [
    "Beside",
    "Data",
    "Form",
    "Gate",
    "Load",
    "Predict",
    "ReadOut",
    "Recipe",
    "Share",
    "Step",
    "Styles",
    "Train",
    "Validation",
    "Weighted",
    "Weights",
    "weighted",
]

Data = Literal["private", "public"]
ReadOut = Literal["raw", "prior", "mix", "gate"]


@checked
@dataclass(frozen=True)
class Weighted:
    """A term with a factor: ``Weighted(0.5, CrossEntropy())``; below 0 the term is maximised."""

    factor: float
    term: Term


def weighted(terms: Iterable[Term | Weighted]) -> list[tuple[float, Term]]:
    """Return (factor, term) pairs."""
    return [(t.factor, t.term) if isinstance(t, Weighted) else (1.0, t) for t in terms]


@checked
@dataclass(frozen=True)
class Beside:
    """Samples drawn beside every private batch, which alignment terms compare it with.

    Terms find what they gave in ``outputs.beside``.

    Parameters
    ----------
    source : str
        ``"public"``: public samples, which go through the model as the batch does. Else the
        name of fused knowledge: rows of its ``features``, or, if it holds ``statistics``
        called ``mean`` and ``variance``, features drawn from that normal distribution.
    batch_size : int
        How many at a time; fewer where there are fewer.
    """

    source: str = "public"
    batch_size: AtLeastOne = 128


@checked
@dataclass(frozen=True)
class Train:
    """Train the model on a sum of terms.

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
        Multiplies the experiment's learning rate. A factor on the loss is something else
        under Adam, whose steps do not depend on the loss's scale.
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
    """

    on: Data
    terms: Sequence[Term | Weighted]
    epochs: Count = 1
    batch_size: AtLeastOne | None = None
    rehearse: Sequence[Term | Weighted] = ()
    samples: Count = 0
    rate: Factor = 1.0
    beside: Beside | None = None
    transforms: Sequence[Transform] = ()
    mixup: Factor = 0.0
    pace: Literal["public"] | None = None
    step: ClassVar[str] = "train"

    def __post_init__(self) -> None:
        for option in ("terms", "rehearse", "transforms"):
            object.__setattr__(self, option, _listed("Train", option, getattr(self, option)))
            for part in getattr(self, option):
                _check_part(option, part.term if isinstance(part, Weighted) else part)
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
        return _unique(names)

    @property
    def uses_public(self) -> bool:
        """Whether it trains on public samples or beside them."""
        return self.on == "public" or (self.beside is not None and self.beside.source == "public")


@checked
@dataclass(frozen=True)
class Load:
    """Replace the model's weights by fused ones; the optimiser's state starts anew."""

    source: str = "weights"
    step: ClassVar[str] = "load"

    def needs(self) -> tuple[str, ...]:
        """Return the name of the weights."""
        return (self.source,)


Step = Train | Load


@checked
@dataclass(frozen=True)
class Recipe:
    """What the clients of a method do.

    Parameters
    ----------
    learn : Sequence[Train or Load]
        Before sharing.
    share : Sequence[Predict, Weights, Gate, Styles or Validation]
        What is uploaded (``fedkt.shares``); share names are unique.
    absorb : Sequence[Train or Load]
        After the fused knowledge came back, in the same round.
    start : Sequence[Train or Load]
        Once, before a client's first ``learn``.
    heads : Sequence[Head]
        Small networks on the features that only the terms use.
    given : Sequence[str]
        Names of knowledge that nobody shares: the server makes it itself.
    readout : {"raw", "prior", "mix", "gate"}
        How a client answers for itself (personalised accuracy); for the world it always
        answers with its logits z. ``raw``: z. ``prior``: z + log π, with its own class
        prior π (Bayes' rule for label shift). ``mix``: the mean of two log-posteriors
        z + log π, of the model as it is and of a copy trained once more on private data.
        ``gate``: the best of 75 weightings of these parts by the client's validation samples
        and the federation's (``fedkt.readouts.choose``); needs a :class:`Gate` share and an
        absorb phase. In the first round, and without validation samples, it is ``prior``.
    """

    learn: Sequence[Step] = field(default_factory=tuple)
    share: Sequence[Share] = field(default_factory=tuple)
    absorb: Sequence[Step] = field(default_factory=tuple)
    start: Sequence[Step] = field(default_factory=tuple)
    heads: Sequence[Head] = ()
    given: Sequence[str] = ()
    readout: ReadOut = "raw"

    def __post_init__(self) -> None:
        for phase, kinds in _HELD.items():
            held = _listed("Recipe", phase, getattr(self, phase), kinds)
            object.__setattr__(self, phase, held)
        names = [s.name for s in self.share] + list(self.given)
        gates = sum(isinstance(s, Gate) for s in self.share)
        if gates != (self.readout == "gate") or (gates and not self.absorb):
            raise ConfigError(
                "Readout 'gate' and a Gate share go together, once, and with an absorb phase."
            )
        if len(set(names)) != len(names):
            raise ConfigError(f"Two pieces of knowledge have one name: {', '.join(names)}.")
        for name in self.needs("start") + self.needs("learn") + self.needs("absorb"):
            if name not in names:
                raise ConfigError(
                    f"The recipe reads knowledge {name!r} but shares {', '.join(names) or 'none'}."
                )
        for share in self.share:
            if isinstance(share, Validation) and Load(share.source) not in self.learn:
                raise ConfigError(f"Validation needs learn to begin with Load({share.source!r}).")

    @classmethod
    def sharing_weights(
        cls,
        train: Train,
        *,
        also: Sequence[Share] = (),
        local_norms: bool = False,
        heads: Sequence[Head] = (),
        given: Sequence[str] = (),
    ) -> Recipe:
        """Start from the fused weights, train, share the weights, take the fused ones.

        What FedAvg and its many relatives do.

        Parameters
        ----------
        train : Train
            The training.
        also : Sequence
            What is shared beside the weights.
        local_norms : bool
            Whether batch normalisation stays with the client; see :class:`Weights`.
        heads, given
            As in the class.
        """
        return cls(
            learn=[Load("weights"), train],
            share=[Weights("weights", local_norms), *also],
            absorb=[Load("weights")],
            heads=heads,
            given=given,
        )

    def needs(self, phase: Literal["start", "learn", "absorb"]) -> tuple[str, ...]:
        """Return the names of the fused knowledge that a phase reads."""
        names = [name for step in getattr(self, phase) for name in step.needs()]
        if phase == "absorb":  # then the read-out is settled
            names += [share.name for share in self.share if isinstance(share, Gate)]
        return _unique(names)

    @property
    def steps(self) -> tuple[Step | Share, ...]:
        """All steps of all phases."""
        return (*self.start, *self.learn, *self.share, *self.absorb)

    @property
    def needs_one_architecture(self) -> bool:
        """Whether weights are exchanged, so that all clients must have one architecture."""
        return any(isinstance(s, Load | Weights) for s in self.steps)

    @property
    def needs_public(self) -> bool:
        """Whether any step works on the public set."""
        return any(
            s.uses_public if isinstance(s, Train) else getattr(s, "on", None) == "public"
            for s in self.steps
        )

    @property
    def needs_images(self) -> bool:
        """Whether private samples must be images ``[C, H, W]``."""
        return any(isinstance(s, Styles) for s in self.share)

    def to_json(self) -> str:
        """Return the recipe as JSON."""
        lists = ("start", "learn", "share", "absorb", "heads", "given")
        plain: dict[str, Any] = {p: [_plain(s) for s in getattr(self, p)] for p in lists}
        return json.dumps({**plain, "readout": self.readout})

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Rebuild a recipe; terms are looked up by name in the registry.

        Raises
        ------
        ConfigError
            If a term is not registered here.
        """
        fields = json.loads(text)
        return cls(**{name: _build(value) for name, value in fields.items()})


# What the lists of a recipe hold.
_HELD: Mapping[str, tuple[type[Any], ...]] = {
    **dict.fromkeys(("learn", "absorb", "start"), get_args(Step)),
    "share": get_args(Share),
    "heads": (Head,),
    "given": (str,),
}
_STEPS: Mapping[str, Callable[..., Any]] = {
    c.step: c for c in (Train, Load, Predict, Weights, Gate, Styles, Validation)
}
# Plain parts of a recipe that are no steps.
_PARTS: Mapping[str, type[Any]] = {c.__name__: c for c in (Weighted, Beside, Head)}


def _plain(value: Any) -> Any:
    """Turn steps, terms and sequences into JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, tuple(_PARTS.values())):
            return {"@part": type(value).__name__, **fields}
        step = vars(type(value)).get("step")
        if step in _STEPS:
            return {"@step": step, **fields}
        part = "transforms" if getattr(value, "part", "") == "transforms" else "objectives"
        return {f"@{part}": _wire_name(part, type(value)), **fields}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ConfigError(
        f"A recipe holds numbers, strings and terms only, not {type(value).__name__}."
    )


def _wire_name(part: str, kind: type[Any]) -> str:
    """Return the name by which the other side finds a part; nothing else may go by it."""
    name = registry.registered_name(part, kind)
    try:
        there = registry.lookup(part, name, files=False)
    except ConfigError:
        there = None
    in_file = "@" in name  # an equal file in another place has equal parts
    if there is None or not (there is kind or in_file):
        taken = "" if there is None else f"; {name!r} is {there.__module__}.{there.__name__}"
        raise ConfigError(
            f"{kind.__module__}.{kind.__name__} is not registered{taken}. Write @register (of "
            "fedkt.registry) above it."
        )
    return name


def _build(value: Any) -> Any:
    """Undo :func:`_plain`."""
    if isinstance(value, list):
        return tuple(_build(v) for v in value)
    if not isinstance(value, dict):
        return value
    fields = {k: _build(v) for k, v in value.items() if not k.startswith("@")}
    if "@step" in value:
        return _STEPS[value["@step"]](**fields)
    if "@part" in value:
        return _PARTS[value["@part"]](**fields)
    (part,) = (key for key in value if key.startswith("@"))
    made = registry.lookup(part.removeprefix("@"), value[part], files=False)
    return cast("Callable[..., Any]", made)(**fields)


def _listed(of: str, option: str, held: Any, kinds: tuple[type[Any], ...] = ()) -> tuple[Any, ...]:
    """Return a list of parts as a tuple; refuse what is none, and parts of other kinds."""
    words = f" of {', '.join(k.__name__ for k in kinds)}" if kinds else ""
    if isinstance(held, str) or not isinstance(held, Iterable):
        raise ConfigError(f"{of}: {option} must be a list{words}, not {held!r}.")
    parts = tuple(held)
    for part in parts:
        if kinds and not isinstance(part, kinds):
            raise ConfigError(f"{of}: {option} must be a list{words}; it holds {part!r}.")
    return parts


def _check_part(option: str, part: Any) -> None:
    """Refuse what is no term or transform, and one that does not say what it reads."""
    if isinstance(part, type) or not hasattr(part, "needs"):
        raise ConfigError(f"Train: {option} holds {part!r}; write terms such as CrossEntropy().")
    names = part.needs()
    if not isinstance(names, tuple | list) or not all(isinstance(n, str) for n in names):
        raise ConfigError(
            f"{registry.name_of(type(part))}: needs() must return a tuple of names, such as "
            f"('public',), not {names!r}."
        )


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
