"""The app that ``fedkt new`` writes, over the network."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedkt
from fedkt.deploy import model
from fedkt.deploy.live import read_live
from fedkt.deploy.rehearsal import read_app
from fedkt.deploy.watching import is_over
from fedkt.simulations.results.rounds import read_rounds

from ..deploy.federating import figures
from .harness import CONNECTION, Federation, federation
from .hospitals import SECONDS, begun, ended, new_app, rehearsed, started
from .processes import wait_until


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
    said = hospitals.fedkt("watch", str(folder), "--once", status=1)
    assert f"the server app has died, round 2, train; go on with: fedkt resume {folder}" in said
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


def kill_server_app(net: Federation) -> None:
    """Kill the process of the ServerApp, and nothing else."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            home = f"FLWR_HOME={net.folder}/superlink".encode()
            if b"flwr-serverapp" in command and home in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
