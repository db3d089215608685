"""Recipes: what the clients of a method do, as plain data.

A recipe is four short lists of steps. ``start`` runs once, before a client's first
round; then every round ``learn`` (private data) → ``share`` (what is uploaded) → the
server fuses → ``absorb`` (what came back). A phase without steps sends no message.
Recipes travel to the clients as JSON, so a step or term holds only numbers, strings
and other steps or registered terms.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, cast

from torch import Tensor

from fedkt.calls import made
from fedkt.codecs import Codec, codec_chain, wire_name
from fedkt.errors import ConfigError, unknown
from fedkt.knowledge import Knowledge
from fedkt.objectives.heads import PREFIX as HEADS
from fedkt.objectives.heads import HeadPart
from fedkt.options import checked
from fedkt.readouts import ReadOut
from fedkt.recipe.json import build, plain
from fedkt.schedules import is_scheduled
from fedkt.shares import Share, Weights
from fedkt.steps import Load, Step, Train, trainings, weighted
from fedkt.steps.train import listed, unique


@checked
@dataclass(frozen=True)
class Recipe:
    """The clients' side of a method: lists of steps and shares.

    Parameters
    ----------
    learn : Sequence[Step]
        Before sharing: ``Train``, ``Load``, ``Remember`` or steps of one's own.
    share : Sequence[Share]
        What is uploaded (``fedkt.shares``); share names are unique.
    absorb : Sequence[Step]
        After the fused knowledge came back, in the same round.
    start : Sequence[Step]
        Once, before a client's first ``learn``.
    heads : Sequence[HeadPart]
        Networks beside the model that only the terms use: ``Head`` on its features, ``Net`` on the
        inputs, or one's own.
    given : Sequence[str]
        Names of knowledge that nobody shares: the server makes it itself. What ``start`` alone
        reads is sent to clients that have not learnt yet.
    readout : ReadOut or str
        How a client answers for itself (personalised accuracy), by name or as an object
        (``fedkt.readouts``). Global accuracy is always that of logits. The shares that the
        read-out needs are added to ``share``.
    world : str
        Whose logits count as global accuracy: those of the ``"model"``, or of a :class:`Net` beside
        it, ``"heads.NAME"``.
    """

    learn: Sequence[Step] = field(default_factory=tuple)
    share: Sequence[Share] = field(default_factory=tuple)
    absorb: Sequence[Step] = field(default_factory=tuple)
    start: Sequence[Step] = field(default_factory=tuple)
    heads: Sequence[HeadPart] = ()
    given: Sequence[str] = ()
    readout: ReadOut | str = "raw"
    world: str = "model"

    def __post_init__(self) -> None:
        for phase, kinds in _HELD.items():
            steps = listed("Recipe", phase, getattr(self, phase), kinds)
            object.__setattr__(self, phase, steps)
        object.__setattr__(self, "readout", made("readouts", self.readout))
        object.__setattr__(self, "share", _with(self.share, self.personal))
        self._check_heads()
        names = [s.name for s in self.share] + list(self.given)
        if len(set(names)) != len(names) or set(names) & set(self.keeps):
            taken = ", ".join([*names, *self.keeps])
            raise ConfigError(f"Two pieces of knowledge have one name: {taken}.")
        for name in self.needs("start") + self.needs("learn") + self.needs("absorb"):
            if name not in names:
                kept = f" and keeps {', '.join(self.keeps)}" if self.keeps else ""
                raise ConfigError(
                    f"The recipe reads knowledge {name!r} but shares {', '.join(names) or 'none'}"
                    f"{kept}."
                )
        self._check_private()

    def _check_heads(self) -> None:
        names = [head.name for head in self.heads]
        if len(set(names)) != len(names):
            raise ConfigError(f"Two heads have one name: {', '.join(names)}.")
        worlds = ["model", *(f"{HEADS}.{head.name}" for head in self.heads if head.answers())]
        if self.world not in worlds:
            raise ConfigError(
                f"Recipe: world must be one of {', '.join(worlds)}, not {self.world!r}."
            )

    @classmethod
    def sharing_weights(
        cls,
        train: Train,
        *,
        also: Sequence[Share] = (),
        local_norms: bool = False,
        heads: Sequence[HeadPart] = (),
        given: Sequence[str] = (),
    ) -> Recipe:
        """Return the recipe of FedAvg and its relatives: load weights, train, share, load.

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
        """Return the names of the fused knowledge that a phase reads.

        What the client keeps itself is not among them: the server does not owe it.
        """
        kept = set(self.keeps)
        names = [n for step in getattr(self, phase) for n in step.needs() if n not in kept]
        if phase == "learn":  # then the client shares
            names += [n for share in self.share for n in share.needs() if n not in kept]
        if phase == "absorb":  # then the read-out is settled
            names += [share.name for share in self.personal.shares()]
        return unique(names)

    @property
    def once(self) -> frozenset[str]:
        """The names of the fused knowledge that ``start`` alone reads: each client gets it once."""
        return frozenset(self.needs("start")) - {*self.needs("learn"), *self.needs("absorb")}

    @property
    def comes(self) -> tuple[str, ...]:
        """The names of all fused knowledge that a client may be sent."""
        phases = (self.needs("start"), self.needs("learn"), self.needs("absorb"))
        return unique([name for names in phases for name in names])

    @property
    def personal(self) -> ReadOut:
        """The read-out, as an object."""
        return cast(ReadOut, self.readout)

    @cached_property
    def readout_json(self) -> str:
        """The read-out as JSON, which clients keep with their state."""
        return json.dumps(plain(self.readout))

    @property
    def absorbs(self) -> bool:
        """Whether anything happens at the clients with the fused knowledge of a round."""
        return bool(self.absorb or self.needs("absorb"))

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of all phases, in order; shares are no steps."""
        return (*self.start, *self.learn, *self.absorb)

    @property
    def parts(self) -> tuple[Step | Share, ...]:
        """The steps of all phases, then the shares."""
        return (*self.steps, *self.share)

    @cached_property
    def keeps(self) -> tuple[str, ...]:
        """The names of what clients keep for themselves."""
        return unique(name for part in self.parts for name in part.keeps())

    @cached_property
    def retained(self) -> tuple[str, ...]:
        """The names of the fused knowledge that clients keep with their state.

        Other knowledge is used within its round only. What the server sends for learning alone
        comes again with every fusion.
        """
        once = set(self.given) - set(self.needs("absorb"))
        return tuple(name for name in self.needs("learn") if name not in once)

    @property
    def remembered(self) -> tuple[Share, ...]:
        """The shares by which clients make knowledge for themselves."""
        return tuple(share for step in self.steps for share in step.makes())

    def _check_private(self) -> None:
        """Refuse answers for private samples that are shared, or read on public ones."""
        for share in self.share:
            if share.stays:
                raise ConfigError(
                    f"The share {share.name!r} is of private samples, which Remember may keep and "
                    "nobody may share."
                )
        private = {share.name for share in self.remembered if share.stays}
        for step in trainings(self.steps):
            read = {name for _, term in weighted(step.terms) for name in term.needs()}
            if step.on == "public" and read & private:
                raise ConfigError(
                    f"A step on public data reads {min(read & private)!r}, whose rows are private "
                    "samples."
                )

    @property
    def needs_one_architecture(self) -> bool:
        """Whether weights are exchanged, so that all clients must have one architecture."""
        return any(part.one_architecture for part in self.telling)

    @property
    def begins_with_weights(self) -> bool:
        """Whether the server gives clients first global weights."""
        return self.needs_one_architecture or any(share.begins for share in self.share)

    @property
    def telling(self) -> tuple[Step | Share, ...]:
        """The parts that tell in the greeting; of weights that are shared, the share does."""
        shared = {share.name for share in self.share}
        silent = [step for step in self.steps if step.loads() and shared.issuperset(step.loads())]
        return (*self.share, *(step for step in self.steps if step not in silent))

    @property
    def needs_public(self) -> bool:
        """Whether any step or share works on the public set."""
        return any(part.uses_public for part in self.parts)

    @property
    def follows_progress(self) -> bool:
        """Whether what clients do depends on the number of rounds planned."""
        terms = (t for s in trainings(self.steps) for _, t in weighted((*s.terms, *s.rehearse)))
        ramped = any(getattr(term, "follows_progress", False) for term in terms)
        return ramped or any(map(is_scheduled, (*self.steps, *self.codecs)))

    def ids(
        self,
        name: str,
        size: int,
        seed: int,
        round_: int,
        known: Mapping[str, Knowledge] | None = None,
    ) -> Tensor | None:
        """Return the ids of a share's rows in a round, int64 ``[M]``; None without rows.

        Parameters
        ----------
        name : str
            The share's.
        size : int
            Size of the public set.
        seed, round_ : int
            They name the random stream.
        known : Mapping[str, Knowledge], optional
            The fused knowledge that the client has; None for knowledge on its way down.
        """
        share = self._share(name)
        if share is None:
            return None
        needed = share.needs()
        if not needed:
            return share.ids(size, seed, round_)
        asked = None if known is None else {n: known[n] for n in needed if n in known}
        return share.ids(size, seed, round_, asked)

    def codec(self, name: str, way: Literal["up", "down"], run: str) -> str:
        """Return the codecs of knowledge on its way: the share's own, else the run's.

        Parameters
        ----------
        name : str
            The share's; knowledge that nobody shares has the run's codecs.
        way : {"up", "down"}
            To the server, or to the clients.
        run : str
            The run's codecs.
        """
        of_share: str | None = getattr(self._share(name), f"codec_{way}", None)
        return run if of_share is None else of_share

    def _share(self, name: str) -> Share | None:
        return next((share for share in self.share if share.name == name), None)

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """The codecs of the shares' own."""
        ways = (way for share in self.share for way in (share.codec_up, share.codec_down))
        return tuple(codec for text in ways if text is not None for codec in codec_chain(text))

    def for_the_wire(self) -> Recipe:
        """Return the recipe with its shares' codecs by the names that clients know.

        Raises
        ------
        ConfigError
            If there is no such codec.
        """
        return replace(self, share=[_with_wire_codecs(share) for share in self.share])

    def to_json(self) -> str:
        """Return the recipe as JSON."""
        lists = ("start", "learn", "share", "absorb", "heads", "given")
        content: dict[str, Any] = {p: [plain(s) for s in getattr(self, p)] for p in lists}
        content["world"] = self.world
        return json.dumps({**content, "readout": plain(self.readout)})

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the recipe as JSON, 16 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Rebuild a recipe; terms are looked up by name in the registry.

        Raises
        ------
        ConfigError
            If a term is not registered here, or the text says what no recipe has here.
        """
        fields = json.loads(text)
        known = [field.name for field in dataclasses.fields(cls)]
        if odd := [name for name in fields if name not in known]:
            raise unknown("key of a recipe", str(odd[0]), known)
        if not isinstance(fields.get("readout"), dict):  # a text may name a file, to be executed
            raise ConfigError("The recipe that arrived names no read-out.")
        return cls(**{name: build(value) for name, value in fields.items()})


def _with_wire_codecs(share: Share) -> Share:
    ways = {way: getattr(share, way) for way in ("codec_up", "codec_down")}
    named: Any = {way: wire_name(text) for way, text in ways.items() if text is not None}
    return cast(Share, replace(cast(Any, share), **named)) if named else share


def _with(shares: Sequence[Share], readout: ReadOut) -> tuple[Share, ...]:
    """Return a recipe's shares and those of its read-out, each once."""
    classes = {share.name: type(share) for share in shares}
    more = [s for s in readout.shares() if classes.get(s.name) is not type(s)]
    return (*shares, *more)


# What the lists of a recipe hold.
_HELD: Mapping[str, tuple[type[Any], ...]] = {
    **dict.fromkeys(("learn", "absorb", "start"), (Step,)),
    "share": (Share,),
    "heads": (HeadPart,),
    "given": (str,),
}
