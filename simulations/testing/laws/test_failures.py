"""A client that fails is dropped for the round with its name and the reason; the run goes on."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import pytest

from fedkt.errors import RunFailedError
from fedkt.simulations.runs.plan import Plan
from fedkt.testing.faults import (
    REASON,
    Fault,
    Patient,
    Rubbish,
    Spoil,
    meta_missing,
    metric,
    no_metrics,
    nothing,
    silence,
    unknown_dtype,
    unreadable,
)
from fedkt.testing.kit import Method, Outcome, difference, federate, of_client, plan_for

CLIENTS, ODD, ROUNDS = 4, 2, 3
UPLOADING, ABSORBING = ("learn", "share"), ("absorb", "evaluate")  # the phases a failure may name
STRUCK = 2  # the round in which it goes wrong: between one and another in which all is well

# What can be wrong with the reply to any strategy's first message.
REPLIES: dict[str, Spoil] = {
    "nothing-at-all": nothing,
    "no-reply": silence,
    "no-metrics": no_metrics,
    "examples-nan": metric("num-examples", float("nan")),
    "examples-negative": metric("num-examples", -5),
    "examples-a-list": metric("num-examples", [1, 2]),
}
# And with the reply of one that shares something.
PARCELS: dict[str, Spoil] = {
    "unreadable": unreadable,
    "meta-missing": meta_missing,
}
# What does no harm.
ODDITIES: dict[str, Spoil] = {
    "loss-nan": metric("loss", float("nan")),
    "loss-a-list": metric("loss", [1.0, 2.0]),
    "false-dtype": unknown_dtype,
}
EVALUATIONS: dict[str, Spoil] = {
    "nothing-at-all": nothing,
    "no-reply": silence,
    "accuracy-nan": metric("global-accuracy", float("nan")),
    "accuracy-infinite": metric("personalised-accuracy", float("inf")),
    "accuracy-a-list": metric("global-accuracy", [0.5, 0.5]),
}


def plan(method: Method) -> Plan:
    """Prepare a run with whole-batch training: these tests are many and count no accuracy."""
    return plan_for(method, clients=CLIENTS, rounds=ROUNDS, batch=64)


def strike(method: Method, phase: str, how: Spoil | str) -> tuple[Outcome, Fault]:
    """Run three rounds; in the second, client 2 goes wrong."""
    fault = Fault({ODD}, {STRUCK}, phase, how)
    return federate(plan(method), app=fault.app, grid=Patient), fault


@lru_cache
def undisturbed(method: Method) -> Outcome:
    """Return the run in which nobody fails."""
    return federate(plan(method))


@lru_cache
def without_odd_one(method: Method) -> Outcome:
    """Return the run in which the client is silent in the second round."""
    return strike(method, "learn", silence)[0]


def assert_dropped(
    method: Method, outcome: Outcome, phases: Collection[str], says: str, what: str
) -> None:
    """Require one failure with a name and a reason, and that all goes on without it."""
    law = f"{method}: a client that {what} is dropped for the round, named with the reason"
    failures = {r.round: [vars(f) for f in r.failures] for r in outcome.reports}
    assert len(failures[STRUCK]) == 1, f"{law}; but round {STRUCK} reports {failures[STRUCK]}"
    failure = failures[STRUCK][0]
    assert failure["client"] == ODD, f"{law}; but it is {failure}"
    assert failure["phase"] in phases, f"{law} and the phase; but it is {failure}"
    assert failure["reason"].strip(), f"{law}; but there is no reason: {failure}"
    assert "\n" not in failure["reason"], f"{law} in one line; but {failure}"
    assert re.search(says, failure["reason"]), f"{law} ({says}); but {failure}"
    others = [f for number in (1, 3) for f in failures[number]]
    assert not others, f"{law}, for that round only; but the others report {others}"
    assert len(outcome.reports) == ROUNDS, f"{law}, and the run goes on; but it stopped"
    back = ODD in outcome.reports[-1].participants
    assert back, f"{law}, and takes part again in the next; but it does not"
    assert_finite(method, outcome, what)


def assert_finite(method: Method, outcome: Outcome, what: str) -> None:
    for row in outcome.rows:
        for name in ("personalised_accuracy", "global_accuracy", "validation_accuracy"):
            values = [row[name]["mean"], *row[name]["per_client"]]
            fine = all(v is None or 0 <= v <= 1 for v in values)
            assert fine, f"{method}: a client that {what} spoils no figure; but {name} is {values}"


def assert_others_as_without(method: Method, outcome: Outcome, what: str) -> None:
    """Require that the others end the round as if the client had not answered at all."""
    for client in set(range(CLIENTS)) - {ODD}:
        found = difference(
            of_client(without_odd_one(method).states[STRUCK - 1], client),
            of_client(outcome.states[STRUCK - 1], client),
        )
        law = f"{method}: a client that {what} leaves the others as if it had not answered"
        assert found is None, f"{law}; but {found}"


def assert_kept_state(method: Method, fault: Fault, what: str) -> None:
    before, after = fault.before[ODD, STRUCK], fault.after[ODD, STRUCK]
    found = difference(before, after)
    assert found is None, f"{method}: a client that {what} keeps its state; but {found}"
    assert any("/learner/" in path for path in before), "there was a state to keep"


# --- learn and share ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["breaks", "crashes"])
def test_raises_in_learn(exchange: Method, how: str) -> None:
    outcome, fault = strike(exchange, "learn", how)
    what = f"{how} in learn"
    assert_dropped(exchange, outcome, UPLOADING, REASON, what)
    assert_kept_state(exchange, fault, what)
    assert_others_as_without(exchange, outcome, what)
    found = difference(*(of_client(outcome.states[n], ODD) for n in (0, 1)))
    assert found is None, f"{exchange}: a client that {what} sits the round out; but {found}"
    evaluated = outcome.reports[STRUCK - 1].metrics
    assert ODD in evaluated, f"{exchange}: a client that {what} is evaluated all the same"


@pytest.mark.parametrize("name", REPLIES)
def test_bad_reply(kind: Method, name: str) -> None:
    outcome, _ = strike(kind, "learn", REPLIES[name])
    what = f"replies to learn with {name}"
    assert_dropped(kind, outcome, UPLOADING, ".", what)
    assert_others_as_without(kind, outcome, what)


@pytest.mark.parametrize("name", ODDITIES)
def test_oddity_does_not_stop_a_run(kind: Method, name: str) -> None:
    """What is only shown, or not used at all, may be wrong: dropped or not, the run goes on."""
    outcome, _ = strike(kind, "learn", ODDITIES[name])
    law = f"{kind}: a client with an odd reply ({name}) does not stop the run"
    assert len(outcome.rows) == ROUNDS, law
    assert_finite(kind, outcome, f"has an odd reply ({name})")


@pytest.mark.parametrize("name", PARCELS)
def test_bad_parcel(parcel: Method, name: str) -> None:
    outcome, _ = strike(parcel, "learn", PARCELS[name])
    what = f"uploads something {name}"
    assert_dropped(parcel, outcome, UPLOADING, ".", what)
    assert_others_as_without(parcel, outcome, what)


def test_rubbish_uploaded(spoiled: tuple[Method, Rubbish]) -> None:
    method, rubbish = spoiled
    outcome, _ = strike(method, "learn", rubbish)
    what = f"uploads rubbish ({rubbish.name})"
    assert_dropped(method, outcome, UPLOADING, rubbish.says, what)
    assert_others_as_without(method, outcome, what)


# --- absorb and evaluate ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["breaks", "crashes"])
def test_raises_in_absorb(exchange: Method, how: str) -> None:
    outcome, fault = strike(exchange, "absorb", how)
    what = f"{how} in absorb"
    assert_dropped(exchange, outcome, ABSORBING, REASON, what)
    assert_kept_state(exchange, fault, what)
    for client in set(range(CLIENTS)) - {ODD}:
        found = difference(
            *(of_client(o.states[STRUCK - 1], client) for o in (undisturbed(exchange), outcome))
        )
        law = f"{exchange}: a client that {what} changes nothing for the others in that round"
        assert found is None, f"{law}; but {found}"
    row = outcome.rows[STRUCK - 1]
    figures: list[Any] = row["global_accuracy"]["per_client"]
    assert [c for c, v in enumerate(figures) if v is None] == [ODD]


@pytest.mark.parametrize("name", EVALUATIONS)
def test_bad_evaluation(kind: Method, name: str) -> None:
    outcome, _ = strike(kind, "absorb", EVALUATIONS[name])
    assert_dropped(kind, outcome, ABSORBING, ".", f"replies to evaluate with {name}")


# --- from the first round on, and everybody -----------------------------------------------------


@pytest.mark.parametrize("phase", ["learn", "absorb"])
def test_fails_in_its_first_round(exchange: Method, phase: str) -> None:
    fault = Fault({ODD}, {1}, phase, "breaks")
    outcome = federate(plan(exchange), app=fault.app)
    law = f"{exchange}: a client that fails to {phase} in its first round begins in the next"
    assert [f.client for f in outcome.reports[0].failures] == [ODD], law
    assert not outcome.reports[1].failures, f"{law}; but {outcome.reports[1].failures}"
    assert of_client(outcome.states[1], ODD), f"{law}; but it has no state"
    if phase == "learn":
        assert not of_client(outcome.states[0], ODD), f"{law}; but it has begun already"


@pytest.mark.parametrize("phase", ["learn", "absorb"])
def test_everybody_fails(exchange: Method, phase: str) -> None:
    fault = Fault(range(CLIENTS), {STRUCK}, phase, "breaks")
    with pytest.raises(RunFailedError) as stopped:
        federate(plan(exchange), app=fault.app)
    text = str(stopped.value)
    law = f"{exchange}: a run in which all fail to {phase} stops and says why"
    assert REASON in text, f"{law}; but it says {text!r}"
    assert exchange.title in text, f"{law} and for which strategy; but it says {text!r}"
    assert f"round {STRUCK}" in text, f"{law} and in which round; but it says {text!r}"
    assert "\n" not in text, f"{law} in one line; but it says {text!r}"


def test_everybody_uploads_nothing(parcel: Method) -> None:
    fault = Fault(range(CLIENTS), {1}, "learn", nothing)
    with pytest.raises(RunFailedError, match=r"round 1.*client 0"):
        federate(plan(parcel), app=fault.app)
