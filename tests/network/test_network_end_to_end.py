"""A small federation of processes, with TLS and keys: two rounds, and a node that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightapp.party import Party

from .harness import Federation
from .light_grid import PUBLIC, figures, simulated

pytestmark = [pytest.mark.network, pytest.mark.network_quick]


def test_two_light_clients_give_the_bits_of_a_simulation(net: Federation, tmp_path: Path) -> None:
    nodes = [net.add(f"node-{client}", partition_id=client) for client in range(2)]
    net.register(*nodes)
    stranger = net.add("stranger", partition_id=2).start()
    for node in nodes:
        node.start()
    run = net.run("light", rounds=2, clients=2)
    expected, parties = simulated(tmp_path / "simulated", clients=2, rounds=2)
    assert stranger.wait() == 1
    assert "[code: 2004] Failed to activate SuperNode." in stranger.text
    rows = run.wait()
    assert figures(rows) == figures(expected)
    assert [row["failures"] for row in rows] == [[], []]
    for node, party in zip(nodes, parties, strict=True):
        assert Party(party.client, node.state, PUBLIC).state("light") == party.state("light")
