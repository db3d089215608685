"""What no honest client sends is refused, and the run is as if its sender had been silent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from hypothesis import HealthCheck, given, settings

from fedkt.errors import RunFailedError
from fedkt.testing.kit import Method

from .hostile import EVALUATIONS, FIGURES, PARCELS, REPLIES, Spoil, arrays, filled, uploads_for
from .replayed import ODD, ROUNDS, STRUCK, Replay, apart, recorded, replay, silent

# What each of them shares: answers of three forms, weights, weights and statistics, nothing.
SHARING = (
    "knfu",
    "fedmd(form=logits)",
    "fedavg",
    "fedga",
    "ccst",
    "fedpf(readout=gate, trust=off)",
)
METHODS = {reference: Method(reference) for reference in (*SHARING, "local")}
# Twice for each of seven methods: some 200 in all.
GENERATED = settings(
    derandomize=True,
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def assert_as_silent(method: Method, kind: str, found: Replay, says: str, *clients: int) -> None:
    """Require that clients are refused, each with a reason, and all else is as without them."""
    law = f"{method}: a hostile reply to {kind} is refused"
    clients = clients or (ODD,)
    assert [f[:2] for f in found.fate] == [(STRUCK, c) for c in clients], f"{law}: {found.fate}"
    for _, _, reason in found.fate:
        assert re.search(says, reason), f"{law} ({says}); but {reason!r}"
        assert reason.isprintable(), f"{law} in a clean line; but {reason!r}"
        assert len(reason) <= 500, f"{law} in a short line; but it has {len(reason)} characters"
    differs = apart(found, silent(method, kind, *clients))
    assert differs is None, f"{law} as if it had not come; but {differs}"


# Figures are read in one way for all methods: those of one without a share and of one with it.
UPLOADS = [
    (reference, name)
    for reference, method in METHODS.items()
    for name in uploads_for(method)
    if reference in ("local", "fedavg") or name not in FIGURES
]


# At level quick the whole list for answers and for weights alone; the others are of level full.
QUICK = ("fedmd(form=logits)", "fedavg", "local")
BY_LEVEL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in METHODS]


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        pytest.param(*u, id="-".join(u), marks=() if u[0] in QUICK else pytest.mark.full)
        for u in UPLOADS
    ],
)
def test_hostile_upload(reference: str, name: str) -> None:
    method = METHODS[reference]
    spoil, says = uploads_for(method)[name]
    assert_as_silent(method, "train", replay(method, {(STRUCK, "train", ODD): spoil}), says)


@pytest.mark.parametrize("reference", ["fedavg", "fedmd(form=logits)"])
@pytest.mark.parametrize("name", EVALUATIONS)
def test_hostile_evaluation(reference: str, name: str) -> None:
    method = METHODS[reference]
    spoil, says = EVALUATIONS[name]
    assert_as_silent(method, "evaluate", replay(method, {(STRUCK, "evaluate", ODD): spoil}), says)


@pytest.mark.parametrize("reference", SHARING)
def test_a_reply_of_the_round_before_is_refused(reference: str) -> None:
    method = METHODS[reference]
    old = recorded(method)[STRUCK - 1, "train", ODD]
    found = replay(method, {(STRUCK, "train", ODD): lambda content: RecordDict(dict(old))})
    assert_as_silent(method, "train", found, "its round is 1, not 2")


@pytest.mark.parametrize("reference", METHODS)
def test_two_who_claim_all_examples_are_refused(reference: str) -> None:
    """The median of the others is not moved by another liar."""
    method = METHODS[reference]
    spoil = uploads_for(method)["examples-takes-over"][0]
    found = replay(method, {(STRUCK, "train", c): spoil for c in (0, ODD)})
    assert_as_silent(method, "train", found, "the others' median", 0, ODD)


@pytest.mark.parametrize("reference", BY_LEVEL)
def test_generated_replies(reference: str) -> None:
    method = METHODS[reference]
    for kind, made in (
        ("train", PARCELS if method.recipe.share else REPLIES),
        ("evaluate", REPLIES),
    ):
        fates = _generated(method, kind, made)
        assert fates["refused"], f"nothing of it was hostile: {fates}"


def _generated(method: Method, kind: str, made: Any) -> dict[str, int]:
    """Replay made-up replies; return how many were refused and how many taken."""
    fates = {"refused": 0, "taken": 0}

    @GENERATED
    @given(made)
    def whatever_comes(spoil: Spoil) -> None:
        found = replay(method, {(STRUCK, kind, ODD): spoil})
        assert len(found.outcome.rows) == ROUNDS, "the run goes on"
        for row in found.outcome.rows:
            for name in ("personalised_accuracy", "global_accuracy", "validation_accuracy"):
                values = [row[name]["mean"], *row[name]["per_client"]]
                assert all(v is None or 0 <= v <= 1 for v in values)
        fates["refused" if found.fate else "taken"] += 1
        if found.fate:
            assert_as_silent(method, kind, found, ".")

    whatever_comes()
    return fates


# --- what bounds are, and what they are not -----------------------------------------------------


def one_hot_and_wrong(old: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Be sure of a wrong class everywhere."""
    values = old["t.values"]
    wrong = np.eye(values.shape[1], dtype=np.float32)[(values.argmax(1) + 1) % values.shape[1]]
    return {**old, "t.values": wrong}


@pytest.mark.parametrize("reference", ["knfu", "fedmd(form=probabilities)", "fedmd(form=logits)"])
def test_a_plausible_lie_is_accepted(reference: str) -> None:
    """Bounds are no trust: what could be honest is believed, and changes what all get."""
    method = Method(reference)
    found = replay(method, {(STRUCK, "train", ODD): arrays(one_hot_and_wrong)})
    assert found.fate == []
    assert ODD in found.outcome.reports[STRUCK - 1].participants
    assert apart(found, replay(method, {})) is not None


@pytest.mark.parametrize("reference", ["fedavg", "fedmd(form=logits)"])
def test_bounds_are_options(reference: str) -> None:
    method = METHODS[reference]
    change = {(STRUCK, "train", ODD): filled(50.0)}
    assert replay(method, change).fate == []
    strict = replay(method, change, bounds={"value": 49.0})
    assert [f[:2] for f in strict.fate][-1] == (STRUCK, ODD)
    assert re.search("holds 50, and at most 49 is allowed", strict.fate[-1][2])
    close = replay(method, change, bounds={"value_ratio": 2.0})
    assert (STRUCK, ODD) in [f[:2] for f in close.fate]
    claim = {(STRUCK, "train", ODD): uploads_for(method)["examples-takes-over"][0]}
    assert replay(method, claim, bounds={"examples_ratio": 1e9}).fate == []


WIDE = {"value": 1e300, "value_ratio": 1e300}


SQUARING = Method(f"{Path(__file__).parent / 'squaring_strategy.py'}:Squaring")


@pytest.mark.parametrize("sizes", [{ODD: 1e30}, {0: 1e30, ODD: 3e38}])
def test_a_fusion_that_is_not_finite_drops_the_largest(sizes: dict[int, float]) -> None:
    """Finite answers whose squares are not: who sent them is left out, whatever was remembered."""
    change = {(STRUCK, "train", client): filled(size) for client, size in sizes.items()}
    found = replay(SQUARING, change, bounds=WIDE)
    says = "the fusion with it is not finite, and its numbers go up to (1e\\+30|3e\\+38)"
    assert [client for _, client, _ in found.fate] == sorted(sizes, key=sizes.__getitem__)[::-1]
    found.fate.sort()
    assert_as_silent(SQUARING, "train", found, says, *sizes)


@pytest.mark.parametrize("liars", [(0, 1, ODD), (0, 1, ODD, 3)])
def test_a_fusion_that_the_smaller_half_does_not_mend_stops_the_run(liars: Any) -> None:
    change = {(STRUCK, "train", client): filled(1e30) for client in liars}
    with pytest.raises(RunFailedError, match=r"squaring, round 2: what fuse\(\) gave everyone"):
        replay(SQUARING, change, bounds=WIDE)
