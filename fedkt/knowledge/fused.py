"""Fused knowledge: what the server returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fedkt.knowledge.piece import Knowledge


@dataclass(frozen=True)
class Fused:
    """Fused knowledge that the server returns, for everyone or for single clients.

    Parameters
    ----------
    shared : Mapping[str, Knowledge]
        By share name, the same for every client (broadcast).
    personal : Mapping[int, Mapping[str, Knowledge]]
        By client id and share name, one for each client (unicast). An object that several clients
        get is encoded once, and counts as broadcast.
    diagnostics : Mapping[str, Any]
        JSON-like values or tensors about the round; written to the run's ``rounds.jsonl``.
    """

    shared: Mapping[str, Knowledge] = field(default_factory=dict)
    personal: Mapping[int, Mapping[str, Knowledge]] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)

    def for_client(self, client: int) -> dict[str, Knowledge]:
        """Return all that ``client`` receives, by share name."""
        return {**self.shared, **self.personal.get(client, {})}

    @cached_property
    def of_several(self) -> frozenset[int]:
        """The ``id()`` of the objects that several clients get, or all."""
        gifts = [{id(knowledge) for knowledge in own.values()} for own in self.personal.values()]
        receivers = Counter(key for gift in gifts for key in gift)
        shared = {id(knowledge) for knowledge in self.shared.values()}
        return frozenset(shared.union(key for key, count in receivers.items() if count > 1))

    def without_absent(self) -> Fused:
        """Return the same without rows of samples that nobody has: no client learns from them."""
        gifts = [self.shared, *self.personal.values()]
        known = {id(knowledge): knowledge for gift in gifts for knowledge in gift.values()}
        # Each piece once: the same for several clients is sent as one.
        kept = {key: knowledge.without_absent() for key, knowledge in known.items()}
        shared = {name: kept[id(knowledge)] for name, knowledge in self.shared.items()}
        personal = {
            client: {name: kept[id(knowledge)] for name, knowledge in gift.items()}
            for client, gift in self.personal.items()
        }
        return Fused(shared, personal, self.diagnostics)

    def with_diagnostics(self, **diagnostics: Any) -> Fused:
        """Return the same knowledge with ``diagnostics`` added."""
        return Fused(self.shared, self.personal, {**self.diagnostics, **diagnostics})
