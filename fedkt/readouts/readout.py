"""The base of read-outs: how a client answers for itself.

Global accuracy is that of a client's logits. Its personal answer, for its own distribution of
classes, is what the recipe's read-out makes of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from fedkt.data.samples import ClientData
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge, Stack
from fedkt.registry import short_name
from fedkt.shares import Share


class Answers(Protocol):
    """A model's answers to inputs ``[n, ...]``, computed when they are read."""

    @property
    def logits(self) -> Tensor:
        """Logits ``[n, C]`` float32."""
        ...

    @property
    def features(self) -> Tensor:
        """Features ``[n, d]`` float32, of models that have them."""
        ...


class Ask(Protocol):
    """A question to the client's model, in evaluation mode."""

    def __call__(self, state: Mapping[str, Any] | None, x: Tensor) -> Answers:
        """Return the answers to inputs ``[n, ...]``.

        Parameters
        ----------
        state : Mapping, optional
            Another state of the learner (:meth:`SettleWork.trained_again`); None: the client's.
        x : Tensor
            Inputs ``[n, ...]``.
        """
        ...


class SettleWork(Protocol):
    """The client's side of a read-out, after the model has changed."""

    @property
    def data(self) -> ClientData:
        """The client's data."""
        ...

    @property
    def knowledge(self) -> Mapping[str, Knowledge]:
        """Fused knowledge by name, as far as it has arrived."""
        ...

    def keep(self, name: str, value: Any) -> None:
        """Keep a value with the client's state, in place of the last one of the name."""
        ...

    def ask(self, state: Mapping[str, Any] | None, x: Tensor) -> Answers:
        """Return the answers of the client's model; see :class:`Ask`."""
        ...

    def trained_again(self) -> Mapping[str, Any]:
        """Return the learner's state after the private training of ``learn``, done once more.

        The learner ends as it was.
        """
        ...


class ReadOut(ABC):
    """Base of all read-outs, which are registered frozen dataclasses.

    A read-out defines ``answer``; the rest has defaults.

    Attributes
    ----------
    needs_features : bool
        Whether it asks for features, which some models do not have.
    copies : bool
        Whether it trains a copy of the model once more on private data. The baseline of the same
        private budget then trains as much.
    """

    part: ClassVar[str] = "readouts"
    needs_features: ClassVar[bool] = False
    copies: ClassVar[bool] = False

    def shares(self) -> Sequence[Share]:
        """Return the shares that it needs; the recipe has them beside its own.

        A share of the recipe's own that has the name and class of one of them takes its place.
        """
        return ()

    def fuse(self, stack: Stack) -> Knowledge:
        """Return what the server sends everyone of one of its shares, ``stack.name``.

        It is not asked where the strategy's ``fuse`` gives knowledge of that name.
        """
        name = short_name(self.part, type(self))
        raise ConfigError(f"read-out {name} shares {stack.name!r} and does not define fuse().")

    def settle(self, learner: Any, work: SettleWork) -> None:
        """Keep what ``answer`` needs, by ``work.keep``; after the client has absorbed.

        Names that it keeps begin with its own, and it keeps all of them each time. The learner
        ends as it was.
        """
        return

    @abstractmethod
    def answer(self, x: Tensor, ask: Ask, own: Mapping[str, Any], log_prior: Tensor) -> Tensor:
        """Return the personal answer, logits ``[n, C]``.

        Parameters
        ----------
        x : Tensor
            Inputs ``[n, ...]``.
        ask : callable
            ``ask(None, x).logits`` are the client's logits; see :class:`Ask`.
        own : Mapping[str, Any]
            What the client keeps, by name; empty if the read-out is not settled for the model
            as it is.
        log_prior : Tensor
            ``[C]``, the log of the client's class prior.
        """
