"""What ``fedkt deploy check`` says of good and of bad nodes."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedkt.deploy import node_check
from fedkt.deploy.app_trial import node_config_of
from fedkt.deploy.certificates import (
    authority_files,
    new_authority,
    write_new,
)
from fedkt.deploy.client_list import read_clients
from fedkt.deploy.credentials import make
from fedkt.deploy.node_check import Node, clock_finding, findings
from fedkt.errors import ConfigError

from .tls_server import tls_server

DATA = """
import torch
from fedkt.data.samples import ClientData, Samples


def samples(n):
    x = torch.arange(4.0 * n).reshape(n, 4)
    return Samples(x, torch.arange(n) % 3, torch.arange(n))


def load_data(context):
    n = context.node_config["partition-id"] + context.run_config["rows"]
    return ClientData(
        samples(n), samples(2), samples(5), samples(7), None, 3, (4,), classes=("a", "b", "c")
    )


def build_model():
    return torch.nn.Linear(4, 3)
"""
CLIENT_APP = """
from fedkt.deploy import client
from hospitals_app.data import build_model, load_data

app = client(load_data, build_model)
"""
PROJECT = """
[project]
name = "hospitals"
version = "1.0.0"
requires-python = ">=3.11"
dependencies = ["fedkt>=0.1", "torch>=2", "flwr>=1.41,<2"]
[tool.flwr.app.components]
clientapp = "hospitals_app.client_app:app"
[tool.flwr.app.config]
rows = 10
"""


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    make(tmp_path / "certs", ("localhost", "127.0.0.1"), ("north",), 365)
    return tmp_path / "certs"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Path]:
    package = tmp_path / "app" / "hospitals_app"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "data.py").write_text(DATA, encoding="utf-8")
    (package / "client_app.py").write_text(CLIENT_APP, encoding="utf-8")
    (tmp_path / "app" / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    yield tmp_path / "app"
    for name in [n for n in sys.modules if n.startswith("hospitals_app")]:
        del sys.modules[name]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in node_check.PROGRAMS:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def lines(node: Node) -> dict[str, tuple[str, str]]:
    seen = list(findings(node))
    assert all("\n" not in str(finding) for finding in seen)
    return {finding.what: (finding.level, finding.text) for finding in seen}


@pytest.mark.usefixtures("programs")
def test_a_good_node(certs: Path, app: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    key = certs / "keys" / "north"
    with tls_server(certs / "server.crt", certs / "server.key") as port:
        seen = lines(Node(app, f"localhost:{port}", certs / "ca.crt", key, state, "partition-id=2"))
    assert {what: level for what, (level, _) in seen.items() if level == "FAIL"} == {}
    assert seen["clock"][0] == "ok"
    assert seen["TLS"][1].startswith("localhost has a certificate of this CA, until 20")
    assert seen["TLS"][1].endswith(" 364 days left")
    assert read_clients(certs / "clients.toml")[0].key in seen["key"][1]
    assert seen["key's mode"] == ("ok", "600")
    assert seen["data"][1] == "12 training, 2 validation, 5 test samples of shape [4]"
    assert seen["classes"][1] == "3: a, b, c"
    assert seen["public set"][1].startswith("7 samples, ")
    assert seen["model"][1] == "Linear, 15 parameters"
    assert seen["flwr"] == ("ok", version("flwr"))


def test_a_server_of_another_authority_or_another_name(certs: Path, tmp_path: Path) -> None:
    make(tmp_path / "others", ("elsewhere.example.org",), ("north",), 365)
    other = tmp_path / "others"
    with tls_server(certs / "server.crt", certs / "server.key") as port:
        where = f"localhost:{port}"
        level, text = lines(Node(superlink=where, ca=other / "ca.crt"))["TLS"]
        assert level == "FAIL"
        assert f"{other / 'ca.crt'} must be the CA of this server" in text
        assert lines(Node(superlink=where))["TLS"] == ("warn", "not checked; give --ca FILE")
    with tls_server(other / "server.crt", other / "server.key") as port:
        level, text = lines(Node(superlink=f"localhost:{port}", ca=other / "ca.crt"))["TLS"]
    assert level == "FAIL"
    assert text.startswith("Hostname mismatch, certificate is not valid for 'localhost'")


def test_a_port_that_is_closed_and_one_without_tls(certs: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{listener.getsockname()[1]}"
        level, text = lines(Node(superlink=where, ca=certs / "ca.crt"))["port"]
        assert level == "FAIL"
        assert text.startswith(f"{where} cannot be reached (ConnectionRefusedError")
    level, text = lines(Node(superlink="https://a:443"))["server"]
    assert (level, text) == (
        "FAIL", "superlink is 'https://a:443'; allowed is HOST:PORT, without https://",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ahead", "level"), [(0, "ok"), (-30, "FAIL"), (90, "warn"), (400, "FAIL")]
)
def test_a_server_with_another_clock(certs: Path, ahead: int, level: str) -> None:
    with tls_server(certs / "server.crt", certs / "server.key", ahead) as port:
        seen = lines(Node(superlink=f"localhost:{port}", ca=certs / "ca.crt"))
    assert seen["clock"][0] == level


@pytest.mark.parametrize(
    ("ahead", "line"),
    [
        (0.9, "ok    clock: 0 s behind the server's"),
        (-59, "ok    clock: 59 s behind the server's"),
        (-61, "warn  clock: 61 s behind the server's; set the clock (NTP) before Flower refuses"),
        (-306, "FAIL  clock: 306 s behind the server's; Flower refuses the node from 5 s ahead"),
        (3.5, "warn  clock: 2 s ahead of the server's"),
        (6.5, "FAIL  clock: 6 s ahead of the server's; Flower refuses"),
    ],
)
def test_clocks(ahead: float, line: str) -> None:
    assert str(clock_finding(ahead)).startswith(line)


def test_certificates_that_end_soon_or_have_ended(tmp_path: Path) -> None:
    for name, days, level, text in (
        ("soon", 10, "warn", "9 days left; renew it"),
        ("ended", 0, "FAIL", "which ended on"),
    ):
        folder = tmp_path / name
        write_new(authority_files(folder, new_authority(days)))
        found = lines(Node(ca=folder / "ca.crt"))["CA"]
        assert found[0] == level
        assert text in found[1]
    assert lines(Node(ca=tmp_path / "none"))["CA"] == (
        "FAIL", f"{tmp_path / 'none'} cannot be read: No such file or directory",
    )  # fmt: skip
    assert lines(Node(ca=tmp_path / "soon" / "ca.key"))["CA"][1].endswith(
        "is no certificate in PEM form"
    )


def test_a_key_that_others_may_read(certs: Path) -> None:
    key = certs / "keys" / "north"
    key.chmod(0o644)
    level, text = lines(Node(key=key))["key's mode"]
    assert (level, text) == ("FAIL", f"{key} has mode 644: others may read it; chmod 600 {key}")
    assert lines(Node(key=certs / "ca.crt"))["key"][0] == "FAIL"
    assert "cannot be read" in lines(Node(key=certs / "none"))["key"][1]


def test_a_state_folder_that_is_missing_open_or_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    assert lines(Node(state=state))["state"] == (
        "FAIL", f"{state} is no folder; make it: mkdir -m 700 -p {state}",
    )  # fmt: skip
    state.mkdir()
    state.chmod(0o755)
    level, text = lines(Node(state=state))["state"]
    assert (level, text[-len(f"chmod 700 {state}") :]) == ("warn", f"chmod 700 {state}")
    assert stat.S_IMODE(state.stat().st_mode) == 0o755, "a check changes nothing"
    for free, level in ((0.5e9, "FAIL"), (2e9, "warn"), (9e9, "ok")):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(node_check.shutil, "disk_usage", lambda _, usage=usage: usage)
        assert lines(Node(state=state))["disk"][0] == level


def test_programs_that_flower_would_not_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    level, text = lines(Node())["programs"]
    assert level == "FAIL"
    assert text.startswith("flower-supernode, flower-superexec, flwr-clientapp not on the PATH;")


def test_versions_that_the_app_does_not_take(app: Path) -> None:
    file = app / "pyproject.toml"
    text = PROJECT.replace("torch>=2", "torch>=99").replace(">=3.11", ">=4")
    file.write_text(text.replace("flwr>=1.41,<2", "nothing-like-this"), encoding="utf-8")
    seen = lines(Node(app))
    assert seen["Python"][1].endswith("; the app asks for >=4")
    assert seen["torch"][0] == seen["Python"][0] == "FAIL"
    assert seen["torch"][1].endswith("; the app asks for >=99")
    assert seen["nothing-like-this"][1] == "not installed; pip install 'nothing-like-this'"
    assert seen["flwr"][0] == "ok"


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("def load_data", "def load", "hospitals_app.client_app:app of"),
        (
            "return torch.nn.Linear(4, 3)",
            "raise OSError('no disk')",
            "build_model raised OSError; the log of the node says more",
        ),
        (
            "    return ClientData(",
            "    return 7\n    dict(",
            "load_data must return a ClientData",
        ),
        ("import torch\n", "import torch_that_is_not\n", "hospitals_app.client_app:app of"),
        (
            '"partition-id"',
            '"data-dir"',
            "load_data raised KeyError",
        ),
    ],
)
def test_an_app_at_fault(app: Path, before: str, after: str, line: str) -> None:
    file = app / "hospitals_app" / "data.py"
    file.write_text(DATA.replace(before, after), encoding="utf-8")
    level, text = lines(Node(app, node_config="partition-id=0"))["app"]
    assert level == "FAIL"
    assert text.startswith(line)
    assert str(app) not in sys.path


def test_an_app_without_a_client(app: Path) -> None:
    (app / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    assert "no [tool.flwr.app.components] clientapp" in lines(Node(app))["app"][1]
    (app / "pyproject.toml").unlink()
    assert "holds no app: it has no pyproject.toml" in lines(Node(app))["app"][1]


def test_a_node_config_is_read_as_flower_reads_it() -> None:
    text = 'partition-id=3 data-dir="/srv/my data" share=0.5 on=true'
    assert node_config_of(text) == {
        "partition-id": 3, "data-dir": "/srv/my data", "share": 0.5, "on": True,
    }  # fmt: skip
    assert node_config_of("") == {}
    with pytest.raises(ConfigError, match=r"node-config: a is b; text stands in quotes"):
        node_config_of("a=b")
    with pytest.raises(ConfigError, match=r"node-config has 'x'; allowed is key=value"):
        node_config_of("a=1 x")


def test_the_command_fails_where_a_check_does(certs: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedkt.simulations.cli", "deploy", "check"]
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "--key", str(certs / "keys" / "north")],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=environment,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("FAIL  programs: flower-supernode")
    assert "ok    key's mode: 600" in done.stdout
    assert "warn  state: not checked; give --state DIR" in done.stdout
