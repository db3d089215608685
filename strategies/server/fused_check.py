"""The check of fused knowledge before it is sent: what a method's ``fuse`` may return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedkt.errors import ConfigError, KnowledgeError, of_class
from fedkt.knowledge import Fused, Knowledge
from fedkt.strategies.server.exchange import Exchange
from fedkt.text import foreign
from fedkt.upload_check import Expected, check

FORM = "Fused(shared={name: Knowledge}) or Fused(personal={client: {name: Knowledge}})"


def check_form(exchange: Exchange, fused: Any) -> None:
    """Check that ``fused`` holds knowledge under the recipe's names, for clients of the run.

    Raises
    ------
    ConfigError
        If it is something else, under another name, or for a client that is not there.
    """
    title, clients, recipe = exchange.title, exchange.clients, exchange.recipe
    of_class(fused, Fused, f"{title}: fuse() must return {FORM}, not {type(fused).__name__}.")
    everyone = frozenset(clients)
    strangers = [client for client in fused.personal if client not in everyone]
    if strangers:
        raise ConfigError(
            f"{title}: fuse() gave client {foreign(repr(strangers[0]))}, which is not "
            f"there; its clients are {foreign(list(clients))}."
        )
    names = {*(share.name for share in recipe.share), *recipe.given}
    gifts: list[tuple[str, Any]] = [("everyone", fused.shared)]
    gifts += [(f"client {client}", gift) for client, gift in fused.personal.items()]
    for whom, gift in gifts:
        named = gift.items() if isinstance(gift, Mapping) else [("its share", gift)]
        for name, knowledge in named:
            what = f"{type(knowledge).__name__} as {name!r}"
            of_class(knowledge, Knowledge, f"{title}: fuse() gave {whom} {what}, not {FORM}.")
            if name not in names:
                known = ", ".join(sorted(names)) or "none"
                raise ConfigError(
                    f"{title}: fuse() gave {whom} {foreign(repr(name))}, which nobody would be "
                    f"sent; the recipe shares or is given: {known}."
                )


def check_fused(exchange: Exchange, fused: Fused) -> None:
    """Check knowledge in due form: it can be sent, and has all that each participant reads.

    Raises
    ------
    ConfigError
        If a participant gets less than the recipe reads.
    KnowledgeError
        If knowledge is not sound, because it would ruin the clients.
    """
    recipe = exchange.recipe
    needed = dict.fromkeys((*recipe.needs("absorb"), *recipe.needs("learn")))
    for client in exchange.report.participants:
        missing = [n for n in needed if n not in fused.for_client(client)]
        if missing:
            raise ConfigError(f"{exchange.title}: fuse() gave client {client} no {missing[0]!r}.")
    for receiver, named in (("everyone", fused.shared), *fused.personal.items()):
        for name, knowledge in named.items():
            _check(name, knowledge, receiver, exchange.num_classes)


def _check(name: str, knowledge: Knowledge, receiver: object, num_classes: int) -> None:
    shapes = {n: tuple(t.shape) for n, t in knowledge.tensors.items()}
    if knowledge.kind in ("logits", "probabilities") and knowledge.ids is not None:
        shapes = {"values": (len(knowledge.ids), num_classes)}
    try:
        expected = Expected(knowledge.kind, knowledge.ids, shapes, partial=True)
        check(knowledge, expected, num_classes)
    except KnowledgeError as error:
        whom = receiver if receiver == "everyone" else f"client {receiver}"
        line = f"what fuse() gave {whom} as {name!r} cannot be sent: {error}"
        raise type(error)(line) from error
