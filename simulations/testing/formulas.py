"""What a strategy must send, derived from its recipe and the sizes of things alone.

Every share has its own formula (``upload_bytes``). No message, packet or report is looked at here,
so an error in the accounting cannot agree with itself. Only what a share's own codec makes of
knowledge is found by encoding it once more, because that depends on the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import torch
from torch import nn

from fedkt import wire
from fedkt.clients.learners.nets import built_heads
from fedkt.codecs import Size, codec_chain, uses_base
from fedkt.decoded import Base
from fedkt.knowledge import Fused, Knowledge
from fedkt.models import build_model
from fedkt.recipe import Recipe
from fedkt.shares import Share, Sizes
from fedkt.simulations.runs.plan import Plan
from fedkt.testing.grids import Meter
from fedkt.testing.kit import Method, Outcome

INT64 = 8


def sizes_of(plan: Plan, client: int = 0) -> Sizes:
    """Return the sizes of a plan's federation and of a client's model."""
    federation = plan.federation
    shape, classes = federation.input_shape, federation.num_classes
    reference = plan.population.model_of(client)
    built = build_model(reference, shape, classes)
    model = built if isinstance(built, nn.Module) else nn.Module()  # a forest has no tensors
    norms = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    floats, width = _floats(model), _features(model)
    build = partial(build_model, reference, shape, classes)
    modules = built_heads(plan.recipe.heads, model, build, shape, classes)
    heads = {f"heads.{n}.{t}": size for n, m in modules.items() for t, size in _floats(m).items()}
    return Sizes(
        public=len(federation.public_x),
        classes=federation.num_classes,
        input_shape=federation.input_shape,
        tensors={**floats, **heads},
        norms=frozenset(n for n in floats if n.rpartition(".")[0] in norms),
        head=frozenset(n for n in floats if n.startswith(_classifier(model))),
        features=width,
        floats=2 if plan.experiment.run.codec == "float16" else 4,
        private=len(federation.client(client).train),
    )


def _floats(module: nn.Module) -> dict[str, int]:
    """Return how many numbers each tensor holds that is a client's own: none of the frozen."""
    named = module.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in named if not parameter.requires_grad}
    state = module.state_dict().items()
    return {n: t.numel() for n, t in state if t.is_floating_point() and n not in frozen}


def _classifier(model: nn.Module) -> str:
    """Return what the names of the tensors begin with that the features go into."""
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    named = getattr(model, "feature_layer", None)
    return f"{named or linear[-1]}." if named or linear else "none"


def _features(model: nn.Module) -> int:
    """Return d: the inputs of the last linear layer, or of the part the model names."""
    named = getattr(model, "feature_layer", None)
    where = model.get_submodule(named) if named else model
    linear = [m for m in where.modules() if isinstance(m, nn.Linear)]
    return linear[0 if named else -1].in_features if linear else 0


def upload(recipe: Recipe, sizes: Sizes) -> tuple[int, int]:
    """Return the least and the most bytes that one participant uploads in a round."""
    bounds = [_bounds(share, recipe, sizes) for share in recipe.share]
    return sum(low for low, _ in bounds), sum(high for _, high in bounds)


def _bounds(share: Share, recipe: Recipe, sizes: Sizes) -> tuple[int, int]:
    """Return the least and the most bytes of a share; of one with a codec the codec says which."""
    chain = codec_chain(recipe.codec(share.name, "up", "none"))
    formula = share.upload_bytes(replace(sizes, floats=4) if chain else sizes)
    least, most = (formula, formula) if isinstance(formula, int) else formula
    size = Size(max(1, len(sizes.tensors)), most)
    for codec in chain:
        size = codec.encoded_size(size)
    return (0, size.bytes) if chain else (least, most)


def knowledge(
    one: Knowledge, recipe: Recipe, name: str, sizes: Sizes, seed: int = 0, round_: int = 1
) -> int:
    """Return the bytes of fused knowledge of a round on its way down."""
    total = 0
    for tensor in one.tensors.values():
        size = sizes.floats if tensor.dtype == torch.float32 else tensor.element_size()
        total += size * tensor.numel()
    share = next((s for s in recipe.share if s.name == name), None)  # None: the server's own
    if one.ids is not None:  # ids travel unless they are those that were asked for
        asked = None if share is None else share.ids(sizes.public, seed, round_)
        known = asked is not None and len(one.ids) == len(asked)
        total += 0 if known else INT64 * len(one.ids)
    if one.counts is not None:
        total += INT64 * len(one.counts)
    return total


def coded(
    one: Knowledge,
    recipe: Recipe,
    name: str,
    sizes: Sizes,
    seed: int,
    round_: int,
    base: Base | None,
) -> tuple[int, Base | None]:
    """Return the bytes of knowledge with a codec of its own, and what its receiver then holds."""
    codec, ids = recipe.codec(name, "down", "none"), partial(recipe.ids, name, sizes.public, seed)
    packet = wire.encode(one, round_, ids(round_), codec, base)
    if not uses_base(codec):
        return packet.num_bytes, None
    decoded = wire.decode(packet, ids, codec, base=base)
    return packet.num_bytes, wire.next_base(packet, decoded, codec, base)


@dataclass(frozen=True)
class Down:
    """Bytes one client is sent in one round."""

    unicast: int = 0
    broadcast: int = 0


@dataclass
class _Server:
    """What the server has for its clients, and what each of them holds of it."""

    recipe: Recipe
    sizes: Sizes
    fused: Mapping[int, Fused]
    seed: int
    version: int = 0
    held: dict[tuple[int, str], int] = field(default_factory=dict)
    bases: dict[tuple[int, str], Base | None] = field(default_factory=dict)

    def send(self, client: int, names: Sequence[str]) -> Down:
        """Return the bytes of what a client lacks."""
        unicast = broadcast = 0
        for name in names:
            if self.held.get((client, name)) == self.version:
                continue
            latest = self.fused.get(self.version, Fused())
            due = latest.for_client(client).get(name)
            if due is not None and id(due) not in latest.of_several:
                unicast += self._cost(client, name, due)
            elif due is not None:
                broadcast += self._cost(client, name, due)
            elif self.version == 0 and name in self._first:
                broadcast += self._first[name]
            else:
                continue  # nothing to send yet
            self.held[client, name] = self.version
        return Down(unicast, broadcast)

    @property
    def _first(self) -> dict[str, int]:
        """The bytes of first weights, as many as those of an upload."""
        shares = [share for share in self.recipe.share if share.kind == "weights"]
        uploads = {share.name: share.upload_bytes(self.sizes) for share in shares}
        return {name: size for name, size in uploads.items() if isinstance(size, int)}

    def _cost(self, client: int, name: str, due: Knowledge) -> int:
        facts = self.recipe, name, self.sizes, self.seed, max(self.version, 1)
        if not codec_chain(self.recipe.codec(name, "down", "none")):
            return knowledge(due, *facts)
        size, self.bases[client, name] = coded(due, *facts, self.bases.get((client, name)))
        return size


def downloads(
    recipe: Recipe,
    sizes: Sizes,
    taking_part: Sequence[Sequence[int]],
    fused: Mapping[int, Fused],
    seed: int = 0,
) -> list[dict[int, Down]]:
    """Return what each participant is sent in each round, if nobody fails.

    A client is sent what the phase at hand reads, unless it holds that very version: what
    was fused in a round arrives in that round to be absorbed, or, if only ``learn`` reads
    it, the next time the client takes part; what ``start`` alone reads, the first time. Strategies
    that exchange weights have first weights, version 0.

    Parameters
    ----------
    recipe : Recipe
        What the clients do.
    sizes : Sizes
        The sizes.
    taking_part : Sequence of sequences of int
        The clients of each round.
    fused : Mapping[int, Fused]
        What ``fuse`` returned in each round, for the shapes of what it makes; under 0 what
        ``first`` returned.
    seed : int
        The run's, by which both sides derive the ids of rows.
    """
    server, rounds = _Server(recipe, sizes, fused, seed), []
    begun: set[int] = set()
    for number, clients in enumerate(taking_part, 1):
        names = [*recipe.needs("start"), *recipe.needs("learn")]
        later = [name for name in names if name not in recipe.once]
        learn = {c: server.send(c, later if c in begun else names) for c in clients}
        begun.update(clients)
        server.version = number if number in fused else server.version
        absorb = {c: server.send(c, recipe.needs("absorb")) for c in clients}
        rounds.append({
            c: Down(learn[c].unicast + absorb[c].unicast, learn[c].broadcast + absorb[c].broadcast)
            for c in clients
        })  # fmt: skip
    return rounds


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def assert_bytes(method: Method, plan: Plan, outcome: Outcome) -> None:
    """Require that a metered run in which nobody failed sent what the formulas say."""
    meter = cast(Meter, outcome.engine)
    recipe, sizes = method.recipe.for_the_wire(), sizes_of(plan)
    taking_part = [report.participants for report in outcome.reports]
    down = downloads(recipe, sizes, taking_part, outcome.fused, plan.experiment.seed)
    for number, report in enumerate(outcome.reports, 1):
        expected = down[number - 1]
        for client in range(plan.federation.num_clients):
            there = client in report.participants
            least, most = upload(recipe, sizes_of(plan, client)) if there else (0, 0)
            got = meter.up.get((client, number), 0)
            law = f"{method}: client {client} uploads {_range(least, most)} bytes in round {number}"
            assert least <= got <= most, f"{law}; but {got}"
            share = expected.get(client, Down())
            due, got = share.unicast + share.broadcast, meter.down.get((client, number), 0)
            law = f"{method}: client {client} is sent {due} bytes in round {number}"
            assert got == due, f"{law}; but {got}"
        traffic, shares = report.traffic, expected.values()
        told = traffic.up, traffic.down_unicast, traffic.down_broadcast
        totals = (
            sum(meter.up.get((client, number), 0) for client in report.participants),
            sum(share.unicast for share in shares),
            sum(share.broadcast for share in shares),
        )
        law = f"{method}: bytes up, by unicast and by broadcast in round {number} are {totals}"
        assert told == totals, f"{law}; but the round reports {told}"
