"""The base of all shares, by which clients upload knowledge.

A share is plain data that travels with the recipe. The client makes knowledge by it (``make``), the
server checks what arrives against it (``expected``), and both derive the ids of its rows (``ids``).
Every fact about a share stands in the share.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from fedkt.about import Model
from fedkt.data.samples import ClientData
from fedkt.errors import ConfigError
from fedkt.knowledge import Kind, Knowledge
from fedkt.shares.sizes import INT64, Sizes
from fedkt.training import Trained
from fedkt.upload_check import Expected


class ShareWork(Protocol):
    """A share's work at the client: data, fused knowledge, names of streams."""

    @property
    def data(self) -> ClientData:
        """The client's data."""
        ...

    @property
    def knowledge(self) -> Mapping[str, Knowledge]:
        """Fused knowledge by name, as far as it has arrived, and the client's own."""
        ...

    @property
    def trained(self) -> Trained | None:
        """The last training of the phase; None if there was none."""
        ...

    def keep(self, name: str, value: Any) -> None:
        """Keep a value at the client: it is in ``knowledge`` from now on, and never sent."""
        ...

    @property
    def own(self) -> Mapping[str, Any]:
        """What the client keeps for itself, by name."""
        ...

    @property
    def seed(self) -> int:
        """The seed of the run."""
        ...

    @property
    def round(self) -> int:
        """The round, from 1."""
        ...

    @property
    def client(self) -> int:
        """The client's id."""
        ...


@dataclass(frozen=True, eq=False)
class Question:
    """Inputs about which a share asks the model.

    Parameters
    ----------
    x : Tensor
        float32 ``[n, ...]``; the very object that ``make`` asks about.
    features : bool
        Whether features are asked for; else logits.
    """

    x: Tensor
    features: bool = False


@dataclass(frozen=True)
class Asked:
    """The server's facts about a share in a round.

    Parameters
    ----------
    ids : Tensor, optional
        int64 ``[M]``, the ids of the rows in this round; None for knowledge without rows.
    num_classes : int
        C.
    input_shape : tuple[int, ...]
        The shape of one sample.
    weights : Mapping[str, tuple[int, ...]]
        The shapes of the first global weights, of all shares that begin with some, by name; empty
        where the server has none.
    latest : Knowledge, optional
        The last fused knowledge of the share's name, as the client has it; None where later
        rounds do not read it.
    about : Mapping[str, str]
        What the client's parts told in the greeting; see :meth:`Share.about`.
    """

    ids: Tensor | None
    num_classes: int
    input_shape: tuple[int, ...]
    weights: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    latest: Knowledge | None = None
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Travels:
    """The codecs of a share's knowledge on its two ways, instead of the run's."""

    codec_up: str | None = field(default=None, kw_only=True)
    codec_down: str | None = field(default=None, kw_only=True)


class Share(_Travels, ABC):
    """Base of all shares, which are registered frozen dataclasses with a field ``name``.

    A share defines ``kind``, ``make`` and ``expected``; the rest has defaults.

    Attributes
    ----------
    name : str
        The name of its knowledge in the recipe.
    codec_up, codec_down : str, optional
        Codecs of its knowledge to the server and to the clients, instead of the run's; keywords
        of every share.
    samples : int
        How many public samples of a round it speaks about; 0: all, or none at all.
    group : str
        ``"architecture"``: what it tells in the greeting and the shapes of its knowledge are equal
        among clients of one architecture, and ``Uploads.groups`` gives their stacks; else among
        all clients.
    one_architecture : bool
        Whether all clients must have one architecture, which its ``about`` then tells.
    private : bool
        Whether it reads private data other than through the trained model.
    uses_public : bool
        Whether it needs the public set.
    begins : bool
        Whether the server gives clients first global weights of it, made before the run.
    partial : bool
        Whether a client may lack rows, which it does not send or sends with a count of 0. The
        ids of the stack are then the union of all clients', and its counts the mask.
    """

    part: ClassVar[str] = "shares"
    private: ClassVar[bool] = True
    group: str = ""
    name: str
    samples: int = 0
    partial: bool = False

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """The kind of knowledge shared."""

    @property
    def uses_public(self) -> bool:
        """Whether it needs the public set."""
        return False

    @property
    def stays(self) -> bool:
        """Whether it may only be kept (``Remember``), because its rows are private samples."""
        return False

    @property
    def begins(self) -> bool:
        """Whether clients are given first global weights of it."""
        return self.one_architecture

    def whole(self, world: str) -> bool:
        """Return whether what is fused of it has all of a network, the server's and every client's.

        Parameters
        ----------
        world : str
            ``"model"``, or a net beside it, ``"heads.NAME"``.
        """
        return False

    def share_of(self, weights: Knowledge, about: Mapping[str, str]) -> Knowledge:
        """Return what clients get of it from the first global weights.

        Parameters
        ----------
        weights : Knowledge
            The first global weights of all shares that begin with some.
        about : Mapping[str, str]
            What the clients told; see :meth:`about`.
        """
        return weights

    @property
    def one_architecture(self) -> bool:
        """Whether all clients must have one architecture."""
        return False

    def needs(self) -> tuple[str, ...]:
        """Return the names of the knowledge, fused or kept, that the client reads for it."""
        return ()

    def keeps(self) -> tuple[str, ...]:
        """Return the names of what the client keeps while it makes it (``work.keep``)."""
        return ()

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return texts that must be equal among the clients of its group, told in the greeting.

        The keys are nouns that name what differs. Clients that differ from most are left out.
        """
        return {}

    def refuses(self, model: Model, data: ClientData) -> str | None:
        """Return why a client cannot share it, in one line; None if it can."""
        return None

    def ids(
        self, size: int, seed: int, round: int, asked: Mapping[str, Knowledge] | None = None
    ) -> Tensor | None:
        """Return the ids of its rows in a round, int64 ``[M]``; None for knowledge without rows.

        Both sides derive them, so they cost no bytes. Where it returns None for knowledge with
        rows, their ids travel.

        Parameters
        ----------
        size : int
            Size of the public set.
        seed, round : int
            They name the random stream.
        asked : Mapping[str, Knowledge], optional
            What the server sent along: the fused knowledge of :meth:`needs`, as far as there is
            any. None where the ids are those of knowledge on its way down.
        """
        return None

    def questions(self, work: ShareWork) -> Sequence[Question]:
        """Return what the model is asked, which a cohort may answer at once."""
        return ()

    def first(self, model: Model) -> Knowledge | None:
        """Return what clients are given of it in the first round; None where nobody is.

        Parameters
        ----------
        model : Model
            An untrained model of the server's.
        """
        return None

    @abstractmethod
    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the knowledge that the client uploads.

        Raises
        ------
        KnowledgeError
            If it has none to share.
        """

    @abstractmethod
    def expected(self, asked: Asked) -> Expected:
        """Return the form of an upload; the server's bounds of numbers hold, too."""

    def upload_bytes(self, sizes: Sizes) -> int | tuple[int, int]:
        """Return the bytes of an upload, or the least and the most; ids and counts included.

        By default those of the expected shapes. Of partial knowledge there are from no rows to all,
        each with its id and its count.
        """
        ids = self.ids(sizes.public, 0, 1)
        expected = self.expected(Asked(ids, sizes.classes, sizes.input_shape))
        if expected.shapes is None:
            raise ConfigError(f"the share {self.name!r} leaves its shapes open: write upload_bytes")
        total = 0
        for name, shape in expected.shapes.items():
            dtype = expected.dtype(name)
            each = sizes.floats if dtype == torch.float32 else dtype.itemsize
            total += each * math.prod(sizes.features if n is None else n for n in shape)
        if not (self.partial or expected.partial) or expected.ids is None:
            return total
        return 0, total + 2 * INT64 * len(expected.ids)
