"""The laws of fusions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedkt.errors import ConfigError, KnowledgeError
from fedkt.fusion import Fusion, FusionRound
from fedkt.knowledge import KINDS, Fused, Kind, Knowledge, Stack, Upload, Uploads

CLIENTS, CLASSES = (1, 2, 4, 7, 8, 9), 4
EXAMPLES = (10, 30, 5, 60, 1, 9)
IDS = torch.tensor([2, 3, 5, 7, 8, 11])
CLASS_IDS = torch.arange(CLASSES)
TOLERANCE = 1e-5


def check_fusion(fusion: Fusion) -> None:
    """Require that a fusion keeps the laws, for every kind of knowledge that it fuses.

    It changes no upload; the same uploads give the same result, finite, of the rows that were
    sent, with probabilities on the simplex; the order of the clients does not matter; the sums say
    the same as the uploads (``sums``, ``from_sums``), also where rows are absent, or ``single``
    says why there are none; absent rows have no influence or are refused.

    Parameters
    ----------
    fusion : Fusion
        With its options.

    Raises
    ------
    AssertionError
        Naming the first law that is broken, or that it fuses no kind of knowledge at all.
    """
    fused: list[str] = []
    name = type(fusion).__name__
    for kind in sorted(KINDS):
        pieces = [knowledge_of(kind, client) for client in CLIENTS]
        try:
            fuse(fusion, stack_of(pieces))
        except (ConfigError, KnowledgeError):  # not of this kind, or not with these options
            continue
        fused.append(kind)
        _is_a_function(fusion, pieces, f"{name} of {kind}")
        _keeps_no_order(fusion, pieces, f"{name} of {kind}")
        _agrees_with_its_sums(fusion, pieces, f"{name} of {kind}")
        if pieces[0].ids is not None:
            some = _with_absent_rows(pieces)
            _leaves_out_absent_rows(fusion, some, f"{name} of {kind}")
            if fusion.partial:
                _agrees_with_its_sums(fusion, some, f"{name} of {kind} with absent rows")
    assert fused, f"{name}: it fuses no kind of knowledge: {', '.join(sorted(KINDS))}"


def knowledge_of(kind: Kind, seed: int) -> Knowledge:
    """Return made-up knowledge of a kind; of rows six samples or four classes."""
    random = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return 2 * torch.randn(*shape, generator=random)

    if kind == "labels":
        return Knowledge.rows(kind, torch.randint(CLASSES, (len(IDS),), generator=random), IDS)
    if kind == "probabilities":
        return Knowledge.rows(kind, drawn(len(IDS), CLASSES).softmax(-1), IDS)
    if kind in ("logits", "features"):
        return Knowledge.rows(kind, drawn(len(IDS), CLASSES), IDS)
    if kind in ("class-logits", "prototypes"):
        return Knowledge.rows(kind, drawn(CLASSES, CLASSES), CLASS_IDS)
    return Knowledge(kind, {"a/b": drawn(2, 3), "scale": drawn(1)[0]})


def stack_of(pieces: list[Knowledge]) -> Stack:
    """Return the stack of clients' knowledge."""
    return Uploads(uploads_of(pieces))["it"]


def uploads_of(pieces: list[Knowledge]) -> list[Upload]:
    """Return the clients' uploads."""
    whose = zip(CLIENTS, EXAMPLES, pieces, strict=True)
    return [Upload(client, examples, {"it": piece}) for client, examples, piece in whose]


def fuse(fusion: Fusion, stack: Stack) -> dict[int, Knowledge]:
    """Return what each client gets."""
    labels = torch.arange(int(IDS.max()) + 1) % CLASSES
    result = fusion(stack, FusionRound(1, CLASSES, seed=0, labels=labels))
    if not isinstance(result, Mapping):
        return dict.fromkeys(stack.clients, result)
    law = "a fusion for each client gives knowledge to all of them"
    assert set(result) == set(stack.clients), f"{type(fusion).__name__}: {law}"
    return dict(result)


def _is_a_function(fusion: Fusion, pieces: list[Knowledge], what: str) -> None:
    stack = stack_of(pieces)
    before = {name: tensor.clone() for name, tensor in stack.tensors.items()}
    first = fuse(fusion, stack)
    for name, tensor in stack.tensors.items():
        assert torch.equal(tensor, before[name]), f"{what}: it changes the uploads"
    again = fuse(fusion, stack_of(pieces))
    for client, knowledge in first.items():
        for tensor in knowledge.tensors.values():
            assert bool(tensor.double().isfinite().all()), f"{what}: its result is not finite"
        assert _gap(knowledge, again[client]) == 0, f"{what}: the same uploads, another result"
        if knowledge.ids is not None:
            known = stack.ids is not None and bool(torch.isin(knowledge.ids, stack.ids).all())
            assert known, f"{what}: rows that nobody sent are in its result"
        if knowledge.kind == "probabilities":
            off = (knowledge.values.sum(-1) - 1).abs().max() > TOLERANCE
            assert not off, f"{what}: probabilities do not sum to 1"


def _keeps_no_order(fusion: Fusion, pieces: list[Knowledge], what: str) -> None:
    stack, order = stack_of(pieces), [3, 0, 5, 1, 4, 2]
    turned = replace(
        stack,
        tensors={name: tensor[order] for name, tensor in stack.tensors.items()},
        clients=tuple(stack.clients[k] for k in order),
        num_examples=stack.num_examples[order],
    )
    ours, theirs = fuse(fusion, stack), fuse(fusion, turned)
    for client in CLIENTS:
        gap = _gap(ours[client], theirs[client])
        assert gap < TOLERANCE, f"{what}: the order of the clients changes the result by {gap:g}"


def _agrees_with_its_sums(fusion: Fusion, pieces: list[Knowledge], what: str) -> None:
    uploads = uploads_of(pieces)
    each = [fusion.sums(u.knowledge["it"], u.num_examples) for u in uploads]
    if None in each:
        assert fusion.single, f"{what}: without sums, `single` has to say why uploads are needed"
        return
    assert not fusion.single, f"{what}: it has sums, and `single` says it needs uploads"
    summed: dict[str, Tensor] = {}
    for summands in each:
        for name, tensor in (summands or {}).items():
            summed[name] = summed[name] + tensor if name in summed else tensor
    whole = next(iter(fuse(fusion, stack_of(pieces)).values()))
    of_sums = fusion.from_sums(summed)
    if of_sums.ids is not None and pieces[0].ids is not None:  # places in the uploads
        of_sums = replace(of_sums, ids=pieces[0].ids[of_sums.ids])
    gap = _gap(whole, of_sums)
    assert gap < TOLERANCE, f"{what}: the sums give another result, {gap:g} apart"


def _with_absent_rows(pieces: list[Knowledge]) -> list[Knowledge]:
    """Return knowledge that lacks rows, the third one everywhere, with counts of the others."""
    rows = len(pieces[0].values)
    counts = 1 + (torch.arange(len(pieces))[:, None] + torch.arange(rows)) % 3
    counts[0, 0] = counts[2, 1] = counts[3, 0] = 0
    counts[:, 2] = 0
    return [replace(p, counts=c) for p, c in zip(pieces, counts, strict=True)]


def _leaves_out_absent_rows(fusion: Fusion, some: list[Knowledge], what: str) -> None:
    if not fusion.partial:
        try:
            fuse(fusion, stack_of(some))
        except KnowledgeError:
            return
        raise AssertionError(f"{what}: it is not partial, and fuses uploads that lack rows")
    others = [knowledge_of(p.kind, 50 + seed) for seed, p in enumerate(some)]
    spoilt = [_where_absent(p, other) for p, other in zip(some, others, strict=True)]
    ours, theirs = fuse(fusion, stack_of(some)), fuse(fusion, stack_of(spoilt))
    for client in CLIENTS:
        known, other = (_known_rows(result[client]) for result in (ours, theirs))
        assert _gap(known, other) < TOLERANCE, f"{what}: absent rows change the result"
        assert known.ids is not None
        kept = known.ids if known.counts is None else known.ids[known.counts > 0]
        assert some[0].ids is not None
        nobody = int(some[0].ids[2])
        assert nobody not in kept.tolist(), f"{what}: a row that nobody has is in the result"


def _where_absent(knowledge: Knowledge, other: Knowledge) -> Knowledge:
    """Return the knowledge with other numbers in its absent rows."""
    assert knowledge.counts is not None
    present = knowledge.counts > 0
    present = present.view(-1, *[1] * (knowledge.values.dim() - 1))
    return knowledge.with_tensors({"values": torch.where(present, knowledge.values, other.values)})


def _known_rows(knowledge: Knowledge) -> Knowledge:
    return Fused(shared={"it": knowledge}).without_absent().shared["it"]


def _gap(one: Knowledge, other: Knowledge) -> float:
    """Return the largest difference of two pieces of knowledge; infinite if their form differs."""

    def form(it: Knowledge) -> Any:
        ids = None if it.ids is None else it.ids.tolist()
        counts = None if it.counts is None else it.counts.tolist()
        return it.kind, ids, counts, {name: tensor.shape for name, tensor in it.tensors.items()}

    if form(one) != form(other):
        return float("inf")
    gaps: Iterator[Tensor] = (
        (tensor.double() - other.tensors[name].double()).abs().max()
        for name, tensor in one.tensors.items()
        if tensor.numel()
    )
    return max(map(float, gaps), default=0.0)
