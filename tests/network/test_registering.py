"""Keys at a real SuperLink, behind the proxy: registered, replaced, refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fedkt.deploy import registering
from fedkt.deploy.client_list import read_clients, write_clients
from fedkt.deploy.credentials import make
from fedkt.deploy.registering import flower_program, register, rotate
from fedkt.errors import ConfigError

from .fleet_proxy import Proxy, fleet_proxy

APP = """\
[project]
name = "nothing"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr>=1.41"]
[tool.flwr.app]
publisher = "nobody"
[tool.flwr.app.components]
serverapp = "nothing:app"
clientapp = "nothing:app"
[tool.flwr.app.config]
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the home of Flower's processes; the environment names it."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_HOME", str(folder))
        patch.setenv("FLWR_TELEMETRY_ENABLED", "0")
        patch.setenv("FLWR_DISABLE_UPDATE_CHECK", "1")
        patch.setenv("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield folder


@contextmanager
def running(log: Path, program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of Flower's; end it, and what it has started and left behind."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [flower_program(program), *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()
        for child in started_by(process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def started_by(parent: int) -> list[int]:
    """Return the processes of Flower's that a process has started, each in a session of its own."""
    wanted = f"\0--parent-pid\0{parent}\0".encode()
    children = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it may have ended meanwhile
            if wanted in file.read_bytes():
                children.append(int(file.parent.name))
    return children


def wait_for(text: str, log: Path, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while text not in log.read_text(encoding="utf-8", errors="replace"):
        assert time.monotonic() < end, log.read_text(encoding="utf-8", errors="replace")[-2000:]
        time.sleep(0.1)


@pytest.fixture(scope="module")
def proxy(home: Path) -> Iterator[Proxy]:
    """Run a SuperLink that asks for keys, and the proxy before it."""
    certs, port = home / "certs", free_port()
    make(certs, ("localhost", "127.0.0.1"), ("north", "south"), 365)
    arguments = [
        *("--host", "127.0.0.1", "--port", str(port), "--database", str(home / "state.db")),
        *("--ssl-ca-certfile", str(certs / "ca.crt")),
        *("--ssl-certfile", str(certs / "server.crt"), "--ssl-keyfile", str(certs / "server.key")),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
    ]
    log = home / "superlink.log"
    with (
        running(log, "flower-superlink", *arguments),
        fleet_proxy(certs / "server.crt", certs / "server.key", certs / "ca.crt", port) as proxy,
    ):
        ca = json.dumps(str(certs / "ca.crt"))
        (home / "config.toml").write_text(
            "".join(
                f'[superlink.{name}]\naddress = "127.0.0.1:{at}"\nroot-certificates = {ca}\n'
                for name, at in {"direct": port, "proxy": proxy.port}.items()
            ),
            encoding="utf-8",
        )
        wait_for("Application startup complete", log)
        yield proxy


@contextmanager
def node(home: Path, proxy: Proxy, key: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a SuperNode that reaches the SuperLink through the proxy; give its log too."""
    log = home / "node.log"
    arguments = [
        *("--superlink", f"127.0.0.1:{proxy.port}"),
        *("--root-certificates", str(home / "certs" / "ca.crt")),
        *("--auth-supernode-private-key", str(key)),
        *("--port", str(free_port())),
    ]
    with running(log, "flower-supernode", *arguments) as process:
        yield process, log


def test_control_is_refused_by_the_proxy(home: Path, proxy: Proxy) -> None:
    with pytest.raises(ConfigError) as error:
        list(register(home / "certs", "proxy"))
    assert str(error.value) == (
        "north: the key could not be registered: 403 Forbidden. The proxy lets nodes through and "
        "nothing else; run this on the server, with a connection to the SuperLink itself."
    )
    assert proxy.seen[-1] == ("POST", "/v1/control/register-node", 403)
    assert [c.node for c in read_clients(home / "certs" / "clients.toml")] == [None, None]

    app = home / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(APP, encoding="utf-8")
    (app / "nothing.py").write_text("app = None\n", encoding="utf-8")
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
    assert ("POST", "/v1/fleet/pull-messages", 401) in proxy.seen
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
