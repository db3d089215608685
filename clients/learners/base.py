"""The learner: the protocol of a client's model in any framework."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from torch import Tensor

from fedkt import snapshot
from fedkt.data.samples import ClientData, Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.recipe import Recipe, Train
from fedkt.training import Trained, TrainingOptions


@dataclass(frozen=True)
class Work:
    """The data, knowledge and options of a learner in one phase.

    Parameters
    ----------
    data : ClientData
        The client's data.
    knowledge : Mapping[str, Knowledge]
        Fused knowledge by share name, as far as it has arrived, and the client's own.
    options : TrainingOptions
        Options of the training.
    seed, round, client : int
        Names of the random streams.
    rounds : int
        Number of rounds of the run; 0 if unknown, and then progress is always 0.
    own : dict[str, Any]
        What the client keeps for itself, by name; see :meth:`keep`.
    done : list[Trained]
        The trainings of the phase so far.
    """

    data: ClientData
    knowledge: Mapping[str, Knowledge]
    options: TrainingOptions
    seed: int
    round: int
    client: int
    rounds: int = 0
    own: dict[str, Any] = field(default_factory=dict)
    done: list[Trained] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Steps, shares and terms find both in one mapping; own knowledge as soon as it is kept.
        object.__setattr__(self, "knowledge", ChainMap(self.own, dict(self.knowledge)))

    def keep(self, name: str, value: Any) -> None:
        """Keep a value as the client's own knowledge: nobody is sent it, the next round reads it.

        Parameters
        ----------
        name : str
            Its name in ``knowledge``; an earlier value of the name is replaced.
        value : Any
            Knowledge, or whatever ``fedkt.snapshot`` saves; terms read knowledge only.

        Raises
        ------
        ConfigError
            If it cannot be saved.
        """
        # As it comes back from a file, so that every store gives the same bits.
        self.own[name] = snapshot.copied(value)

    def of_another(self, train: Samples, knowledge: Mapping[str, Knowledge] | None = None) -> Work:
        """Return the work of another model at the client, which trains on samples of its own.

        Parameters
        ----------
        train : Samples
            Its private samples; may be empty.
        knowledge : Mapping[str, Knowledge], optional
            Knowledge beside the client's, by name.

        Returns
        -------
        Work
            What is kept by it, and the extent of its trainings, is not the client's.
        """
        known = {**self.knowledge, **(knowledge or {})}
        data = replace(self.data, train=train)
        return replace(self, data=data, knowledge=known, own={}, done=[])

    @property
    def trained(self) -> Trained | None:
        """The last training of the phase; None if there was none."""
        return self.done[-1] if self.done else None

    def progress(self, within: float) -> float:
        """Return the finished part of the run, in [0, 1], at the part ``within`` of its round."""
        return (max(self.round, 1) - 1 + within) / self.rounds if self.rounds else 0.0


class Learner(Protocol):
    """A model that can take part in a federation; base of the registered learners.

    A learner is loaded with one client's state, works, and hands the state back; the same
    object serves many clients. ``stream`` names the random stream of a step, e.g.
    ``"learn/0"``. It is made as ``Learner(build, num_classes, name, device)``, where ``build()``
    returns a new model of one of the kinds that it :meth:`takes`.

    Attributes
    ----------
    architecture : str
        ``name#fingerprint``; equal for two learners whose weights can be averaged.
    num_classes : int
        C, the width of the logits.
    input_shape : tuple[int, ...], optional
        The shape of one sample, for nets that a recipe puts beside the model; None if unknown.
    is_network : bool
        Whether it is a torch network, which has weights to exchange and fits into cohorts.
    """

    part: ClassVar[str] = "learners"
    is_network: ClassVar[bool] = False
    architecture: str
    num_classes: int
    input_shape: tuple[int, ...] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results has to know about how it trains, a line each."""
        return ()

    @staticmethod
    def takes(model: Any) -> bool:
        """Return whether this learner is for such a model, the result of a model's function."""
        return False

    @property
    def follows_options(self) -> frozenset[str]:
        """The names of the options it follows: ``class_weights``, ``clip_norm``, ``augment``."""
        return frozenset()

    def as_network(self) -> Any:
        """Return the learner itself if it is a torch network; None if it is another model."""
        return self if self.is_network else None

    def refuses(self, recipe: Recipe) -> str | None:
        """Return why this learner cannot follow the recipe, in one line; None if it can."""
        ...

    def takes_gaps(self, x: Tensor) -> bool:
        """Return whether the model trains on inputs with missing values (NaN), as some of ``x``."""
        return False

    def follow(self, recipe: Recipe) -> None:
        """Prepare for a recipe: its heads exist from the next ``reset`` or ``load_state`` on."""
        ...

    def reset(self, seed: int, client: int) -> None:
        """Become the untrained model of a client."""
        ...

    def train(self, step: Train, work: Work, stream: str) -> float | None:
        """Train by one step; return the mean loss of its last epoch if there is one."""
        ...

    def predict(self, x: Tensor, world: str = "model") -> Tensor:
        """Return logits ``[n, C]`` float32 for inputs ``[n, ...]``, in evaluation mode.

        ``world`` says whose: the model's, or those of a net beside it, ``"heads.NAME"``.
        """
        ...

    def features(self, x: Tensor) -> Tensor:
        """Return features ``[n, d]`` float32, in evaluation mode (learners with features only)."""
        ...

    def adapt_norms(self, x: Tensor) -> None:
        """Replace the statistics of batch normalisation by those of samples ``[n, ...]``."""
        ...

    def weights(self, local_norms: bool = False, of: str = "", but: str = "") -> Knowledge:
        """Return the weights, or a part of them; see ``fedkt.shares.Weights``."""
        ...

    def load_weights(
        self, weights: Knowledge, of: str = "", rate: float = 1.0, moments: bool = False
    ) -> None:
        """Load weights, or take a step towards them.

        The optimiser starts anew where they go, unless its ``moments`` stay.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return a copy of the client's state; see ``fedkt.snapshot`` for types."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become the client that ``state`` describes."""
        ...

    def fitted(self) -> Any:
        """Return a copy of the model as it is loaded, for use outside of a federation.

        Raises
        ------
        ConfigError
            If the learner hands out none.
        """
        raise ConfigError(f"{type(self).__name__} hands out no model.")
