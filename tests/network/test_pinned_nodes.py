"""Nodes that run the apps which their operators have pinned: the real programs of Flower."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from fedkt.deploy.pinned import pin
from fedkt.deploy.registering import flower_program, register

from .guarded import flower_home, guarded_superlink, node, small_app, wait_for

CODE = """\
import time

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.query()
def ask(message, context):
    return Message(RecordDict({"a": ConfigRecord({"b": "ran the app"})}), reply_to=message)


@server.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    content = RecordDict({"a": ConfigRecord({"b": "c"})})
    for reply in grid.send_and_receive([Message(content, n, "query") for n in nodes], timeout=60):
        said = reply.error.reason if reply.has_error() else reply.content["a"]["b"]
        print(f"ANSWER {said}", flush=True)
"""


@pytest.mark.network
@pytest.mark.usefixtures("alone")
def test_a_node_runs_what_it_has_pinned_and_nothing_else(tmp_path: Path) -> None:
    app = small_app(tmp_path / "app", "pinned", CODE)
    with flower_home(tmp_path) as home, guarded_superlink(home) as proxy:
        build = [flower_program("flwr"), "build", "--app", str(app)]
        subprocess.run(build, cwd=home, check=True, capture_output=True)
        (bundle,) = home.glob("*.fab")
        other = home / "other.fab"
        other.write_bytes(b"PK of another app")
        pin(home / "north", [other, bundle])
        pin(home / "south", [other])
        list(register(home / "certs", "direct"))
        keys = home / "certs" / "keys"
        with (
            node(home, proxy, keys / "north", home / "north") as (_, first),
            node(home, proxy, keys / "south", home / "south") as (_, second),
        ):
            wait_for("SuperNode ID", first)
            wait_for("SuperNode ID", second)
            done = subprocess.run(
                [flower_program("flwr"), "run", str(app), "direct", "--stream"],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                timeout=120,
            )
        digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
        answers = {line for line in done.stdout.splitlines() if line.startswith("ANSWER")}
    assert answers == {
        "ANSWER ran the app",
        "ANSWER <class 'fedkt.errors.ConfigError'>:<'this node does not run the app "
        f"sha256:{digest}; it is not pinned here'>",
    }, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("name", ["flwr-agentapp", "flwr-serverapp", "flwr-simulation"])
def test_programs_for_other_tasks_do_not_start(tmp_path: Path, name: str) -> None:
    bundle = tmp_path / "a.fab"
    bundle.write_bytes(b"PK")
    pin(tmp_path / "pinned", [bundle])
    done = subprocess.run(
        [tmp_path / "pinned" / name], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith("not started; this node runs pinned client apps alone\n")
