"""The phases of a round: their deadlines, their quorums, and who is told of them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from fedkt.errors import ConfigError, RunFailedError
from fedkt.simulations.runs.recorder import round_row
from fedkt.strategies import Observer
from fedkt.strategies.server.greeter import LEFT

from .coming import comes, figures, go, leaves, node, plain

KINDS = {"greeting": "query", "train": "train", "evaluate": "evaluate"}
ALL = (0, 1, 2)


# --- deadlines -------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", KINDS)
def test_a_phase_has_a_deadline_of_its_own(grid_of, method_of, phase) -> None:
    coming = grid_of(*ALL)
    go(coming, method_of(**{f"{phase}_deadline": 5.5}), 1)
    times = {sent.kind: sent.timeout for sent in coming.sent}
    assert times == {**dict.fromkeys(KINDS.values(), 77), KINDS[phase]: 5.5}


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), "5"])
@pytest.mark.parametrize("phase", KINDS)
def test_a_deadline_is_a_time(method_of, phase, seconds) -> None:
    with pytest.raises(ConfigError, match=f"{phase}_deadline must be a finite number above 0"):
        method_of(**{f"{phase}_deadline": seconds})


# --- events ----------------------------------------------------------------------------------


def test_observers_are_told_of_each_phase(grid_of, method_of) -> None:
    script = go(grid_of(*ALL), method_of("fedavg", participation=0.4), 3, {("end", 1): comes(3)})
    first, second, third = (
        next(p for phase, r, _, p in script.phases if (phase, r) == ("train", round_))
        for round_ in (1, 2, 3)
    )
    everyone = (*ALL, 3)
    assert [len(first), len(second), len(third)] == [1, 2, 2]
    assert script.phases == [
        ("greeting", 1, (), ()),
        ("train", 1, ALL, first),
        ("evaluate", 1, ALL, first),
        ("greeting", 2, ALL, ()),
        ("train", 2, everyone, second),
        ("evaluate", 2, everyone, second),
        ("train", 3, everyone, third),
        ("evaluate", 3, everyone, third),
    ]


def test_an_observer_need_not_do_anything(world, with_options, method_of) -> None:
    class Idle(Observer):
        pass

    run, strategy = world(), method_of()
    strategy.observers = [Idle()]
    strategy.start(run.grid, num_rounds=1)
    strategy.observers = [object()]
    with pytest.raises(ConfigError, match=r"object is no fedkt Observer\."):
        strategy.start(run.grid, num_rounds=2)


# --- quorums ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("quorum", "needed"), [(3, 3), ("strict", 3), ("majority", 2)])
@pytest.mark.parametrize("phase", ["train", "evaluate"])
def test_a_run_stops_if_a_quorum_is_missed(grid_of, method_of, phase, quorum, needed) -> None:
    coming = grid_of(*ALL)
    gone = (2,) if needed == 3 else (1, 2)
    task = {"train": "learn", "evaluate": "absorb and evaluate"}[phase]
    words = (
        rf"knfu, round 2: {3 - len(gone)} of 3 clients came through, and {needed} are needed to "
        rf"{task} \({phase}_quorum\); client {gone[0]}: {LEFT}"
    )
    with pytest.raises(RunFailedError, match=words):
        go(coming, method_of(**{f"{phase}_quorum": quorum}), 3, {(phase, 2): leaves(*gone)})


@pytest.mark.parametrize("quorum", [2, "majority"])
def test_a_quorum_that_is_kept_changes_nothing(grid_of, method_of, quorum) -> None:
    events = {("train", 2): leaves(2)}
    quorums = {"train_quorum": quorum, "evaluate_quorum": quorum}
    with_them = go(grid_of(*ALL), method_of(**quorums), 3, events)
    assert figures(with_them) == figures(go(grid_of(*ALL), method_of(), 3, events))
    assert [r.participants for r in with_them.reports] == [[0, 1, 2], [0, 1], [0, 1]]


@pytest.mark.parametrize("name", ["knfu", "fedavg", "local"])
def test_a_round_without_its_quorum_is_skipped(grid_of, method_of, name) -> None:
    coming = grid_of(*ALL)
    strategy = method_of(name, train_quorum="strict", on_quorum_missed="skip")
    script = go(coming, strategy, 4, {("train", 2): leaves(2), ("end", 2): comes(2)})
    second, third = script.reports[1:3]
    assert [r.participants for r in script.reports] == [[0, 1, 2], [], [0, 1, 2], [0, 1, 2]]
    (note,) = second.notes
    assert note == (
        "the train phase misses its quorum: 2 of 3 clients came through, and 3 are needed to learn "
        f"(train_quorum); client 2: {LEFT}"
    )
    assert sorted(second.metrics) == [0, 1]
    assert second.diagnostics == {}
    row = round_row(second, None)
    assert row["personalised_accuracy"]["per_client"][2] is None
    assert (third.notes, third.failures) == (["client 2 is back"], [])
    if name == "fedavg":  # clients that learnt go on from the server's weights all the same
        sizes = [r.traffic.down_broadcast // third.traffic.down_broadcast for r in script.reports]
        assert sizes == [2, 0, 1, 1]


def test_a_round_without_anybody_is_skipped(grid_of, method_of) -> None:
    coming = grid_of(*ALL)
    events = {("end", 1): leaves(*ALL), ("end", 2): lambda g: [comes(c)(g) for c in ALL]}
    script = go(coming, method_of(on_quorum_missed="skip"), 3, events)
    second = script.reports[1]
    assert (second.metrics, second.participants) == ({}, [])
    assert [note.partition(":")[0] for note in second.notes] == [
        f"the {phase} phase misses its quorum" for phase in ("train", "evaluate")
    ]
    assert round_row(second, None)["personalised_accuracy"]["mean"] is None
    assert script.reports[2].participants == [0, 1, 2]


def test_accuracies_without_their_quorum_are_kept(grid_of, method_of) -> None:
    coming = grid_of(*ALL)
    strategy = method_of(evaluate_quorum=3, on_quorum_missed="skip")
    script = go(coming, strategy, 3, {("evaluate", 2): leaves(2)})
    second = script.reports[1]
    assert second.participants == [0, 1, 2]
    assert sorted(second.metrics) == [0, 1]
    assert "evaluate_quorum" in second.notes[0]


def later(seconds: float, happen: Any) -> Any:
    """Return the event in which something happens once the grid has been asked for some time."""

    def begin(coming: Any) -> None:
        ids, end = type(coming).get_node_ids, time.monotonic() + seconds

        def get_node_ids() -> list[int]:
            if time.monotonic() > end:
                happen(coming)
                del coming.get_node_ids
            return ids(coming)

        coming.get_node_ids = get_node_ids

    return begin


@pytest.mark.parametrize("phase", ["train", "evaluate"])
@pytest.mark.parametrize("name", ["knfu", "fedavg"])
def test_who_is_waited_for_is_asked_again_and_answers_the_same(
    grid_of, method_of, name, phase
) -> None:
    coming = grid_of(*ALL)

    def away(there: Any) -> None:
        leaves(1, 2)(there)
        later(0.3, lambda there: [comes(client)(there) for client in (1, 2)])(there)

    strategy = method_of(name, **{f"{phase}_quorum": 3}, on_quorum_missed="wait", wait=30)
    script = go(coming, strategy, 3, {(phase, 2): away})
    assert [r.failures for r in script.reports] == [[]] * 3
    assert script.reports[1].notes == ["client 1 is back", "client 2 is back"]
    whole = grid_of(*ALL)
    straight = go(whole, method_of(name), 3)
    for waited, one in zip(script.reports, straight.reports, strict=True):
        assert (waited.metrics, waited.participants) == (one.metrics, one.participants)
    assert plain(coming.snapshot()) == plain(whole.snapshot())
    asked = [sent.nodes for sent in coming.sent if sent.kind == phase]
    assert asked == [[node(c) for c in clients] for clients in (ALL, ALL, (1, 2), ALL)]


def test_one_that_comes_while_it_is_waited_for_has_learnt(grid_of, method_of) -> None:
    coming = grid_of(*ALL)
    coming.silent = {"train": {2}}

    def away(there: Any) -> None:
        there.silent.clear()
        leaves(1, 2)(there)
        later(0.2, lambda there: [comes(client)(there) for client in (1, 2)])(there)

    strategy = method_of(train_quorum=2, on_quorum_missed="wait", wait=30)
    first, second = go(coming, strategy, 2, {("end", 1): away}).reports
    assert first.untrained == (2,), "its answer was not heard"
    assert (second.participants, second.untrained) == ([0, 1, 2], ())
    assert strategy.state_dict()["exchange"]["learnt"] == {0: True, 1: True, 2: True}


def test_one_that_answered_but_was_not_heard_answers_the_same(grid_of, method_of) -> None:
    coming = grid_of(*ALL)

    def deaf(there: Any) -> None:
        there.silent = {"train": {1}}
        later(0.1, lambda there: there.silent.clear())(there)

    strategy = method_of("fedavg", train_quorum=3, on_quorum_missed="wait", wait=30)
    script = go(coming, strategy, 3, {("train", 2): deaf})
    straight = go(grid_of(*ALL), method_of("fedavg"), 3)
    assert [r.metrics for r in script.reports] == [r.metrics for r in straight.reports]
    assert [r.failures for r in script.reports] == [[]] * 3


def test_the_wait_has_an_end(grid_of, method_of) -> None:
    coming = grid_of(*ALL)
    strategy = method_of(train_quorum=3, on_quorum_missed="wait", wait=0.3)
    began = time.monotonic()
    with pytest.raises(RunFailedError, match="2 of 3 clients came through, and 3 are needed"):
        go(coming, strategy, 2, {("train", 1): leaves(2)})
    assert time.monotonic() - began >= 0.3
    assert [sent.kind for sent in coming.sent] == ["query", "train"]


def test_one_that_fails_is_not_waited_for(grid_of, method_of) -> None:
    coming = grid_of(*ALL)
    coming.missing = {(2, 1)}
    strategy = method_of(train_quorum=3, on_quorum_missed="wait", wait=600)
    with pytest.raises(RunFailedError, match="client 2: missed"):
        go(coming, strategy, 2)


def test_a_run_waits_for_its_first_quorum(grid_of, method_of) -> None:
    coming = grid_of(*ALL)
    coming.silent = {"query": {2}}
    strategy = method_of(clients=3, quorum="strict", on_quorum_missed="wait", wait=30)
    later(0.3, lambda there: there.silent.clear())(coming)
    script = go(coming, strategy, 1)
    assert script.reports[0].clients == ALL
    coming = grid_of(*ALL)
    coming.silent = {"query": {2}}
    strategy = method_of(clients=3, quorum="strict", on_quorum_missed="wait", wait=0.2)
    with pytest.raises(RunFailedError, match=f"node {node(2)}: no reply in time"):
        go(coming, strategy, 1)


def test_without_a_quorum_nobody_else_is_missed(grid_of, method_of) -> None:
    """A simulation that loses a client goes on as it always has."""
    coming = grid_of(*ALL)
    script = go(coming, method_of(), 3, {("train", 2): leaves(2), ("end", 2): comes(2)})
    whole = grid_of(*ALL)
    whole.missing = {(2, 2)}
    straight = go(whole, method_of(), 3)
    assert [r.metrics for r in script.reports] == [r.metrics for r in straight.reports]
