"""A server that is killed in a round, or whose SuperLink is, and a run that goes on after it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from lightapp.party import Party

from .harness import Federation, Node, Run
from .light_grid import PUBLIC, figures, simulated
from .processes import wait_until

pytestmark = pytest.mark.network
ROUNDS, CLIENTS = 4, 2


def started(net: Federation) -> list[Node]:
    """Return nodes that have started."""
    nodes = [net.add(f"node-{client}", partition_id=client) for client in range(CLIENTS)]
    net.register(*nodes)
    for node in nodes:
        node.start()
    return nodes


def caught(net: Federation, nodes: list[Node], moment: str) -> Run:
    """Begin a run; return it while the first client holds a message of it."""
    held = nodes[0].hold(moment)
    run = net.run("light", rounds=ROUNDS, clients=CLIENTS)
    wait_until(lambda: nodes[0].at == moment, f"client 0 in {moment}", 120)
    os.kill(run.server, signal.SIGKILL)
    held.unlink()
    return run


def check_resumed(net: Federation, nodes: list[Node], folder: Path) -> None:
    """Check that a run goes on with the bits of one that was never stopped."""
    rows = net.run("light", rounds=ROUNDS, clients=CLIENTS, resume=True).wait()
    expected, parties = simulated(folder / "simulated", CLIENTS, ROUNDS)
    assert figures(rows) == figures(expected)
    for node, party in zip(nodes, parties, strict=True):
        assert Party(party.client, node.state, PUBLIC).state("light") == party.state("light")


def test_a_run_goes_on_after_its_server_was_killed_in_train(
    net: Federation, tmp_path: Path
) -> None:
    nodes = started(net)
    run = caught(net, nodes, "3-train")
    assert [row["round"] for row in run.rows] == [1, 2]
    check_resumed(net, nodes, tmp_path)
    # Another name is another run, and begins with new models.
    afresh = net.run("second", rounds=1, clients=CLIENTS).wait()
    expected, _ = simulated(tmp_path / "second", CLIENTS, 1, "second")
    assert figures(afresh) == figures(expected) == figures(run.rows[:1])


@pytest.mark.network_long
@pytest.mark.parametrize("moment", ["1-hello", "1-train", "2-evaluate"])
def test_a_run_goes_on_after_its_server_was_killed(
    net: Federation, tmp_path: Path, moment: str
) -> None:
    nodes = started(net)
    caught(net, nodes, moment)
    check_resumed(net, nodes, tmp_path)


@pytest.mark.network_long
@pytest.mark.parametrize("moment", ["1-hello", "2-train", "2-evaluate"])
def test_a_run_goes_on_after_its_superlink_was_killed(
    net: Federation, tmp_path: Path, moment: str
) -> None:
    nodes = started(net)
    held = nodes[0].hold(moment)
    run = net.run("light", rounds=ROUNDS, clients=CLIENTS)
    wait_until(lambda: nodes[0].at == moment, f"client 0 in {moment}", 120)
    net.kill_superlink()
    held.unlink()
    net.start()
    check_resumed(net, nodes, tmp_path)
    # Flower gives the server up after a minute; the run that goes on need not wait for that.
    wait_until(lambda: run.status().startswith("finished:failed"), "the end of the first run", 90)
