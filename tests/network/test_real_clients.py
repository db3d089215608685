"""The app that ``fedkt new`` writes: over the network, and under Flower's simulation."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import fedkt
from fedkt.deploy import model
from fedkt.deploy.live import read_live
from fedkt.deploy.new_app import write_app
from fedkt.deploy.rehearsal import read_app, values_of
from fedkt.deploy.watching import is_over
from fedkt.simulations.experiment import config as config_
from fedkt.simulations.experiment.references import read_strategy
from fedkt.simulations.results.rounds import read_rounds

from ..deploy.federating import figures
from .harness import CONNECTION, Federation, federation
from .processes import QUIET, end_all, wait_until

CLIENTS, SECONDS = 3, 400
SERVER = """
from hospitals.data import build_server_model, load_public
from fedkt.deploy import server

app = server(server_model=build_server_model, public=load_public)
"""
PUBLIC = '''
def load_public():
    """Return the inputs of the public set."""
    x, _ = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return x[np.split(np.random.default_rng(0).permutation(len(x)), [300, 600])[0]]
'''


def new_app(folder: Path, one_model: bool = False) -> Path:
    """Return the folder of a new app; with one model it may share all it has."""
    write_app(folder, CLIENTS)
    package = folder / "hospitals"
    if one_model:
        data = package / "data.py"
        text = data.read_text(encoding="utf-8").replace('("cnn", "mlp", "forest")', '("cnn",)')
        data.write_text(text + PUBLIC, encoding="utf-8")
        party = package / "client_app.py"
        text = party.read_text(encoding="utf-8").replace('shares={"predict"}', "shares=None")
        party.write_text(text, encoding="utf-8")
        (package / "server_app.py").write_text(SERVER, encoding="utf-8")
    return folder


def started(net: Federation) -> None:
    """Start the nodes of three parties."""
    nodes = [
        net.add(f"node-{client}", partition_id=client, num_partitions=CLIENTS)
        for client in range(CLIENTS)
    ]
    net.register(*nodes)
    for node in nodes:
        node.start()


def begun(net: Federation, name: str, **values: Any) -> Path:
    """Begin a run; return its folder."""
    folder = net.folder / "runs" / name
    config = {"run-dir": str(folder), **{k.replace("_", "-"): v for k, v in values.items()}}
    file = net.folder / f"{name}.toml"
    file.write_text(tomli_w.dumps(config), encoding="utf-8")
    net.asked(["run", str(net.app), CONNECTION, "-c", str(file), "--format", "json"])
    return folder


def ended(folder: Path) -> list[dict[str, Any]]:
    """Wait for the end of a run; return its rows."""
    wait_until(lambda: read_live(folder) is not None, f"{folder} begins", SECONDS)
    wait_until(lambda: is_over(folder), f"{folder} ends", SECONDS)
    live = read_live(folder) or {}
    assert live["state"] == "finished", live
    return read_rounds(folder)


def rehearsed(app: Path, out: Path, strategy: str, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the same run on one machine."""
    values = {**values_of(read_app(app)), "strategy": read_strategy(strategy), "rounds": rounds}
    values["run"] = {**values["run"], "grid": "in-process"}
    fedkt.simulate(config_.parse(values), out=out)
    return read_rounds(out)


@pytest.fixture
def hospitals(alone: None, tmp_path: Path) -> Iterator[Federation]:
    """Yield a federation of three real parties."""
    with federation(tmp_path / "federation", new_app(tmp_path / "hospitals")) as made:
        started(made)
        yield made


@pytest.mark.network
def test_three_kinds_of_models_give_the_bits_of_their_rehearsal(
    hospitals: Federation, tmp_path: Path
) -> None:
    strategy = "knfu(local_epochs=1, distil_epochs=1)"
    folder = begun(hospitals, "knfu", strategy=strategy, num_server_rounds=2)
    expected = rehearsed(hospitals.app, tmp_path / "rehearsal", strategy, 2)
    rows = ended(folder)
    assert figures(rows) == figures(expected)
    facts = json.loads((folder / "federation.json").read_text(encoding="utf-8"))
    assert facts["models"] == ["cnn", "mlp", "forest"]
    assert fedkt.load(folder).figures()["global_accuracy"] > 0.1
    node = hospitals.nodes["node-1"]
    trained = model(node.state)
    data = read_app(hospitals.app).party.data(read_app(hospitals.app).context(1))
    assert data.common_test is not None
    right = trained.predict(data.common_test.x, "global").argmax(-1) == data.common_test.y
    assert right.double().mean().item() == rows[-1]["global_accuracy"]["per_client"][1]
    sent = [json.loads(line) for line in (node.state / "sent.jsonl").open(encoding="utf-8")]
    assert sum(line.get("bytes", 0) for line in sent) > rows[0]["bytes_up"]
    assert {line["share"] for line in sent if "share" in line} == {"public"}


@pytest.mark.network_long
@pytest.mark.parametrize("strategy", ["knfu", "fedmd"])
def test_three_rounds_of_each_method(hospitals: Federation, tmp_path: Path, strategy: str) -> None:
    folder = begun(hospitals, strategy, strategy=strategy, num_server_rounds=3)
    expected = rehearsed(hospitals.app, tmp_path / "rehearsal", strategy, 3)
    assert figures(ended(folder)) == figures(expected)


@pytest.mark.network_long
def test_a_server_app_that_was_killed_goes_on_by_one_command(
    hospitals: Federation, tmp_path: Path
) -> None:
    strategy = "knfu(local_epochs=1, distil_epochs=1)"
    folder = begun(hospitals, "killed", strategy=strategy, num_server_rounds=3)
    expected = rehearsed(hospitals.app, tmp_path / "rehearsal", strategy, 3)

    def trains() -> bool:
        live = read_live(folder) or {}
        return (live.get("round"), live.get("state")) == (2, "train")

    wait_until(trains, "train of round 2", SECONDS)
    kill_server_app(hospitals)
    wait_until(lambda: is_over(folder), "the end of the server app")
    assert len(read_rounds(folder)) == 1
    assert "the server app has died, round 2, train" in hospitals.fedkt(
        "watch", str(folder), "--once"
    )
    hospitals.fedkt("resume", str(folder), "--app", str(hospitals.app), "--connection", CONNECTION)
    assert figures(ended(folder)) == figures(expected)


@pytest.mark.network_long
@pytest.mark.parametrize("strategy", ["fedavg", "fedka"])
def test_weights_and_models_at_the_server(alone: None, tmp_path: Path, strategy: str) -> None:
    app = new_app(tmp_path / "hospitals", one_model=True)
    with federation(tmp_path / "federation", app) as net:
        started(net)
        folder = begun(net, strategy, strategy=strategy, num_server_rounds=3)
        expected = rehearsed(net.app, tmp_path / "rehearsal", strategy, 3)
        assert figures(ended(folder)) == figures(expected)


@pytest.mark.network
def test_flower_s_simulation_runs_the_same_folder(alone: None, tmp_path: Path) -> None:
    app, home = new_app(tmp_path / "hospitals"), tmp_path / "flwr"
    strategy = "knfu(local_epochs=1, distil_epochs=1)"
    config = {"run-dir": str(tmp_path / "run")}
    config |= {"strategy": strategy, "num-server-rounds": 1}
    (tmp_path / "values.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    try:
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("flwr")), "run", str(app), "--stream"),
                *("-c", str(tmp_path / "values.toml"), "--federation-config"),
                f"num-supernodes={CLIENTS} client-resources-num-cpus=1",
            ],
            env=flower_home(home),
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        rows = ended(tmp_path / "run")
    finally:
        end_all(f"FLWR_HOME={home}")
    assert figures(rows) == figures(rehearsed(app, tmp_path / "rehearsal", strategy, 1))


def kill_server_app(net: Federation) -> None:
    """Kill the process of the ServerApp, and nothing else."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            home = f"FLWR_HOME={net.folder}/superlink".encode()
            if b"flwr-serverapp" in command and home in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)


def flower_home(home: Path) -> dict[str, str]:
    """Return an environment in which Flower keeps to itself, with a SuperLink of its own."""
    home.mkdir()
    ports = {"FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "23391", "FLWR_LOCAL_CONTROL_API_PORT": "23392"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **QUIET, **ports, "PATH": path, "FLWR_HOME": str(home)}
