"""Only some clients take part in a round, or there is only one."""

from __future__ import annotations

import pytest

from fedkt.testing.kit import (
    Method,
    assert_same,
    assert_sound,
    difference,
    federate,
    of_client,
    plan_for,
)

pytestmark = pytest.mark.full
CLIENTS, ROUNDS = 5, 3


@pytest.mark.parametrize(("share", "count"), [(0.5, 3), (0.2, 1), (0.01, 1)])
def test_some_take_part(variant: Method, share: float, count: int) -> None:
    plan = plan_for(variant, clients=CLIENTS, rounds=ROUNDS, participation=share)
    outcome = federate(plan)
    law = f"{variant}: a run in which {share:.0%} of {CLIENTS} take part is sound"
    assert_sound(outcome, ROUNDS, law)
    known: dict[str, object] = {}
    for report, states in zip(outcome.reports, outcome.states, strict=True):
        drawn = report.participants
        assert len(drawn) == count, f"{variant}: {count} of {CLIENTS} take part; but {drawn}"
        assert sorted(report.metrics) == list(range(CLIENTS)), f"{variant}: everyone is evaluated"
        for client in set(range(CLIENTS)) - set(drawn):
            found = difference(of_client(known, client), of_client(states, client))
            law = f"{variant}: a client that does not take part keeps its state"
            assert found is None, f"{law}; but in round {report.round} {found}"
        known = states
    drawn_per_round = [report.participants for report in outcome.reports]
    again = federate(plan_for(Method("local"), clients=CLIENTS, rounds=ROUNDS, participation=share))
    law = f"{variant}: the seed alone decides who takes part, for every strategy alike"
    assert drawn_per_round == [report.participants for report in again.reports], law


def test_one_client_only(variant: Method) -> None:
    plan = plan_for(variant, clients=1)
    outcome = federate(plan)
    law = f"{variant}: a federation of one client is sound"
    assert_sound(outcome, 2, law)
    assert_same(outcome, federate(plan), f"{variant}: a federation of one is deterministic")


def test_one_client_at_a_time(variant: Method) -> None:
    """The client of a round may find nobody's knowledge but its own, or none from before."""
    outcome = federate(plan_for(variant, clients=2, rounds=4, participation=0.5))
    assert_sound(outcome, 4, f"{variant}: a run with one of two clients a round is sound")
    assert {len(r.participants) for r in outcome.reports} == {1}
