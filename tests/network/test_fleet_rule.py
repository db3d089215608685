"""What the proxy lets through: the template ``nginx.conf`` and the tests' proxy, by one table."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkt.deploy.credentials import make
from fedkt.deploy.deploy_folder import write_deploy_folder

from .fleet_proxy import let_through, normal

TABLE = [
    ("POST", "/v1/fleet/activate-node", True),
    ("POST", "/v1/fleet/pull-messages", True),
    ("POST", "/v1/fleet/push-object?x=1", True),
    ("POST", "//v1//fleet/get-run", True),
    ("POST", "/v1/control/../fleet/get-run", True),
    ("GET", "/v1/fleet/get-run", False),
    ("DELETE", "/v1/fleet/get-run", False),
    ("POST", "/v1/fleets/get-run", False),
    ("POST", "/V1/FLEET/get-run", False),
    ("POST", "/", False),
    ("GET", "/health", False),
    ("GET", "/docs", False),
    ("GET", "/openapi.json", False),
    ("POST", "/v1/control/register-node", False),
    ("POST", "/v1/control/start-run", False),
    ("POST", "/v1/control/list-nodes", False),
    ("POST", "/v1/runtime/acquire-task", False),
    ("POST", "/v1/fleet/../control/start-run", False),
    ("POST", "/v1/fleet/%2e%2e/control/start-run", False),
    ("POST", "/v1/fleet/..%2fcontrol/start-run", False),
    ("POST", "/v1/fleet/x/../../control/start-run", False),
    ("POST", "/v1/fleet/./../control/start-run", False),
    ("POST", "/v1/control/start-run?/v1/fleet/", False),
    ("POST", "/v1/control/start-run#/v1/fleet/", False),
    ("POST", "/v1%2fcontrol/start-run", False),
]  # fmt: skip


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    make(tmp_path / "certs", ("localhost",), ("north",), 365)
    write_deploy_folder(
        tmp_path / "deploy",
        "hospitals",
        ["localhost"],
        22443,
        certificates=str(tmp_path / "certs"),
        logs=str(tmp_path),
    )
    return tmp_path / "deploy" / "nginx.conf"


def locations(text: str) -> Iterator[tuple[str, str]]:
    """Yield prefix and block of each ``location``; of prefixes alone, as in the template."""
    for found in re.finditer(r"location ([^{]*?) \{", text):
        depth, end = 1, found.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        assert found[1].startswith("/"), "other kinds of locations are not understood here"
        yield found[1], text[found.end() : end - 1]


def nginx_lets_through(text: str, method: str, target: str) -> bool:
    """Return what nginx does: the longest prefix of the normal path decides."""
    blocks = dict(locations(text))
    block = blocks[max((p for p in blocks if normal(target).startswith(p)), key=len)]
    allowed = re.search(r"limit_except (\w+) \{\s*deny all;\s*\}", block)
    return "proxy_pass " in block and (allowed is None or method == allowed[1])


@pytest.mark.parametrize(("method", "target", "through"), TABLE)
def test_both_follow_one_table(
    configuration: Path, method: str, target: str, through: bool
) -> None:
    text = configuration.read_text(encoding="utf-8")
    assert let_through(method, target) is through
    assert nginx_lets_through(text, method, target) is through


def test_nginx_sends_on_the_path_that_it_has_checked(configuration: Path) -> None:
    """Without a path in ``proxy_pass`` the raw one goes on: ``/v1/x/../fleet/`` and the like."""
    blocks = dict(locations(configuration.read_text(encoding="utf-8")))
    assert set(blocks) == {"/v1/fleet/", "/"}
    assert re.findall(r"proxy_pass (\S+);", blocks["/v1/fleet/"]) == ["https://superlink/v1/fleet/"]
    assert blocks["/"].split() == ["return", "403;"]
    assert "proxy_ssl_verify on;" in blocks["/v1/fleet/"]


def test_nginx_takes_the_configuration(configuration: Path) -> None:
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("nginx is not installed")
    pid = f"pid {configuration.parent / 'pid'};"
    done = subprocess.run(
        [nginx, "-t", "-c", str(configuration), "-g", pid],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
