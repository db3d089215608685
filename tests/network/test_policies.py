"""Nodes that let less out than a run asks for, among others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import Federation, Node, federation
from .hospitals import begun, ended, new_app
from .processes import wait_until
from .tcp_proxy import TcpProxy

pytestmark = [pytest.mark.network, pytest.mark.network_long]

PUBLIC = 100_000  # samples, whose answers are 2 MB in float16: frames and polls are little beside
POLICIES = f"""
import os
from pathlib import Path

import numpy as np

from hospitals import data
from fedkt.deploy import ClientData, Policy, client

POLICIES = {{
    "node-0": Policy(),
    "node-1": Policy(shares={{"predict", "weights"}}),
    "node-2": Policy(shares=None, most_epochs=1),
    "node-3": Policy(shares=None, most_bytes=1000),
    "node-4": Policy(codecs={{"uint8"}}),
}}


def load_data(context):
    x = np.random.default_rng(1).random(({PUBLIC}, 1, 8, 8), dtype=np.float32)
    return ClientData(**{{**vars(data.load_data(context)), "public": ClientData.from_arrays(
        x[:20], np.arange(20) % 10, classes=10, public=x).public}})


def build_model():
    return "linear"


policy = POLICIES[Path(os.environ["FLWR_HOME"]).name]  # the harness names a node by its folder
app = client(load_data, build_model, policy=policy)
"""
SERVER = """
from fedkt.deploy import server

app = server(server_model="linear")
"""
REFUSED = {
    "knfu": {
        2: "its policy allows 1 epochs a round (most_epochs), not 3",
        3: "its policy allows 1,000 bytes of an upload (most_bytes), not 2,000,000",
        4: "its policy allows codecs uint8, not float16",
    },
    "fedavg": {
        0: "its policy allows shares predict, not weights",
        3: "its policy allows 1,000 bytes of an upload (most_bytes), not 2,600",
        4: "its policy allows shares predict, not weights",
    },
}


@pytest.fixture
def nodes(alone: None, tmp_path: Path) -> Iterator[tuple[Federation, TcpProxy]]:
    """Yield a federation of five nodes with a policy each; the first has a proxy of its own."""
    app = new_app(tmp_path / "hospitals")
    (app / "hospitals" / "client_app.py").write_text(POLICIES, encoding="utf-8")
    (app / "hospitals" / "server_app.py").write_text(SERVER, encoding="utf-8")
    with (
        federation(tmp_path / "federation", app, hurried=False) as net,
        TcpProxy(net.free_port(), net.port).running() as proxy,
    ):
        ports = [proxy.port, *[net.port] * 4]
        made = [
            net.add(f"node-{c}", port=port, partition_id=c, num_partitions=5)
            for c, port in enumerate(ports)
        ]
        net.register(*made)
        for node in made:
            node.start()
        wait_until(lambda: len(net.online()) == len(made), "all nodes are there", 60)
        yield net, proxy


def sent(node: Node) -> list[dict]:
    """Return the lines of what has left a node."""
    file = node.state / "sent.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_each_refuses_in_one_line_and_the_others_go_on(
    nodes: tuple[Federation, TcpProxy],
) -> None:
    net, proxy = nodes
    common = {"num_server_rounds": 1, "server.clients": 5, "server.quorum": "2"}
    runs = {
        "knfu": {"strategy": "knfu(local_epochs=2, distil_epochs=1)", "server.codec": "float16"},
        "fedavg": {"strategy": "fedavg(local_epochs=1)"},
    }
    for name, values in runs.items():
        up = proxy.up
        (row,) = ended(begun(net, name, **common, **values))
        through = proxy.up - up
        out = dict(REFUSED[name])
        assert row["participants"] == sorted({0, 1, 2, 3, 4} - out.keys()), row["failures"]
        said = [*row["notes"], *(f"client {f['client']}: {f['reason']}" for f in row["failures"])]
        for client, reason in out.items():
            assert any(f"client {client}" in line and reason in line for line in said), said
            assert reason in net.nodes[f"node-{client}"].log
        if name == "knfu":
            lines = [line for line in sent(net.nodes["node-0"]) if "bytes" in line]
            left = sum(line["bytes"] for line in lines)
            assert left >= 2 * 10 * PUBLIC
            assert 1 < through / left < 1.1, (through, left)
    lines = sent(net.nodes["node-0"])
    assert {line["share"] for line in lines if "share" in line} == {"public"}
    assert all("bytes" not in line for line in sent(net.nodes["node-4"]))
