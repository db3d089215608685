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
from fedkt.knowledge import Kind
from fedkt.objectives.base import Term

Data = Literal["private", "public"]
Form = Literal["logits", "probabilities", "labels"]
ReadOut = Literal["raw", "prior", "mix", "gate"]


@dataclass(frozen=True)
class Weighted:
    """A term with a factor: ``Weighted(0.5, CrossEntropy())``."""

    factor: float
    term: Term


def weighted(terms: Iterable[Term | Weighted]) -> list[tuple[float, Term]]:
    """Return (factor, term) pairs."""
    return [(t.factor, t.term) if isinstance(t, Weighted) else (1.0, t) for t in terms]


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
    """

    on: Data
    terms: Sequence[Term | Weighted]
    epochs: int = 1
    batch_size: int | None = None
    rehearse: Sequence[Term | Weighted] = ()
    step: ClassVar[str] = "train"

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", tuple(self.terms))
        object.__setattr__(self, "rehearse", tuple(self.rehearse))
        if self.rehearse and self.on != "public":
            raise ConfigError("Only a step on public data can rehearse private data.")
        if self.on not in ("private", "public"):
            raise ConfigError(f"Train(on=...) must be 'private' or 'public', not {self.on!r}.")
        if self.epochs < 0:
            raise ConfigError(f"epochs must be at least 0, not {self.epochs}.")
        if not self.terms:
            raise ConfigError("Train needs at least one term.")

    def needs(self) -> tuple[str, ...]:
        """Return the names of the fused knowledge that the terms read."""
        both = weighted((*self.terms, *self.rehearse))
        return _unique(name for _, term in both for name in term.needs())


@dataclass(frozen=True)
class Load:
    """Replace the model's weights by fused ones; the optimiser's state starts anew."""

    source: str = "weights"
    step: ClassVar[str] = "load"

    def needs(self) -> tuple[str, ...]:
        """Return the name of the weights."""
        return (self.source,)


@dataclass(frozen=True)
class Predict:
    """Share the model's answers on the public set.

    Parameters
    ----------
    on : {"public"}
        Private data is never predicted for sharing.
    form : {"logits", "probabilities", "labels"}
        ``probabilities`` are softmax(logits / temperature).
    temperature : float
        For probabilities only.
    samples : int
        How many public samples a round, drawn anew each round by (seed, round) on
        both sides, so that no ids travel; 0 takes them all.
    name : str
        The share's name.
    """

    on: Literal["public"] = "public"
    form: Form = "probabilities"
    temperature: float = 1.0
    samples: int = 0
    name: str = "public"
    step: ClassVar[str] = "predict"

    def __post_init__(self) -> None:
        if self.on != "public":
            raise ConfigError(f"Predict(on=...) must be 'public', not {self.on!r}.")
        if self.form not in ("logits", "probabilities", "labels"):
            raise ConfigError(f"form must be logits, probabilities or labels, not {self.form!r}.")
        if self.temperature <= 0 or self.samples < 0:
            raise ConfigError("Predict needs temperature > 0 and samples ≥ 0.")

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return self.form


@dataclass(frozen=True)
class Weights:
    """Share the model's weights (float parameters and buffers)."""

    name: str = "weights"
    step: ClassVar[str] = "weights"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "weights"


@dataclass(frozen=True)
class Gate:
    """Share the mean losses of the client's held-out samples under the gate's read-outs.

    75 floats, as they were when the client last absorbed; see ``fedkt.readouts``. The server
    returns their mean over the clients (``fedkt.readouts.mean_losses``) under the same name.
    """

    name: str = "gate"
    step: ClassVar[str] = "gate"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "statistics"


Step = Train | Load
Share = Predict | Weights | Gate


@dataclass(frozen=True)
class Recipe:
    """What the clients of a method do.

    Parameters
    ----------
    learn : Sequence[Train or Load]
        Before sharing.
    share : Sequence[Predict, Weights or Gate]
        What is uploaded; share names are unique.
    absorb : Sequence[Train or Load]
        After the fused knowledge came back, in the same round.
    start : Sequence[Train or Load]
        Once, before a client's first ``learn``.
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
    readout: ReadOut = "raw"

    def __post_init__(self) -> None:
        if self.readout not in get_args(ReadOut):
            raise ConfigError(f"readout must be raw, prior, mix or gate, not {self.readout!r}.")
        for phase in ("learn", "share", "absorb", "start"):
            object.__setattr__(self, phase, tuple(getattr(self, phase)))
        names = [s.name for s in self.share]
        gates = sum(isinstance(s, Gate) for s in self.share)
        if gates != (self.readout == "gate") or (gates and not self.absorb):
            raise ConfigError(
                "Readout 'gate' and a Gate share go together, once, and with an absorb phase."
            )
        if len(set(names)) != len(names):
            raise ConfigError(f"Two shares have one name: {', '.join(names)}.")
        for name in self.needs("start") + self.needs("learn") + self.needs("absorb"):
            if name not in names:
                raise ConfigError(
                    f"The recipe reads knowledge {name!r} but shares {', '.join(names) or 'none'}."
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
        return any(getattr(s, "on", None) == "public" for s in self.steps)

    @property
    def private_epochs(self) -> int:
        """Passes over a client's private data per round; local training's equal budget."""
        steps = (*self.learn, *self.absorb)
        return sum(s.epochs for s in steps if isinstance(s, Train) and s.on == "private")

    def to_json(self) -> str:
        """Return the recipe as JSON."""
        phases = ("start", "learn", "share", "absorb")
        plain: dict[str, Any] = {p: [_plain(s) for s in getattr(self, p)] for p in phases}
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


_STEPS: Mapping[str, Callable[..., Any]] = {
    c.step: c for c in (Train, Load, Predict, Weights, Gate)
}


def _plain(value: Any) -> Any:
    """Turn steps, terms and sequences into JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Weighted):
            return {"@weighted": fields}
        step = vars(type(value)).get("step")
        if step in _STEPS:
            return {"@step": step, **fields}
        return {"@term": registry.registered_name("objectives", type(value)), **fields}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ConfigError(
        f"A recipe holds numbers, strings and terms only, not {type(value).__name__}."
    )


def _build(value: Any) -> Any:
    """Undo :func:`_plain`."""
    if isinstance(value, list):
        return tuple(_build(v) for v in value)
    if not isinstance(value, dict):
        return value
    if "@weighted" in value:
        return Weighted(**{k: _build(v) for k, v in value["@weighted"].items()})
    fields = {k: _build(v) for k, v in value.items() if not k.startswith("@")}
    if "@step" in value:
        return _STEPS[value["@step"]](**fields)
    make = cast("Callable[..., Any]", registry.lookup("objectives", value["@term"], files=False))
    return make(**fields)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
