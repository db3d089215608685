"""Nodes on hosts of their own: network namespaces, where the system lets us make them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .certificate_maker import OWN_NETWORK
from .harness import Federation
from .light_grid import figures, simulated
from .tcp_proxy import TcpProxy

pytestmark = [pytest.mark.network, pytest.mark.network_long]
CLIENTS, BRIDGE = 2, "fedkt-br"


def ip(*arguments: str) -> None:
    """Run ``ip``; skip the test where the system refuses."""
    done = subprocess.run(["ip", *arguments], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        pytest.skip(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Yield the names of hosts, each with an address of its own on a bridge of this machine."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the program ip")
    names = [f"fedkt-{client}" for client in range(CLIENTS)]
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{OWN_NETWORK}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for client, name in enumerate(names):
            ip("netns", "add", name)
            ip("link", "add", f"{name}h", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"{name}h", "master", BRIDGE, "up")
            inside = ("netns", "exec", name, "ip")
            ip(*inside, "addr", "add", f"10.99.0.{client + 2}/24", "dev", "eth0")
            ip(*inside, "link", "set", "eth0", "up")
            ip(*inside, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)


def test_hosts_with_an_address_each_give_the_same_bits(
    net: Federation, hosts: list[str], tmp_path: Path
) -> None:
    proxy = TcpProxy(net.free_port(), net.port, host=OWN_NETWORK)
    with proxy.running():
        nodes = [
            net.add(f"node-{client}", host=OWN_NETWORK, port=proxy.port, partition_id=client)
            for client in range(CLIENTS)
        ]
        net.register(*nodes)
        for name, node in zip(hosts, nodes, strict=True):
            node.command = ["ip", "netns", "exec", name, *node.command]
            node.start()
        rows = net.run("light", rounds=2, clients=CLIENTS).wait()
    expected, _ = simulated(tmp_path / "simulated", CLIENTS, 2)
    assert figures(rows) == figures(expected)
    assert proxy.peers == {f"10.99.0.{client + 2}" for client in range(CLIENTS)}
