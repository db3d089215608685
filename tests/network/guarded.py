"""A SuperLink behind the proxy, and nodes that come in through it, as processes."""

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
from pathlib import Path

import pytest

from fedkt.deploy.credentials import make
from fedkt.deploy.registering import flower_program

from .fleet_proxy import Proxy, fleet_proxy

PROJECT = """\
[project]
name = "{name}"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr>=1.41"]
[tool.flwr.app]
publisher = "nobody"
[tool.flwr.app.components]
serverapp = "{name}:server"
clientapp = "{name}:client"
[tool.flwr.app.config]
"""


def small_app(folder: Path, name: str, code: str) -> Path:
    """Write a Flower app of one module, with its ``server`` and its ``client``; return it."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT.format(name=name), encoding="utf-8")
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def flower_home(folder: Path) -> Iterator[Path]:
    """Give the home of Flower's processes; the environment names it."""
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


@contextmanager
def guarded_superlink(home: Path) -> Iterator[Proxy]:
    """Run a SuperLink that asks for keys, and the proxy before it.

    Flower's ``config.toml`` has both, as ``direct`` and ``proxy``.
    """
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
def node(
    home: Path, proxy: Proxy, key: Path, programs: Path | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a SuperNode that reaches the SuperLink through the proxy; give its log too.

    A folder of programs comes first on its PATH.
    """
    log = home / f"{key.name}.log"
    arguments = [
        *("--superlink", f"127.0.0.1:{proxy.port}"),
        *("--root-certificates", str(home / "certs" / "ca.crt")),
        *("--auth-supernode-private-key", str(key)),
        *("--port", str(free_port())),
    ]
    with pytest.MonkeyPatch.context() as patch:
        if programs is not None:
            patch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        with running(log, "flower-supernode", *arguments) as process:
            yield process, log
