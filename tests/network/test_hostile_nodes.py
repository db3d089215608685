"""Liars in a federation of processes, and nodes that are not let in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightapp.hostile import LIES
from lightapp.party import Party

from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.strategies.construction import make_strategy

from .credentials import make_certificates
from .harness import Federation, Node
from .light_grid import PUBLIC

pytestmark = pytest.mark.network
ROUNDS, HONEST, HOSTILE = 8, (0, 3), (1, 2, 4)
REFUSED = {
    "unregistered": "[code: 2004] Failed to activate SuperNode.",
    "in-use": "[code: 2004] Failed to activate SuperNode.",
    "no-key": "[code: 2001] SuperNode authentication is enabled.",
    "wrong-authority": "CERTIFICATE_VERIFY_FAILED",
}


def node_of(net: Federation, client: int, trap: Path) -> Node:
    """Return the node of a client, honest or hostile."""
    config: dict[str, Any] = {"partition_id": client}
    if client in HOSTILE:
        begin = HOSTILE.index(client) * ROUNDS
        config |= {"lies": ",".join(list(LIES)[begin : begin + ROUNDS]), "trap": str(trap)}
    return net.add(f"node-{client}", **config)


def strangers(net: Federation) -> dict[str, Node]:
    """Return nodes that must not get in."""
    key, registered = net.folder / "unregistered" / "key", net.folder / "node-0" / "key"
    root = ["--root-certificates", str(net.certificates / "ca.crt")]
    other = str(make_certificates(net.folder / "others") / "ca.crt")
    arguments = {
        "unregistered": (),
        "in-use": net.trusted(registered),
        "no-key": root,
        "wrong-authority": ["--root-certificates", other, "--auth-supernode-private-key", str(key)],
        "no-tls": ["--insecure"],
    }
    return {name: net.add(name, *given, partition_id=9) for name, given in arguments.items()}


def fused_of(parties: dict[int, Party], round_: int) -> dict[int, bytes]:
    """Return the fused knowledge of each client, from what honest clients have sent."""
    uploads = []
    for client, party in parties.items():
        answers = Knowledge.rows(
            "probabilities", torch.tensor(party.kept("light", f"sent-{round_}"))
        )
        uploads.append(Upload(client, 100 + client, {"public": answers}, "light"))
    fused = make_strategy({"name": "knfu"}).fuse(Uploads(uploads))
    return {c: fused.for_client(c)["public"].values.numpy().tobytes() for c in parties}


def test_lies_are_rejected_and_strangers_refused(net: Federation) -> None:
    trap = net.folder / "trap"
    nodes = {client: node_of(net, client, trap) for client in range(5)}
    net.register(*nodes.values())
    for node in nodes.values():
        node.start()
    run = net.run("light", rounds=ROUNDS, clients=5)
    run.wait_for(1)
    refused = strangers(net)
    for node in refused.values():
        node.start()
    rows = run.wait()
    _check_refusals(net, refused)
    assert [row["participants"] for row in rows] == [list(HONEST)] * ROUNDS
    for row in rows:
        failed = {(client, phase): reason for client, phase, reason in row["failures"]}
        assert set(failed) == {(c, phase) for c in HOSTILE for phase in ("share", "evaluate")}
        assert all(failed.values())
    assert not trap.exists()
    parties = {client: Party(client, nodes[client].state, PUBLIC) for client in HONEST}
    for round_ in range(1, ROUNDS + 1):
        for client, fused in fused_of(parties, round_).items():
            assert parties[client].kept("light", f"received-{round_}").tobytes() == fused


def _check_refusals(net: Federation, refused: dict[str, Node]) -> None:
    processes = {name: node.process for name, node in refused.items()}
    for name, text in REFUSED.items():
        process = processes[name]
        assert process is not None
        assert process.wait() == 1, name
        assert text in process.text
    insecure = processes["no-tls"]
    assert insecure is not None
    assert insecure.alive
    assert "Connection attempt failed" in insecure.text
    assert len(net.online()) == len(HONEST) + len(HOSTILE)
