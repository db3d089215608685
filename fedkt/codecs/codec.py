"""The base of codecs, and chains of them by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np

from fedkt import registry
from fedkt.calls import files_in, made, read_call, split
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.schedules import is_scheduled

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class About:
    """The facts about knowledge that a codec may use; both sides have the same.

    Parameters
    ----------
    kind : str
        The kind of knowledge; of later codecs in a chain what the one before makes of it.
    ids : ndarray, optional
        int64 ``[M]``, the ids of its rows; None for kinds without rows.
    base : Mapping[str, ndarray], optional
        What the receiver decoded last for this share, under the names of the arrays, with the
        rows in the order of ``ids``; None where it has nothing, and for all codecs of a chain
        but the first.
    known : ndarray, optional
        bool ``[M]``: which rows the base has; the others are 0. None without rows or base.
    ages : ndarray, optional
        int64 ``[M]``: how many rounds ago each known row of the base was sent. None as ``known``.
    limit : int, optional
        The most bytes that the decoded arrays may have; None where the sender is trusted.
    progress : float
        To encode: the part of the run, in [0, 1], that ends with the round of the knowledge; 0
        where that is unknown, and always to decode. ``fedkt.schedules.at(self, about.progress)`` is
        a codec with the numbers of that moment.
    """

    kind: str
    ids: np.ndarray | None = None
    base: Arrays | None = None
    known: np.ndarray | None = None
    ages: np.ndarray | None = None
    limit: int | None = None
    progress: float = 0.0


class Size(NamedTuple):
    """The size of arrays.

    Parameters
    ----------
    arrays : int
        Their number.
    bytes : int
        The bytes of their data together.
    """

    arrays: int
    bytes: int

    @classmethod
    def of(cls, arrays: Arrays) -> Size:
        """Return the size of some arrays."""
        return cls(len(arrays), sum(array.nbytes for array in arrays.values()))


class Codec(ABC):
    """Encoder and decoder of the arrays of knowledge; both sides of the wire use it.

    Codecs are registered classes; one with options is a frozen dataclass. They keep nothing between
    calls.

    Attributes
    ----------
    uses_base : bool
        Whether it refers to what the receiver decoded last (``about.base``), which both sides
        then keep. Such a codec is the first of its chain.
    keeps_rows : bool
        Whether rows of the base that are not in a message stay in it; else a message replaces it.
    same_bits : bool
        Whether all machines encode the same numbers to the same bits. Then ``delta`` can take it.
    kinds : frozenset of str, optional
        The kinds of knowledge that it changes; all others travel as they are. None: any.
    """

    part: ClassVar[str] = "codecs"
    uses_base: ClassVar[bool] = False
    keeps_rows: ClassVar[bool] = False
    same_bits: ClassVar[bool] = True
    kinds: ClassVar[frozenset[str] | None] = None

    @property
    def inside(self) -> tuple[Codec, ...]:
        """The codecs that it has as options, which a client's policy must allow too."""
        return ()

    @abstractmethod
    def encode(self, arrays: Arrays, about: About) -> Arrays:
        """Return the arrays that travel; raise KnowledgeError if that is impossible."""

    @abstractmethod
    def decode(self, arrays: Arrays, about: About) -> Arrays:
        """Return arrays in the dtype that the receiver computes with.

        The arrays come from outside: whatever it raises is a refusal of the packet.
        """

    def changes(self, kind: str) -> bool:
        """Return whether it changes knowledge of a kind."""
        return self.kinds is None or kind in self.kinds

    def passes(self, kind: str) -> str:
        """Return the kind of what is encoded, for the next codec of a chain.

        By default the same; another word where the arrays are no rows of that kind any more.
        """
        return kind

    def sends(self, about: About) -> np.ndarray | None:
        """Return which rows travel, bool ``[M]``, the same at both ends; None: all, as by default.

        The others are the base's, and no younger by it.
        """
        return None

    def encoded_size(self, size: Size) -> Size:
        """Return the largest size of what is encoded of arrays of at most a size.

        The server refuses more than that before it decodes any of it, and the sender refuses to
        send it. By default each array becomes at most eight, of twice its bytes and 1 kB together.
        """
        return Size(8 * size.arrays, 2 * size.bytes + 1024 * size.arrays)


def encoded(codec: Codec, arrays: Arrays, about: About) -> Arrays:
    """Return the arrays that travel.

    Raises
    ------
    KnowledgeError
        If the codec cannot encode these, or they become larger than it says.
    """
    travelling = codec.encode(arrays, about)
    size, most = Size.of(travelling), codec.encoded_size(Size.of(arrays))
    if size.arrays > most.arrays or size.bytes > most.bytes:
        name = registry.short_name("codecs", type(codec))
        raise KnowledgeError(
            f"codec {name} makes {size.arrays:,} arrays of {size.bytes:,} bytes, and its "
            f"encoded_size allows {most.arrays:,} of {most.bytes:,}"
        )
    return travelling


def codec_chain(text: str, files: bool = False) -> Sequence[Codec]:
    """Return the codecs of ``"a+b(option=1)"``, in order; ``"none"`` stands for none.

    Parameters
    ----------
    text : str
        Names, with options, joined by ``+``.
    files : bool
        Whether files may be named; never in what came over the wire.

    Raises
    ------
    ConfigError
        For an unknown name or option, or a codec that refers to a base and is not the first.
    """
    return _chain(text, files, registry.version())


@lru_cache(maxsize=64)
def _chain(text: str, files: bool, version: int) -> Sequence[Codec]:
    """Return a chain; ``version`` of the registry belongs to the key of the cache."""
    names = [name for name in split(text, "+") if name != "none"]
    codecs = tuple(made("codecs", name, files) for name in names)
    for name, codec in list(zip(names, codecs, strict=True))[1:]:
        if codec.uses_base:
            raise ConfigError(
                f"codec {text!r}: {name} must be the first, for it refers to what the receiver has."
            )
    return codecs


def wire_name(text: str) -> str:
    """Return the text of a chain by which the other side finds the codecs; files are loaded.

    Raises
    ------
    ConfigError
        As :func:`codec_chain`, and for a file in the options of a codec.
    """
    codecs, calls = codec_chain(text, files=True), [c for c in split(text, "+") if c != "none"]
    names = []
    for call, codec in zip(calls, codecs, strict=True):
        options = call.strip().removeprefix(read_call(call)[0])
        if file := next(files_in(options), None):
            raise ConfigError(
                f"codec {call!r}: {file} is in a file; an option names registered ones."
            )
        names.append(registry.registered_name("codecs", type(codec)) + options.strip())
    return "+".join(names) or "none"


def follows_progress(text: str, files: bool = False) -> bool:
    """Return whether a schedule in a chain depends on the number of rounds planned."""
    return any(map(is_scheduled, codec_chain(text, files)))


def uses_base(text: str) -> bool:
    """Return whether a chain refers to what the receiver decoded last."""
    return any(codec.uses_base for codec in codec_chain(text))
