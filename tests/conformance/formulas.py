"""What a strategy must send, derived from its recipe and the sizes of things alone.

Written apart from the library's own accounting, so that an error there cannot agree with
itself: no message, packet or report is looked at here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from fedkt.knowledge import Fused, Knowledge
from fedkt.models import build_model
from fedkt.objectives.heads import Head
from fedkt.readouts.gate import HeldOutLosses
from fedkt.recipe import Predict, Recipe, Styles, Validation, Weights
from fedkt.simulations.runs.run import Plan

from .grids import Meter
from .kit import Method, Outcome

FLOAT32, FLOAT16, INT64 = 4, 2, 8


@dataclass(frozen=True)
class Sizes:
    """The sizes that formulas are made of."""

    public: int  # M, samples in the public set
    classes: int  # C
    parameters: int  # P, float parameters and buffers of the model
    norms: int = 0  # of them in batch normalisation
    heads: int = 0  # parameters of the recipe's heads
    width: int = FLOAT32  # bytes a float travels in
    channels: int = 1  # of images

    @classmethod
    def of(cls, plan: Plan) -> Sizes:
        federation = plan.federation
        model = build_model(
            plan.population.models[0], federation.input_shape, federation.num_classes
        )
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
        heads = plan.recipe.heads
        return cls(
            public=len(federation.public_x),
            classes=federation.num_classes,
            parameters=_floats(model),
            norms=sum(map(_floats, norms)),
            heads=sum(_head(h, _features(model), federation.num_classes) for h in heads),
            channels=federation.input_shape[0],
            width=FLOAT16 if plan.experiment.run.codec == "float16" else FLOAT32,
        )


def _floats(module: nn.Module) -> int:
    return sum(t.numel() for t in module.state_dict().values() if t.is_floating_point())


def _features(model: nn.Module) -> int:
    """Return d: the inputs of the last linear layer, or of the part the model names."""
    named = getattr(model, "feature_layer", None)
    where = model.get_submodule(named) if named else model
    linear = [m for m in where.modules() if isinstance(m, nn.Linear)]
    return linear[0 if named else -1].in_features if linear else 0


def _head(head: Head, features: int, classes: int) -> int:
    """Return the parameters of a head: weights and biases, and two a normalised unit."""
    total, before = 0, {"features": features, "classes": classes, "pair": 2 * features}[head.inputs]
    for number, layer in enumerate(head.layers, 1):
        after = {0: features, -1: classes}.get(layer, layer)
        hidden = number < len(head.layers)
        total += before * after + after + (2 * after if head.norm and hidden else 0)
        before = after
    return total


def _predict(share: Predict, sizes: Sizes) -> int:
    rows = min(share.samples or sizes.public, sizes.public)
    if share.form == "labels":
        return INT64 * rows
    return sizes.width * rows * sizes.classes


def _weights(share: Weights, sizes: Sizes) -> int:
    left_out = sizes.norms if share.local_norms else 0
    return sizes.width * (sizes.parameters + sizes.heads - left_out)


def _gate(share: HeldOutLosses, sizes: Sizes) -> int:
    return sizes.width * 75


def _styles(share: Styles, sizes: Sizes) -> int:
    return sizes.width * 2 * sizes.channels * (1 if share.of == "overall" else share.images)


def _validation(share: Validation, sizes: Sizes) -> int:
    return sizes.width * 4


# A new kind of share adds its formula here.
UPLOADS: Mapping[type, Callable[[Any, Sizes], int]] = {
    Predict: _predict,
    Weights: _weights,
    HeldOutLosses: _gate,
    Styles: _styles,
    Validation: _validation,
}


def upload(recipe: Recipe, sizes: Sizes) -> int:
    """Return the bytes one participant uploads in a round."""
    total = 0
    for share in recipe.share:
        if type(share) not in UPLOADS:
            pytest.fail(f"tests/conformance/formulas.py has no formula for {type(share).__name__}")
        total += UPLOADS[type(share)](share, sizes)
    return total


def knowledge(one: Knowledge, recipe: Recipe, name: str, sizes: Sizes) -> int:
    """Return the bytes of fused knowledge on its way down."""
    total = 0
    for tensor in one.tensors.values():
        size = sizes.width if tensor.dtype == torch.float32 else tensor.element_size()
        total += size * tensor.numel()
    share = next((s for s in recipe.share if s.name == name), None)  # None: the server's own
    if one.ids is not None:  # ids travel unless they are those that were asked for
        asked = (
            min(share.samples or sizes.public, sizes.public) if isinstance(share, Predict) else 0
        )
        total += 0 if len(one.ids) == asked else INT64 * len(one.ids)
    if one.counts is not None:
        total += INT64 * len(one.counts)
    return total


@dataclass(frozen=True)
class Down:
    """Bytes one client is sent in one round."""

    unicast: int = 0
    broadcast: int = 0


def downloads(
    recipe: Recipe, sizes: Sizes, taking_part: Sequence[Sequence[int]], fused: Mapping[int, Fused]
) -> list[dict[int, Down]]:
    """Return what each participant is sent in each round, if nobody fails.

    A client is sent what the phase at hand reads, unless it holds that very version: what
    was fused in a round arrives in that round to be absorbed, or, if only ``learn`` reads
    it, the next time the client takes part. Strategies that exchange weights have first
    weights, version 0.

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
    """
    first = {s.name: _weights(s, sizes) for s in recipe.share if isinstance(s, Weights)}
    held: dict[tuple[int, str], int] = {}
    version, rounds = 0, []

    def send(client: int, names: Sequence[str]) -> Down:
        unicast = broadcast = 0
        for name in names:
            if held.get((client, name)) == version:
                continue
            latest = fused.get(version, Fused())
            own = latest.personal.get(client, {})
            if name in own:
                unicast += knowledge(own[name], recipe, name, sizes)
            elif name in latest.shared:
                broadcast += knowledge(latest.shared[name], recipe, name, sizes)
            elif version == 0 and name in first:
                broadcast += first[name]
            else:
                continue  # nothing to send yet
            held[client, name] = version
        return Down(unicast, broadcast)

    for number, clients in enumerate(taking_part, 1):
        learn = {c: send(c, [*recipe.needs("start"), *recipe.needs("learn")]) for c in clients}
        version = number if number in fused else version
        absorb = {c: send(c, recipe.needs("absorb")) for c in clients}
        rounds.append({
            c: Down(learn[c].unicast + absorb[c].unicast, learn[c].broadcast + absorb[c].broadcast)
            for c in clients
        })  # fmt: skip
    return rounds


def assert_bytes(method: Method, plan: Plan, outcome: Outcome) -> None:
    """Require that a metered run in which nobody failed sent what the formulas say."""
    meter = outcome.engine
    assert isinstance(meter, Meter)
    recipe, sizes = method.recipe, Sizes.of(plan)
    taking_part = [report.participants for report in outcome.reports]
    down = downloads(recipe, sizes, taking_part, outcome.fused)
    for number, report in enumerate(outcome.reports, 1):
        expected = down[number - 1]
        for client in range(plan.federation.num_clients):
            there = client in report.participants
            due = upload(recipe, sizes) if there else 0
            got = meter.up.get((client, number), 0)
            law = f"{method}: client {client} uploads {due} bytes in round {number}"
            assert got == due, f"{law}; but {got}"
            share = expected.get(client, Down())
            due, got = share.unicast + share.broadcast, meter.down.get((client, number), 0)
            law = f"{method}: client {client} is sent {due} bytes in round {number}"
            assert got == due, f"{law}; but {got}"
        traffic, shares = report.traffic, expected.values()
        told = traffic.up, traffic.down_unicast, traffic.down_broadcast
        totals = (
            len(report.participants) * upload(recipe, sizes),
            sum(share.unicast for share in shares),
            sum(share.broadcast for share in shares),
        )
        law = f"{method}: bytes up, by unicast and by broadcast in round {number} are {totals}"
        assert told == totals, f"{law}; but the round reports {told}"
