"""Clients that come late, leave and come back; and whose id is whose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedkt.errors import ConfigError
from fedkt.strategies import ServerOptions
from fedkt.strategies.server.greeter import LEFT

from .coming import METHODS, Coming, comes, figures, go, leaves, node, plain


def missing(
    grid_of: Any, strategy: Any, rounds: int, missed: set[tuple[int, int]]
) -> tuple[Any, Any]:
    """Return the figures and states of a simulation in which clients miss rounds."""
    whole = grid_of(0, 1, 2, 3)
    whole.missing = missed
    script = go(whole, strategy, rounds)
    return figures(script), plain(whole.snapshot())


@pytest.mark.parametrize("name", METHODS)
def test_a_late_client_is_one_that_missed_the_rounds_before(grid_of, method_of, name) -> None:
    late = grid_of(0, 1, 2)
    script = go(late, method_of(name), 4, {("end", 2): comes(3)})
    assert [r.clients for r in script.reports] == [(0, 1, 2), (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3)]
    assert [r.failures for r in script.reports] == [[]] * 4
    assert script.reports[2].notes == ["client 3 joins the run"]
    assert [3 in r.metrics for r in script.reports] == [False, False, True, True]
    assert [3 in r.participants for r in script.reports] == [False, False, True, True]
    shown, states = missing(grid_of, method_of(name), 4, {(3, 1), (3, 2)})
    assert figures(script) == shown
    assert plain(late.snapshot()) == states


@pytest.mark.parametrize("as_node", [None, 99], ids=["same node", "other node"])
@pytest.mark.parametrize("name", METHODS)
def test_a_client_that_comes_back_goes_on_with_its_model(grid_of, method_of, name, as_node) -> None:
    coming = grid_of(0, 1, 2, 3)
    events = {("end", 1): leaves(1), ("end", 3): comes(1, as_node)}
    script = go(coming, method_of(name), 5, events)
    assert {r.clients for r in script.reports} == {(0, 1, 2, 3)}
    gone = [[(f.client, f.phase, f.reason) for f in r.failures] for r in script.reports]
    both = [(1, "learn", LEFT), (1, "absorb", LEFT)]
    assert gone == [[], both, both, [], []]
    assert script.reports[3].notes == ["client 1 is back"]
    shown, states = missing(grid_of, method_of(name), 5, {(1, 2), (1, 3)})
    assert figures(script) == shown
    assert plain(coming.snapshot()) == states


def test_one_whose_state_is_lost_does_not_begin_afresh_in_silence(grid_of, method_of) -> None:
    coming = grid_of(0, 1, 2)

    def without_state(there: Coming) -> None:
        there.restore({c: state for c, state in there.snapshot().items() if c != 1})
        comes(1)(there)

    script = go(coming, method_of(), 3, {("end", 1): leaves(1), ("end", 2): without_state})
    [note] = script.reports[2].notes
    assert note.startswith("left out of the run: ")
    assert "the state of client 1 in run" in note
    assert note.endswith("is lost")
    assert 1 not in script.reports[2].participants


def test_all_chosen_are_away(grid_of, method_of) -> None:
    """One of three takes part in each round; from the second on only client 2 is there."""
    coming = grid_of(0, 1, 2)
    strategy = method_of()
    strategy.options = replace(strategy.options, participation=0.3)

    def go_away(there: Coming) -> None:
        leaves(0)(there)
        leaves(1)(there)

    script = go(coming, strategy, 6, {("end", 1): go_away})
    assert [r.participants for r in script.reports[1:]] == [[2]] * 5
    notes = [r.notes for r in script.reports]
    assert any("all clients chosen were away: others were chosen" in each for each in notes)


def test_a_mended_client_is_tried_again_without_leaving(grid_of, method_of) -> None:
    coming = grid_of(0, 1, 2)
    coming.claims = {node(2): {"classes": [*"1023456789"]}}
    script = go(coming, method_of(), 4, {("end", 1): lambda there: there.claims.clear()})
    assert [r.clients for r in script.reports] == [(0, 1), (0, 1, 2), (0, 1, 2), (0, 1, 2)]


def test_ids_have_a_bound(grid_of, method_of) -> None:
    coming = grid_of(0, 1, 2)
    strategy = method_of()
    strategy.options = replace(strategy.options, most_clients=2)
    script = go(coming, strategy, 1)
    assert script.reports[0].clients == (0, 1)
    assert script.reports[0].notes[0].endswith("it says it is client 2; ids are below 2")


def test_one_that_is_gone_gets_no_message(grid_of, method_of) -> None:
    coming = grid_of(0, 1, 2)
    go(coming, method_of(), 3, {("end", 1): leaves(2)})
    sizes = [(s.kind, len(s.nodes)) for s in coming.sent]
    later = [("train", 2), ("evaluate", 2)] * 2
    assert sizes == [("query", 3), ("train", 3), ("evaluate", 3), *later]


def test_one_that_leaves_in_a_round_is_not_asked_to_evaluate(grid_of, method_of) -> None:
    coming = grid_of(0, 1, 2)
    script = go(coming, method_of(), 2, {("train", 2): leaves(2)})
    failures = [(f.client, f.phase, f.reason) for f in script.reports[1].failures]
    assert failures == [(2, "learn", LEFT), (2, "absorb", LEFT)]
    assert coming.sent[-1].nodes == [node(0), node(1)]


def test_nothing_is_asked_again_where_nobody_is_new(grid_of, method_of) -> None:
    coming = grid_of(0, 1, 2)
    go(coming, method_of(), 3)
    assert [s.kind for s in coming.sent] == ["query", *["train", "evaluate"] * 3]
    assert coming.asked_for_ids == 1 + 2 * 3 - 1  # the first round begins with the greeting


def test_a_newcomer_fits_the_clients_of_the_run_or_is_left_out(grid_of, method_of) -> None:
    coming = grid_of(0)
    coming.claims = {node(c): {"classes": [*"1023456789"]} for c in (1, 2, 3)}

    def come(there: Coming) -> None:
        for client in (1, 2, 3):  # more than the one that is there, but later
            comes(client)(there)

    script = go(coming, method_of(), 3, {("end", 1): come})
    assert {r.clients for r in script.reports} == {(0,)}
    first, second, third = (r.notes for r in script.reports)
    assert (first, third) == ([], [])
    assert [note.partition(": classes is ['1', ")[0] for note in second] == [
        f"left out of the run: client {client}" for client in (1, 2, 3)
    ]
    assert [s.kind for s in coming.sent].count("query") == 3  # and again, one round later


def test_an_unfit_client_is_greeted_again_when_its_node_comes_back(grid_of, method_of) -> None:
    coming = grid_of(0, 1, 2)
    coming.claims = {node(2): {"classes": [*"1023456789"]}}

    def mended(there: Coming) -> None:
        there.claims = {}
        comes(2)(there)

    script = go(coming, method_of(), 4, {("end", 1): leaves(2), ("end", 2): mended})
    assert [r.clients for r in script.reports] == [(0, 1), (0, 1), (0, 1, 2), (0, 1, 2)]


def test_a_client_that_comes_back_otherwise_is_left_out(grid_of, method_of) -> None:
    coming = grid_of(0, 1, 2)

    def other(there: Coming) -> None:
        there.claims = {node(2): {"about: public set": "another"}}
        comes(2)(there)

    script = go(coming, method_of(), 3, {("end", 1): leaves(2), ("end", 2): other})
    (learn, absorb) = script.reports[2].failures
    assert (learn.client, absorb.client) == (2, 2)
    assert learn.reason.startswith("left out: public set is 'another' where the others have")


def test_one_that_did_not_answer_is_greeted_again(grid_of, method_of) -> None:
    coming = grid_of(0, 1, 2)
    coming.silent = {"query": {2}}
    script = go(coming, method_of(), 8, {("end", 4): lambda there: there.silent.clear()})
    line = f"left out of the run: node {node(2)}: no reply in time"
    notes = {r.round: r.notes for r in script.reports if r.notes}
    assert notes == {1: [line], 8: ["client 2 joins the run"]}
    later = [sent for sent in coming.sent if sent.kind == "query"][1:]
    assert [sent.nodes for sent in later] == [[node(2)]] * 3
    assert [r for phase, r, *_ in script.phases if phase == "greeting"] == [1, 2, 4, 8]
    assert {sent.timeout for sent in later} == {0.5}  # no longer than for clients to come


def test_after_a_resume_one_that_comes_later_goes_on(grid_of, method_of) -> None:
    whole = grid_of(0, 1, 2, 3)
    whole.missing = {(1, 3)}
    straight = go(whole, method_of("fedavg"), 4)
    coming = grid_of(0, 1, 2, 3)
    first = go(coming, method_of("fedavg"), 2)
    leaves(1)(coming)
    again = method_of("fedavg")
    again.load_state_dict(first.states[2])
    script = go(coming, again, 4, {("end", 3): comes(1)})
    assert [r.clients for r in script.reports] == [(0, 1, 2, 3)] * 2
    assert [(f.client, f.reason) for f in script.reports[0].failures] == [(1, LEFT)] * 2
    assert script.reports[1].notes == ["client 1 is back"]
    assert figures(first) + figures(script) == figures(straight)
    assert plain(coming.snapshot()) == plain(whole.snapshot())


# --- whose id is it ------------------------------------------------------------------------


def test_no_node_takes_the_id_of_one_that_is_there(grid_of, method_of) -> None:
    coming = grid_of(0, 1, 2)
    coming.claims = {node(3): {"client": 1}}
    script = go(coming, method_of(), 3, {("end", 1): comes(3)})
    assert {r.clients for r in script.reports} == {(0, 1, 2)}
    line = f"left out of the run: node {node(3)}: it says it is client 1, as node {node(1)} does"
    assert [r.notes for r in script.reports] == [[], [line], []]
    assert [r.failures for r in script.reports] == [[]] * 3


def test_an_id_is_free_when_its_node_has_left(grid_of, method_of) -> None:
    """Without keys a node that was killed comes back as another before Flower misses the first."""
    coming = grid_of(0, 1, 2)
    script = go(
        coming,
        method_of(),
        4,
        {("end", 1): comes(1, 99), ("end", 2): lambda g: g.nodes.pop(node(1))},
    )
    assert script.reports[1].notes[0].startswith("left out of the run: node 99: it says it is")
    assert script.reports[2].notes == ["client 1 is back"]
    assert [r.participants for r in script.reports] == [[0, 1, 2]] * 4


def test_the_options_say_whose_id_it_is(grid_of, method_of) -> None:
    coming = grid_of(0, 1, 2, 3)
    coming.claims = {node(3): {"client": 1}}
    nodes = {0: node(0), 1: node(1), 2: 77}
    script = go(
        coming, method_of(nodes=nodes, names={1: "south"}, quorum=2), 3, {("end", 1): leaves(1)}
    )
    assert script.reports[0].notes == [
        f"left out of the run: node {node(2)}: it is not listed and says it is client 2 "
        "(partition-id)",
        f"left out of the run: node {node(3)}: it is not listed and says it is client 1 (south) "
        "(partition-id)",
    ]
    assert {r.clients for r in script.reports} == {(0, 1)}
    assert [r.participants for r in script.reports] == [[0, 1], [0], [0]]  # though node 1 has left


def test_a_client_that_is_not_in_the_options_is_left_out(grid_of, method_of) -> None:
    coming = grid_of(0, 1, 2)
    script = go(coming, method_of(nodes={0: node(0), 1: node(1)}, quorum=2), 1)
    who = f"node {node(2)}: it is not listed and says it is client 2"
    line = f"{who}, whom the list of clients does not have"
    assert script.reports[0].notes == [f"left out of the run: {line}"]


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({0: 5, 1: 5}, r"nodes: clients \[0, 1\] have one node, 5"),
        ({0: "5"}, "nodes must map ids of clients to ids of nodes"),
    ],
)
def test_nodes_that_cannot_be(nodes, words) -> None:
    with pytest.raises(ConfigError, match=words):
        ServerOptions(nodes=nodes)
