"""The app that ``fedkt new`` writes, with its parties and its rehearsal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

import fedkt
from fedkt.deploy.live import read_live
from fedkt.deploy.new_app import write_app
from fedkt.deploy.rehearsal import read_app, values_of
from fedkt.deploy.watching import is_over
from fedkt.simulations.experiment import config as config_
from fedkt.simulations.experiment.references import read_strategy
from fedkt.simulations.results.rounds import read_rounds

from .harness import CONNECTION, Federation
from .processes import wait_until

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
