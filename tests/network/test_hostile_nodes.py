"""Liars in a federation of processes, and nodes that are not let in."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightapp.hostile import LIES, Trap
from lightapp.party import Party

from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.strategies.construction import make_strategy

from .certificate_maker import make_certificates
from .fleet_proxy import fleet_proxy
from .harness import CONNECTION, Federation, Node
from .light_grid import PUBLIC

ROUNDS, HONEST, HOSTILE = 8, (0, 3), (1, 2, 4)
REGISTER = "/v1/control/register-node"
REFUSED = {
    "unregistered": "[code: 2004] Failed to activate SuperNode.",
    "in-use": "[code: 2004] Failed to activate SuperNode.",
    "no-key": "[code: 2001] SuperNode authentication is enabled.",
    "wrong-authority": "CERTIFICATE_VERIFY_FAILED",
}


def node_of(net: Federation, client: int, trap: Path, port: int) -> Node:
    """Return the node of a client, honest or hostile."""
    config: dict[str, Any] = {"partition_id": client, "port": port}
    if client in HOSTILE:
        begin = HOSTILE.index(client) * ROUNDS
        config |= {"lies": ",".join(list(LIES)[begin : begin + ROUNDS]), "trap": str(trap)}
    return net.add(f"node-{client}", **config)


def strangers(net: Federation, port: int) -> dict[str, Node]:
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
    config = {"port": port, "partition_id": 9}
    return {name: net.add(name, *given, **config) for name, given in arguments.items()}


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


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(str(tmp_path / "trap"))))
    assert (tmp_path / "trap").exists()


@pytest.mark.network
def test_lies_are_rejected_and_strangers_refused(net: Federation) -> None:
    trap, pem = net.folder / "trap", net.certificates
    with fleet_proxy(pem / "server.crt", pem / "server.key", pem / "ca.crt", net.port) as proxy:
        nodes = {client: node_of(net, client, trap, proxy.port) for client in range(5)}
        net.register(*nodes.values())
        for node in nodes.values():
            node.start()
        run = net.run("light", rounds=ROUNDS, clients=5)
        run.wait_for(1)
        refused = strangers(net, proxy.port)
        for node in refused.values():
            node.start()
        key = str(refused["unregistered"].folder / "key.pub")
        said, status = net.try_flwr(["supernode", "register", key, CONNECTION], port=proxy.port)
        assert status == 1
        assert "403 Forbidden" in said
        rows = run.wait()
        _check_refusals(net, refused)
    assert {target for _, target, status in proxy.seen if status == 403} == {REGISTER}
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
