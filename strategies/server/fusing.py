"""The fusion of a round: tried again without the largest uploads if it is not finite."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from fedkt.errors import FedktError, KnowledgeError, NotFiniteError, RunFailedError
from fedkt.fusion import FusionRound
from fedkt.knowledge import Fused, Upload, Uploads
from fedkt.readouts import ReadOut
from fedkt.strategies.server.bounds import magnitude
from fedkt.strategies.server.exchange import Exchange
from fedkt.strategies.server.fused_check import check_form, check_fused
from fedkt.strategies.server.model import ServerModels
from fedkt.text import raised


class Fusing(Protocol):
    """The parts of a strategy that the fusion of a round uses."""

    @property
    def title(self) -> str:
        """The name for messages."""
        ...

    @property
    def memory(self) -> dict[str, Any]:
        """Values that the method keeps from round to round."""
        ...

    @property
    def model(self) -> ServerModels:
        """The models at the server."""
        ...

    @property
    def exchange(self) -> Exchange:
        """The exchange with the clients."""
        ...

    def fuse(self, uploads: Uploads) -> Fused:
        """Return knowledge for the clients."""
        ...


def fuse(strategy: Fusing, uploads: Uploads) -> list[int]:
    """Fuse the uploads of a round, accept the result, and return the clients in it.

    Finite numbers may have a sum, or a square, that is not finite. While the fused knowledge holds
    NaN or infinity, the upload of largest magnitude is dropped with its reason. If it holds them
    without the larger half of the uploads too, their size is not the cause, and the run fails.

    Parameters
    ----------
    strategy : KnowledgeStrategy
        The strategy. Another call of its ``fuse`` starts from the same memory and models.
    uploads : Uploads
        All sound uploads.

    Returns
    -------
    list[int]
        Clients whose uploads are in the fusion, ascending: the participants of the round.

    Raises
    ------
    RunFailedError
        If ``fuse`` raises, or returns knowledge that cannot be sent.
    """
    before = _snapshot(strategy)
    try:
        fused = _attempt(strategy, uploads)
    except NotFiniteError as error:
        fused, kept = _without_largest(strategy, uploads, before, error)
        uploads = Uploads(kept)
    strategy.exchange.accept(fused)
    return list(uploads.clients)


def _without_largest(
    strategy: Fusing, uploads: Uploads, before: Any, fault: NotFiniteError
) -> tuple[Fused, Sequence[Upload]]:
    ascending = sorted(uploads, key=lambda upload: (magnitude(upload), upload.client))
    half = len(ascending) // 2
    if not half or _again(strategy, ascending[:-half], before) is None:
        raise RunFailedError(f"{_where(strategy)}: {fault}") from fault
    fused, kept = None, ascending
    while fused is None:  # with half of them it is finite, so this ends
        dropped, kept = kept[-1], kept[:-1]
        text = f"the fusion with it is not finite, and its numbers go up to {magnitude(dropped):g}"
        strategy.exchange.withdraw(dropped.client, "share", text)
        fused = _again(strategy, kept, before)
    return fused, kept


def _again(strategy: Fusing, uploads: Sequence[Upload], before: Any) -> Fused | None:
    """Return the fusion of some uploads from the earlier memory; None if it is not finite."""
    _restore(strategy, before)
    try:
        return _attempt(strategy, Uploads(uploads))
    except NotFiniteError:
        return None


def _attempt(strategy: Fusing, uploads: Uploads) -> Fused:
    strategy.exchange.report.participants = list(uploads.clients)
    try:
        fused = strategy.fuse(uploads)
        check_form(strategy.exchange, fused)
        fused = with_readout(strategy.exchange.recipe.personal, uploads, fused)
    except NotFiniteError:
        raise
    except KnowledgeError as error:  # such as a fusion that needs the rows that a client lacks
        raise RunFailedError(f"{_where(strategy)}: {error}") from error
    except FedktError:
        raise
    except Exception as error:
        reason = f"fuse() raised {raised(error)}"
        raise RunFailedError(f"{_where(strategy)}: {reason}") from error
    try:
        check_fused(strategy.exchange, fused)
    except NotFiniteError:
        raise
    except KnowledgeError as error:
        raise RunFailedError(f"{_where(strategy)}: {error}") from error
    return fused.without_absent()


def fusion_round(strategy: Fusing) -> FusionRound:
    """Return the facts of a strategy's round for a fusion by name, with the strategy's memory."""
    exchange = strategy.exchange
    number, options = exchange.report.round, exchange.options
    labels, memory = options.public_labels, strategy.memory
    return FusionRound(number, exchange.num_classes, options.seed, labels, memory)


def with_readout(readout: ReadOut, uploads: Uploads, fused: Fused) -> Fused:
    """Return fused knowledge with that of the read-out's shares, unless it has it already."""
    given = set(fused.shared).union(*fused.personal.values())
    names = [share.name for share in readout.shares() if share.name not in given]
    more = {name: readout.fuse(uploads[name]) for name in names}
    return replace(fused, shared={**fused.shared, **more}) if more else fused


def _where(strategy: Fusing) -> str:
    return f"{strategy.title}, round {strategy.exchange.report.round}"


def _snapshot(strategy: Fusing) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return copies of the memory and of the models' states, which a fusion may change."""
    return copy.deepcopy(strategy.memory), strategy.model.states()


def _restore(strategy: Fusing, before: tuple[dict[str, Any], dict[str, Any]]) -> None:
    memory, states = before
    strategy.memory.clear()
    strategy.memory.update(copy.deepcopy(memory))
    strategy.model.load_states(states)
