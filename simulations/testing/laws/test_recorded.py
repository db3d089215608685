"""Laws of methods that are read from one recorded run, and from runs that differ in one thing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedkt.simulations.catalogue.method_facts import kinds_down
from fedkt.strategies import KnowledgeStrategy
from fedkt.testing.formulas import assert_bytes
from fedkt.testing.grids import Alone
from fedkt.testing.kit import (
    Method,
    Outcome,
    assert_sound,
    difference,
    federate,
    model_of,
    of_client,
    plan_for,
)
from fedkt.testing.recorded import (
    CLIENTS,
    ROUNDS,
    STOPPED,
    another,
    beginning,
    plan_of,
    recorded,
    repeated,
)


@pytest.fixture
def run(variant: Method) -> Outcome:
    return recorded(variant)


def test_the_recorded_run_can_show_what_it_is_for() -> None:
    taking_part = [r.participants for r in recorded(Method("local")).reports]
    first, second, third = map(set, taking_part)
    assert first | second | third == set(range(CLIENTS)), "everyone is trained"
    assert (first & third) - second, "somebody comes back after an absence"
    assert len(first & second) > 1, "some take part twice in a row, not all of whom may be odd"


def test_it_is_sound(variant: Method, run: Outcome) -> None:
    law = f"{variant}: a run in which some of the clients take part, with odd data, is sound"
    assert_sound(run, ROUNDS, law)


def test_who_does_not_take_part_keeps_its_state(variant: Method, run: Outcome) -> None:
    known: dict[str, object] = {}
    for report, states in zip(run.reports, run.states, strict=True):
        assert sorted(report.metrics) == list(range(CLIENTS)), f"{variant}: everyone is evaluated"
        for client in set(range(CLIENTS)) - set(report.participants):
            found = difference(of_client(known, client), of_client(states, client))
            law = f"{variant}: a client that does not take part keeps its state"
            assert found is None, f"{law}; but in round {report.round} {found}"
        known = states


def test_the_seed_draws_who_takes_part(variant: Method, run: Outcome) -> None:
    if type(variant.make()).choose is not KnowledgeStrategy.choose:
        pytest.skip(f"{variant} chooses the clients itself")
    drawn, local = (
        [report.participants for report in outcome.reports]
        for outcome in (run, recorded(replace(variant, reference="local")))
    )
    law = f"{variant}: the seed alone decides who takes part, for every strategy alike"
    assert drawn == local, f"{law}; but {drawn} and not {local}"


def test_its_bytes_are_the_formula(variant: Method, run: Outcome) -> None:
    assert_bytes(variant, plan_of(variant), run)


def test_what_comes_down_is_of_the_kind_that_it_says(variant: Method, run: Outcome) -> None:
    """Of what the server makes itself without a kind in ``fused_kinds`` nothing is said."""
    kinds = kinds_down(variant.make())
    for number, fused in run.fused.items():
        for gift in (fused.shared, *fused.personal.values()):
            for name, knowledge in gift.items():
                law = f"{variant}: {name!r} of round {number} comes down as {kinds.get(name)}"
                fits = kinds.get(name, name) in (knowledge.kind, name)
                assert fits, f"{law}; but it is {knowledge.kind}: say so in fused_kinds"


def _difference(one: Outcome, other: Outcome, rounds: slice) -> str | None:
    pairs: list[tuple[Any, Any]] = [(one.rows, other.rows), (one.states, other.states)]
    return next((d for a, b in pairs if (d := difference(a[rounds], b[rounds]))), None)


def test_the_seed_alone_decides(variant: Method, run: Outcome) -> None:
    found = _difference(run, repeated(variant), slice(STOPPED))
    law = f"{variant}: neither global random numbers nor the order of messages change a run"
    assert found is None, f"{law}; but at round index {found}"


def test_it_goes_on_from_a_checkpoint(variant: Method, run: Outcome) -> None:
    found = _difference(run, repeated(variant), slice(STOPPED, None))
    law = f"{variant}: a run stopped after round {STOPPED} goes on as if it had never stopped"
    assert found is None, f"{law}; but {found}"


def test_another_seed_is_another_run(method: Method) -> None:
    """The data are the same, and only who takes part in both runs is compared."""
    one, other = recorded(method), another(method)
    both = set(one.reports[0].participants) & set(other.reports[0].participants)
    assert both
    differ = [difference(model_of(one, c, 1), model_of(other, c, 1)) for c in both]
    assert any(differ), f"{method}: another seed gives another run; but the models are equal"


def test_others_change_a_client(sharing: Method) -> None:
    together = recorded(sharing)
    first, second = (set(report.participants) for report in together.reports[:STOPPED])
    if not first & second:
        pytest.skip(f"{sharing} chooses no client twice in a row")
    for client in sorted(first & second, reverse=True):
        alone = beginning(sharing, Alone.but(client))
        assert [report.participants for report in alone.reports] == [[client]] * STOPPED
        if difference(model_of(together, client, STOPPED), model_of(alone, client, STOPPED)):
            return  # a method may leave somebody alone who is unlike all others
    law = f"{sharing}: what the others know changes a client"
    pytest.fail(f"{law}; but clients {first & second} end as if they had been alone")


def test_one_client_only(variant: Method) -> None:
    outcome = federate(plan_for(variant, clients=1))
    assert_sound(outcome, 2, f"{variant}: a federation of one client is sound")
