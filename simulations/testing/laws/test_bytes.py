"""What travels is what the formula says, for every client and round, in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from fedkt.shares import Share, Sizes
from fedkt.simulations.catalogue.method_facts import facts_of
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

M, C, D = 40, 10, 64  # public samples, classes, features
BODY, HEAD = 64 * 64 + 64, 64 * 10 + 10
P = BODY + HEAD  # mlp on 8 × 8 pixels
DANN = P + 100 * D + 502  # with the domain head on the features
N, R = CLIENTS, ROUNDS
H = P + 64 * (D + 3) + 2  # with FADA's judge
T = 16 * (4 * D + 8)  # features of 16 target samples, and their ids
Q = P + D * (D + 1) + 2 * D * (C + 1)  # with the heads of FedSR
GENERATOR = 4 * (256 * (32 + C) + 5 * 256 + D * 257 + C + 2)  # of 256 hidden units, 32 of noise
CLASSES = 6 + 8 + 5 + 6  # that the clients have, all ten among them
ANSWERS = 4 * M * C * N * R
WEIGHTS = (4 * P * N * R, 0, 4 * P * N * (R + 1))  # and once more in the first round
# A row of a class has its id and its count.
PROTOTYPES = (4 * D + 16) * CLASSES * R
# Bytes up, down by unicast and down by broadcast over all rounds and clients.
BY_HAND: dict[str, tuple[int, int, int]] = {
    "local": (0, 0, 0),
    "source-only": (0, 0, 0),
    "comet(clusters=1)": (ANSWERS, 0, ANSWERS),
    "comet(by=sample)": (ANSWERS, ANSWERS, 0),
    "compose": (ANSWERS, 0, ANSWERS),
    "compose(codec=float16)": (ANSWERS // 2, 0, ANSWERS // 2),
    "cronus": (ANSWERS, 0, ANSWERS),
    "ds-fl": (ANSWERS, 0, ANSWERS),
    "fccl": (ANSWERS, 0, ANSWERS),
    "fedka-free": (ANSWERS, 0, ANSWERS),
    "fedka-free(votes=majority)": (8 * M * N * R, 0, ANSWERS),
    "fedmd": (ANSWERS, 0, ANSWERS),
    "fedmd(form=probabilities, public_samples=16)": (4 * 16 * C * N * R, 0, 4 * 16 * C * N * R),
    "fedpf": (ANSWERS, 0, ANSWERS),
    "knfu": (ANSWERS, ANSWERS, 0),
    "kt-pfl": (ANSWERS, ANSWERS, 0),
    "scarlet": (ANSWERS // R, 0, ANSWERS // R),  # all labels are cached after the first round
    "scarlet(duration=0)": (ANSWERS, 0, ANSWERS),
    "selective-fd(choose_rows=False)": (ANSWERS, 0, ANSWERS),
    # All rows are kept, so their ids are known.
    "fedpkd(keep=1)": (ANSWERS + PROTOTYPES, 0, ANSWERS + (4 * D + 16) * C * N * (R - 1)),
    "fd": ((4 * C + 16) * CLASSES * R, (4 * C + 16) * C * N * (R - 1), 0),
    "fedproto": (PROTOTYPES, 0, (4 * D + 16) * C * N * R),
    "fedtgp": (PROTOTYPES, 0, (4 * D + 16) * C * N * R),
    "fedgh": (PROTOTYPES, 0, 4 * C * (D + 1) * N * (R - 1)),  # the header from round 2 on
    "fedavg": WEIGHTS,
    "fedprox": WEIGHTS,
    "fedbn": WEIGHTS,
    "fedntd": WEIGHTS,
    "moon": WEIGHTS,
    "fml": WEIGHTS,
    "fedtype": WEIGHTS,  # of the proxy, an mlp
    # The generator from round 2 on.
    "fedgen": (WEIGHTS[0] + 8 * C * N * R, 0, WEIGHTS[2] + GENERATOR * N * (R - 1)),
    "ditto": (4 * P * N * R, 0, 4 * P * N * R),
    "feddf": WEIGHTS,
    "fedet": WEIGHTS,
    "fedaux": (WEIGHTS[0] + 4 * M * N * R, 0, WEIGHTS[2]),
    "fedga": (WEIGHTS[0] + 16 * N * R, 0, WEIGHTS[2]),
    "fedrep": (4 * BODY * N * R, 0, 4 * BODY * N * (R + 1)),
    "lg-fedavg": (4 * HEAD * N * R, 0, 4 * HEAD * N * (R + 1)),
    "fedsr": (4 * Q * N * R, 0, 4 * Q * N * (R + 1)),
    "scaffold": (8 * P * N * R, 0, WEIGHTS[2] + 4 * P * N * (R - 1)),
    "ccst": (WEIGHTS[0] + 8 * N * R, 0, WEIGHTS[2] + 8 * N * N * (R - 1)),  # of grey images
    "f-dann": (4 * DANN * N * R, 0, 4 * DANN * N * (R + 1)),
    "f-dan": WEIGHTS,
    "f-coral": WEIGHTS,
    "kd3a": WEIGHTS,
    "fada(disentangle=False, target_samples=16)": (
        4 * H * N * R,
        0,
        4 * H * N * (R + 1) + T * N * R,
    ),
    "fedka": (4 * DANN * N * R, 0, 4 * DANN * N * (R + 1) + M * (4 * D + 8) * N * R),
    "fedka(workspace=gaussian)": (4 * DANN * N * R, 0, 4 * DANN * N * (R + 1) + 8 * D * N * R),
}


# The letters of a docstring's formula, in the last round, where they mean something else or are the
# method's own; None where the options have a formula of their own.
LETTERS: dict[str, dict[str, int] | None] = {
    "compose(codec=float16)": None,
    "fedka-free(votes=majority)": None,
    "selective-fd(choose_rows=False)": None,
    "fedmd(form=probabilities, public_samples=16)": {"M": 16},
    "scarlet": {"M'": 0},
    "scarlet(duration=0)": {"M'": M},
    "fedpkd(keep=1)": {"M'": M},
    "fedbn": {"B": 0},
    "fedrep": {"B": BODY},
    "lg-fedavg": {"H": HEAD},
    "fedsr": {"Q": Q},
    "fedgen": {"G": GENERATOR},
    "ccst": {"C": 1, "k": 1, "S": N},
    "f-dann": {"H": DANN - P},
    "fada(disentangle=False, target_samples=16)": {"P'": H, "T": 16},
    "fedka": {"P": DANN, "W": M * (4 * D + 8)},
    "fedka(workspace=gaussian)": {"P": DANN, "W": 8 * D},
}


def value_of(formula: str, letters: Mapping[str, int]) -> int:
    """Return the value of ``4P + T(4d + 8)`` or ``4C²``, as docstrings write it."""
    parts = re.findall(r"\d+|[A-Za-z]'*|[-+()²]", formula)
    assert "".join(parts) == formula.replace(" ", ""), f"no formula: {formula}"
    text = ""
    for part in parts:
        if text[-1:].isdigit() or text.endswith(")"):
            text += "*" * (part not in "-+)²")
        text += {"²": "**2"}.get(part, str(letters.get(part, part)))
    return int(eval(text))


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
    own = LETTERS.get(reference, {})
    if own is None:
        return
    written = facts_of(Method(reference).section["name"]).formula or ("0", "0")
    for formula, sent in zip(written, (traffic[-1].up, traffic[-1].down), strict=True):
        due = N * value_of(formula.removeprefix("at most "), {"M": M, "C": C, "P": P, "d": D} | own)
        fits = sent <= due if formula.startswith("at most ") else sent == due
        assert fits, f"{reference}: its docstring says {formula}, {due} bytes; but {sent} travel"


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
