"""Keys at a real SuperLink, behind the proxy: registered, replaced, refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedkt.deploy import registering
from fedkt.deploy.client_list import read_clients, write_clients
from fedkt.deploy.registering import flower_program, register, rotate
from fedkt.errors import ConfigError

from .fleet_proxy import Proxy
from .guarded import flower_home, guarded_superlink, node, small_app, wait_for

pytestmark = [pytest.mark.network, pytest.mark.usefixtures("alone")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with flower_home(tmp_path_factory.mktemp("home")) as folder:
        yield folder


@pytest.fixture(scope="module")
def proxy(home: Path) -> Iterator[Proxy]:
    with guarded_superlink(home) as proxy:
        yield proxy


def test_control_is_refused_by_the_proxy(home: Path, proxy: Proxy) -> None:
    with pytest.raises(ConfigError) as error:
        list(register(home / "certs", "proxy"))
    assert str(error.value) == (
        "north: the key could not be registered: 403 Forbidden. The proxy lets nodes through and "
        "nothing else; run this on the server, with a connection to the SuperLink itself."
    )
    assert proxy.seen[-1] == ("POST", "/v1/control/register-node", 403)
    assert [c.node for c in read_clients(home / "certs" / "clients.toml")] == [None, None]

    app = small_app(home / "app", "nothing", "server = None\nclient = None\n")
    done = subprocess.run(
        [flower_program("flwr"), "run", str(app), "proxy", "--format", "json"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    answer = json.loads(done.stdout)
    assert answer["success"] is False
    assert "403 Forbidden" in answer["error-message"]
    assert proxy.seen[-1] == ("POST", "/v1/control/start-run", 403)


def test_keys_are_registered_once(home: Path, proxy: Proxy) -> None:
    certs = home / "certs"
    file = certs / "clients.toml"
    lines = list(register(certs, "direct"))
    clients = read_clients(file)
    assert lines == [f"{c.name}: node {c.node}." for c in clients]
    assert all(c.node for c in clients)
    again = [f"{c.name}: registered before, node {c.node}." for c in clients]
    assert list(register(certs, "direct")) == again
    # Cut off after Flower had the key and before the list had the node.
    write_clients(file, [clients[0], replace(clients[1], node=None)])
    assert list(register(certs, "direct"))[1] == f"south: node {clients[1].node}."
    assert read_clients(file) == clients

    other = replace(clients[1], node=None, key=f"SHA256:{'A' * 43}")
    write_clients(file, [clients[0], other])
    with pytest.raises(ConfigError, match=r"south\.pub has the fingerprint .* says SHA256:AAAA"):
        list(register(certs, "direct"))
    write_clients(file, clients)


def test_a_new_key_is_accepted_and_the_old_one_refused(home: Path, proxy: Proxy) -> None:
    certs = home / "certs"
    list(register(certs, "direct"))
    before = read_clients(certs / "clients.toml")[0]
    with node(home, proxy, certs / "keys" / "north") as (process, log):
        wait_for(f"SuperNode ID: {before.node}", log)
        lines = list(rotate(certs, "north", "direct"))
        process.wait(60)  # a node whose key is unregistered ends
    # Which of its requests comes first after the rotation is chance.
    assert any(path.startswith("/v1/fleet/") and status == 401 for _, path, status in proxy.seen)
    after = read_clients(certs / "clients.toml")[0]
    assert (after.id, after.name, after.former) == (0, "north", None)
    assert after.key != before.key
    assert after.node != before.node
    assert lines == [
        f"north: new key {after.key}, node {after.node}; the old key is refused from now on.",
        f"Replace the key at the node by {certs / 'keys' / 'north'} (mode 600), and restart its "
        "SuperNode; until then it stays out.",
    ]
    with node(home, proxy, certs / "keys" / "north.old") as (process, log):
        assert process.wait(60) == 1
        wait_for("[code: 2004] Failed to activate SuperNode.", log)
    with node(home, proxy, certs / "keys" / "north") as (_, log):
        wait_for(f"SuperNode ID: {after.node}", log)


def test_a_rotation_that_is_cut_off_goes_on(
    home: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    certs = home / "certs"
    file, keys = certs / "clients.toml", certs / "keys"
    list(register(certs, "direct"))
    before = read_clients(file)[1]

    def cut(*arguments: object) -> None:
        raise KeyboardInterrupt

    seen = []
    for step in ("_write", "_change_places", "_unregister"):
        with monkeypatch.context() as patch:
            patch.setattr(registering, step, cut)
            with pytest.raises(KeyboardInterrupt):
                list(rotate(certs, "south", "direct"))
        seen.append(read_clients(file)[1])
    lines = list(rotate(certs, "south", "direct"))
    after = read_clients(file)[1]
    assert lines[0] == "south: going on with a rotation that was cut off."
    assert after.node not in (None, before.node)
    under_way = replace(after, former=before.node)
    assert seen == [before, under_way, under_way]
    assert registering.read_private_key(keys / "south")[1] == after.key
    assert registering.read_private_key(keys / "south.old")[1] == before.key
    assert registering.fingerprint_of((keys / "south.pub").read_bytes()) == after.key
    assert not [p for p in keys.iterdir() if ".new" in p.name]
    nodes = registering._nodes("direct")
    assert nodes[before.key] == (before.node, False)
    assert nodes[after.key] == (after.node, True)


def test_a_key_that_was_unregistered_is_not_taken_again(home: Path, proxy: Proxy) -> None:
    certs = home / "certs"
    list(register(certs, "direct"))
    clients = read_clients(certs / "clients.toml")
    registering._unregister(clients[1].node or 0, "direct")
    write_clients(certs / "clients.toml", [clients[0], replace(clients[1], node=None)])
    with pytest.raises(ConfigError, match=r"south: this key was unregistered at the SuperLink"):
        list(register(certs, "direct"))
