"""Nodes that come late, leave, die and return, over a slow network that drops connections."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from lightapp.party import Party

from fedkt.strategies import ServerOptions

from .harness import Federation, Node
from .light_grid import PUBLIC, figures, simulated
from .processes import wait_until
from .tcp_proxy import TcpProxy

pytestmark = pytest.mark.network
# The first is late, the second signs off and returns, the third dies in train and returns.
LATE, LEAVING, DYING = 2, 1, 0
ROUNDS, WITHOUT_LEAVING, DEATH = 6, 3, 5
DEADLINE = 45.0  # of a phase; Flower gives a node up after up to 60 s without a sign of life
DELAY, CUT_AFTER = 0.025, 20_000
CONNECTED = "SuperNode ID:"


def connects(node: Node) -> None:
    """Start a node and wait until it is let in."""
    assert _is_let_in(node), node.log[-2000:]


def returns(node: Node) -> float:
    """Start a node again and again until it is let in, as systemd does; return the seconds."""
    began = time.monotonic()
    while not _is_let_in(node):
        time.sleep(3)
        assert time.monotonic() - began < 120
    return time.monotonic() - began


def _is_let_in(node: Node) -> bool:
    """Start a node; return whether it is let in. If it is not it ends, and what it has started."""
    before, process = node.log.count(CONNECTED), node.start()
    wait_until(lambda: node.log.count(CONNECTED) > before or not process.alive, node.name)
    if not process.alive:
        process.kill()
    return process.alive


@pytest.mark.skipif(
    not hasattr(ServerOptions, "train_deadline"),
    reason="waits for a roster that is asked again before every round",
)
def test_nodes_come_late_leave_die_and_return(net: Federation, tmp_path: Path) -> None:
    entrance = TcpProxy(net.free_port(), net.port, DELAY, CUT_AFTER)
    with entrance.running():
        nodes = [net.add(f"node-{c}", port=entrance.port, partition_id=c) for c in range(3)]
        net.register(*nodes)
        for client in (LEAVING, DYING):
            nodes[client].start()
        run = net.run("light", rounds=ROUNDS, clients=2, deadline=DEADLINE, paced=True)
        run.go(1)
        run.wait_for(1)
        connects(nodes[LATE])
        run.go(2)
        run.wait_for(2)
        leaving = nodes[LEAVING].process
        assert leaving is not None
        leaving.end()
        run.go(3)
        without = run.wait_for(3)
        connects(nodes[LEAVING])
        run.go(4)
        run.wait_for(4)
        nodes[DYING].hold("5-train")
        run.go(5)
        wait_until(lambda: nodes[DYING].at == "5-train", "the node trains")
        dying = nodes[DYING].process
        assert dying is not None
        dying.kill(signal.SIGKILL)
        run.wait_for(DEATH)
        print(f"let in again {returns(nodes[DYING]):.0f} s after round {DEATH}")
        run.go(6)
        rows = run.wait()
    failed = [{client for client, _, _ in row["failures"]} for row in rows]
    assert failed == [set(), set(), {LEAVING}, set(), {DYING}, set()]
    assert without["seconds"] < DEADLINE
    reasons = {reason for _, _, reason in without["failures"]}
    assert reasons == {"left: its node is not connected"}
    assert entrance.cuts
    missed = {(DEATH, "train"): [DYING], (DEATH, "evaluate"): [DYING]}
    away = {1: [LATE], WITHOUT_LEAVING: [LEAVING]}
    expected, parties = simulated(tmp_path / "simulated", 3, ROUNDS, missed=missed, away=away)
    assert figures(rows) == figures(expected)
    for node, party in zip(nodes, parties, strict=True):
        assert Party(party.client, node.state, PUBLIC).state("light") == party.state("light")
