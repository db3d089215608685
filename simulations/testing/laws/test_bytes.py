"""What travels is what the formula says, for every client and round, in both directions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from fedkt.shares import Share, Sizes
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.run import execute
from fedkt.testing.formulas import assert_bytes, sizes_of
from fedkt.testing.grids import Meter
from fedkt.testing.kit import Method, federate, plan_for

CLIENTS, ROUNDS = 4, 3


@pytest.mark.parametrize(
    "run",
    [{}, {"participation": 0.5}, {"codec": "float16"}],
    ids=["everyone", "half-take-part", "float16"],
)
def test_bytes_are_the_formula(exchange: Method, run: dict[str, Any]) -> None:
    plan = plan_for(exchange, clients=CLIENTS, rounds=ROUNDS, **run)
    assert_bytes(exchange, plan, federate(plan, grid=Meter))


def holds_integers(share: Share) -> bool:
    """Return whether labels, counts or ids travel with a share's knowledge."""
    sizes = Sizes(public=8, classes=8, input_shape=(1, 8, 8), tensors={"w": 8}, features=8)
    whole, half = share.upload_bytes(sizes), share.upload_bytes(replace(sizes, floats=2))
    return isinstance(whole, tuple) or isinstance(half, tuple) or whole != 2 * half


def test_float16_halves_the_floats(parcel: Method) -> None:
    outcomes = [
        federate(plan_for(parcel, clients=CLIENTS, rounds=1, codec=c), grid=Meter)
        for c in ("none", "float16")
    ]
    plain, half = (cast(Meter, outcome.engine) for outcome in outcomes)
    for one, other, way in ((plain.up, half.up, "up"), (plain.down, half.down, "down")):
        if any(holds_integers(share) for share in parcel.recipe.share):
            continue  # integers keep their size
        if way == "down" and parcel.recipe.given:
            continue  # so do the ids of what the server gives; the formula above counts them
        found = {place: (n, other[place]) for place, n in one.items() if n != 2 * other[place]}
        assert not found, f"{parcel}: float16 halves what goes {way}; but {found}"


def test_run_directory_tells_bytes_per_client(exchange: Method, tmp_path: Path) -> None:
    plan = plan_for(exchange, clients=CLIENTS, rounds=2)
    outcome = federate(plan)
    execute(plan, tmp_path, label="conformance")
    for row, report in zip(read_rounds(tmp_path), outcome.reports, strict=True):
        told = row["bytes_up"] * CLIENTS, row["bytes_down"] * CLIENTS
        due = report.traffic.up, report.traffic.down
        assert told == due, f"{exchange}: bytes_up and bytes_down are means over all clients"


# --- the published strategies' own formulas, by hand ------------------------------------------

M, C = 40, 10
P = 64 * 64 + 64 + 64 * 10 + 10  # mlp on 8 × 8 pixels
DANN = P + 100 * 64 + 502  # with the domain head on 64 features
N, R = CLIENTS, ROUNDS
H = P + 64 * (64 + 3) + 2  # with FADA's judge
T = 16 * (4 * 64 + 8)  # features of 16 target samples, and their ids
# Bytes up, down by unicast and down by broadcast over all rounds and clients.
BY_HAND: dict[str, tuple[int, int, int]] = {
    "local": (0, 0, 0),
    "fedmd": (4 * M * C * N * R, 0, 4 * M * C * N * R),
    "fedmd(form=probabilities, public_samples=16)": (4 * 16 * C * N * R, 0, 4 * 16 * C * N * R),
    "knfu": (4 * M * C * N * R, 4 * M * C * N * R, 0),
    "fedavg": (4 * P * N * R, 0, 4 * P * N * (R + 1)),
    "fedprox": (4 * P * N * R, 0, 4 * P * N * (R + 1)),
    "fada(disentangle=False, target_samples=16)": (
        4 * H * N * R,
        0,
        4 * H * N * (R + 1) + T * N * R,
    ),
    "kd3a": (4 * P * N * R, 0, 4 * P * N * (R + 1)),
    "fedbn": (4 * P * N * R, 0, 4 * P * N * (R + 1)),
    "f-dann": (4 * DANN * N * R, 0, 4 * DANN * N * (R + 1)),
    "f-dan": (4 * P * N * R, 0, 4 * P * N * (R + 1)),
    "f-coral": (4 * P * N * R, 0, 4 * P * N * (R + 1)),
    "source-only": (0, 0, 0),
}


@pytest.mark.parametrize("reference", BY_HAND)
def test_published_formula(reference: str) -> None:
    outcome = federate(plan_for(Method(reference), clients=CLIENTS, rounds=ROUNDS))
    traffic = [report.traffic for report in outcome.reports]
    told = (
        sum(t.up for t in traffic),
        sum(t.down_unicast for t in traffic),
        sum(t.down_broadcast for t in traffic),
    )
    assert told == BY_HAND[reference], f"{reference}: bytes up, unicast, broadcast"


def test_normalisation_that_stays_at_home_does_not_travel() -> None:
    plan = plan_for(Method("fedbn"), clients=CLIENTS, models=("resnet8-bn",), rounds=2)
    outcome, sizes = federate(plan), sizes_of(plan)
    norms = sum(sizes.tensors[name] for name in sizes.norms)
    assert norms == 4 * (16 + 2 * 16 + 3 * 32 + 3 * 64)
    due = 4 * (sum(sizes.tensors.values()) - norms) * CLIENTS
    assert [report.traffic.up for report in outcome.reports] == [due, due]
    assert [report.traffic.down for report in outcome.reports] == [2 * due, due]


def test_weights_after_an_absence_cost_one_more() -> None:
    method = Method("fedavg")
    outcome = federate(plan_for(method, clients=CLIENTS, rounds=6, participation=0.5))
    before: set[int] = set()
    for report in outcome.reports:
        now = set(report.participants)
        due = 4 * P * (len(now) + len(now - before))
        assert report.traffic.down_broadcast == due, f"fedavg, round {report.round}: {now}"
        before = now
