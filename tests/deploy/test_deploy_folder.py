"""The folder ``deploy``: whole, filled in, and read by the programs that it is for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from fedkt.deploy.client_list import read_clients
from fedkt.deploy.credentials import make
from fedkt.deploy.deploy_folder import write_deploy_folder
from fedkt.errors import ConfigError

SERVER, NODE = "fedkt-superlink.service", "fedkt-supernode@.service"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_deploy_folder(tmp_path / "deploy", "hospitals", ["fl.example.org", "10.0.0.5"], 8443)
    return tmp_path / "deploy"


def test_what_is_written(folder: Path) -> None:
    texts = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
    assert set(texts) == {
        *("nginx.conf", "compose.yaml", "node.env", "clients.toml"), SERVER, NODE,
    }  # fmt: skip
    assert all("{{" not in text and "}}" not in text for text in texts.values())
    assert "listen 8443 ssl;" in texts["nginx.conf"]
    assert "server_name fl.example.org 10.0.0.5;" in texts["nginx.conf"]
    assert "--superlink fl.example.org:8443" in texts[NODE]
    assert "/etc/hospitals/server.key" in texts[SERVER]


def test_the_superlink_is_on_the_loopback_device_and_asks_for_keys(folder: Path) -> None:
    unit = (folder / SERVER).read_text(encoding="utf-8")
    compose = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))
    for command in (unit, " ".join(compose["services"]["superlink"]["command"])):
        assert re.search(r"--host[ =]127\.0\.0\.1", command)
        assert "--enable-supernode-auth" in command
        assert "--insecure" not in command
    assert compose["services"]["superlink"]["ports"] == ["8443:8443"]
    assert compose["services"]["proxy"]["network_mode"] == "service:superlink"
    assert compose["services"]["supernode"]["cap_drop"] == ["ALL"]


def test_units_start_again_for_ever_and_leave_nothing_behind(folder: Path) -> None:
    for name in (SERVER, NODE):
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        pinned = "/etc/hospitals/pinned:" if name == NODE else ""
        for line in (
            f"Environment=PATH={pinned}/opt/hospitals/venv/bin:/usr/local/bin:/usr/bin:/bin",
            "Restart=always",
            "RestartSec=20",
            "StartLimitIntervalSec=0",
            "KillMode=control-group",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
        ):
            assert line in lines


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    for name in ("flower-superlink", "flower-supernode"):
        file = tmp_path / "venv" / "bin" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o755)
    write_deploy_folder(tmp_path / "deploy", "hospitals", venv=str(tmp_path / "venv"))
    done = subprocess.run(
        [program, "verify", *(str(tmp_path / "deploy" / name) for name in (SERVER, NODE))],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    about_ours = [line for line in done.stderr.splitlines() if "fedkt-" in line]
    assert (done.returncode, about_ours) == (0, [])


def test_certificates_can_be_made_in_it(folder: Path) -> None:
    assert read_clients(folder / "clients.toml") == ()
    make(folder, ("fl.example.org",), ("north",), 365)
    assert [c.name for c in read_clients(folder / "clients.toml")] == ["north"]


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compose\.yaml exists and is not overwritten"):
        write_deploy_folder(folder, "hospitals")
    for name in ("", "Hospitals", "a b", "../x"):
        with pytest.raises(ConfigError, match="allowed are up to 31 small letters"):
            write_deploy_folder(tmp_path / "new", name)
    with pytest.raises(ConfigError, match="port is 0; allowed are 1 to 65535"):
        write_deploy_folder(tmp_path / "new", "a", port=0)
    with pytest.raises(ConfigError, match="hosts is empty"):
        write_deploy_folder(tmp_path / "new", "a", [])
    assert not (tmp_path / "new").exists()
