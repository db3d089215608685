from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import fedkt
from fedkt.clients.state import FileStore
from fedkt.deploy import model, strategy_of
from fedkt.deploy.party import ask
from fedkt.deploy.rehearsal import read_app, values_of
from fedkt.errors import ConfigError, RunFailedError
from fedkt.simulations.experiment import config as config_
from fedkt.simulations.report.pages import write_run_report
from fedkt.simulations.results.rounds import read_rounds

from .federating import DeathError, Dying, figures, grid_of, new_app, served


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return new_app(tmp_path / "hospitals")


def rehearsed(app: Path, **values: object) -> list[dict[str, object]]:
    experiment = config_.parse({**values_of(read_app(app)), **values})
    out = app.parent / "rehearsal"
    fedkt.simulate(
        experiment.with_values(run={**experiment.run.model_dump(), "grid": "in-process"}), out=out
    )
    return read_rounds(out)


def test_a_served_run_has_the_figures_of_its_rehearsal(app: Path) -> None:
    rows = served(app, run_dir="run", num_server_rounds=2)
    simulated = rehearsed(app, rounds=2)
    assert figures(rows) == figures(simulated)
    assert rows[0]["personalised_accuracy"]["mean"] > 0.3
    assert rows[0]["leakage"] is None
    assert simulated[0]["leakage"] is not None


def test_other_methods_and_models_of_one_s_own_do_too(app: Path) -> None:
    """Weights with a server's model, from the shape that the greeting tells; a module; options."""
    data = next(app.glob("*/data.py"))
    text = data.read_text(encoding="utf-8")
    begin = text.index("def build_model(")
    data.write_text(text[:begin] + OWN_MODEL, encoding="utf-8")
    party = next(app.glob("*/client_app.py"))
    lines = party.read_text(encoding="utf-8").replace('{"predict"}', '{"weights"}')
    party.write_text(lines, encoding="utf-8")
    server = next(app.glob("*/server_app.py"))
    server.write_text(SERVER.format(app.name), encoding="utf-8")
    given = {"strategy": "fedavg(local_epochs=1)", "num_server_rounds": 2}
    rows = served(app, run_dir="run", training__learning_rate=0.01, **given)
    simulated = rehearsed(
        app,
        rounds=2,
        strategy={"name": "fedavg", "local_epochs": 1},
        training={"learning_rate": 0.01},
    )
    assert figures(rows) == figures(simulated)
    config = tomllib.loads(Path("run/config.toml").read_text(encoding="utf-8"))
    assert config["training"]["learning_rate"] == 0.01
    assert (config["strategy"]["name"], config["strategy"]["local_epochs"]) == ("fedavg", 1)


OWN_MODEL = """
from torch import nn


def build_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
"""
SERVER = """
from {0}.data import build_model
from fedkt.deploy import server

app = server(server_model=build_model)
"""


def test_a_rehearsal_says_what_the_parties_would_refuse(app: Path) -> None:
    with pytest.raises(ConfigError, match=r"allows shares predict, not weights"):
        served(app, run_dir="run", strategy="fedavg")


def test_what_a_party_s_functions_raise_stays_at_the_party(
    app: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = next(app.glob("*/data.py"))
    text = data.read_text(encoding="utf-8")
    raising = "    raise ValueError(f'patient Ada Lovelace, party {context}')\n"
    text = text.replace('for every party."""\n', f'for every party."""\n{raising}', 1)
    data.write_text(text, encoding="utf-8")
    with pytest.raises(RunFailedError, match="load_data raised ValueError") as refused:
        served(app, run_dir="run")
    assert "Ada" not in str(refused.value)
    assert "Ada Lovelace" in caplog.text
    live = json.loads(Path("run/live.json").read_text(encoding="utf-8"))
    assert live["state"] == "failed"
    assert "load_data raised ValueError" in live["reason"]


def test_a_run_goes_on_after_its_server_has_died(app: Path) -> None:
    undisturbed = served(app, run_dir="undisturbed", num_server_rounds=3)
    grid = Dying(grid_of(read_app(app)), "train", 2)
    with pytest.raises(DeathError):
        served(app, grid, run_dir="run", num_server_rounds=3)
    assert len(read_rounds(Path("run"))) == 1
    with pytest.raises(ConfigError, match="run holds a run: go on with it"):
        served(app, run_dir="run", num_server_rounds=3)
    with pytest.raises(ConfigError, match="run was begun with another seed: 0, not 1"):
        served(app, run_dir="run", num_server_rounds=3, resume=True, seed=1)
    rows = served(app, run_dir="run", num_server_rounds=3, resume=True)
    assert figures(rows) == figures(undisturbed)
    longer = served(app, run_dir="run", num_server_rounds=4, resume=True)
    assert figures(longer[:3]) == figures(undisturbed)


def test_a_second_run_of_the_same_nodes_starts_afresh(app: Path) -> None:
    first, second = (served(app, run_dir=name, num_server_rounds=1) for name in ("a", "b"))
    assert figures(first) == figures(second)


def test_a_node_s_model_answers_and_is_saved(app: Path) -> None:
    served(app, run_dir="run", num_server_rounds=1)
    trained = model("state/client-1")
    data = read_app(app).party.data(read_app(app).context(1))
    row = read_rounds(Path("run"))[0]
    assert data.common_test is not None
    answers = trained.predict(data.common_test.x, readout="global").argmax(-1)
    accuracy = (answers == data.common_test.y).double().mean().item()
    assert accuracy == row["global_accuracy"]["per_client"][1]
    assert trained.save("model.safetensors").is_file()
    assert repr(trained) == "<fedkt client 1: mlp after round 1>"
    with pytest.raises(ConfigError, match="not the folder of a node's state"):
        model("nowhere")
    with pytest.raises(ConfigError, match=r"Unknown run 'other'\. Known: "):
        model("state/client-1", run="other")


def test_the_model_of_an_older_run_answers_as_its_own_strategy_has_it(app: Path) -> None:
    """FML counts the answers of a net beside the model as global; KnFu has none."""
    changed(app, "client_app.py", 'shares={"predict"}', "shares=None")
    changed(app, "data.py", '("cnn", "mlp", "forest")', '("mlp",)')
    changed(app, "server_app.py", "server()", "server(server_model='mlp')")
    served(app, run_dir="first", num_server_rounds=1, strategy="fml(local_epochs=1)")
    x = read_app(app).party.data(read_app(app).context(1)).train.x[:20]
    before = model("state/client-1")
    expected = [before.predict(x, readout) for readout in ("personal", "global")]
    served(app, run_dir="second", num_server_rounds=1)
    older, _ = FileStore(Path("state/client-1")).runs(1)
    after = model("state/client-1", run=older)
    for answers, readout in zip(expected, ("personal", "global"), strict=True):
        assert torch.equal(after.predict(x, readout), answers)


def test_a_run_that_the_party_refused_hides_no_model(app: Path) -> None:
    served(app, run_dir="first", num_server_rounds=1)
    with pytest.raises(ConfigError, match="allows shares predict, not weights"):
        served(app, run_dir="second", strategy="fml")
    note = json.loads(Path("state/client-1/node.json").read_text(encoding="utf-8"))
    assert note["run-config"]["strategy"] == "fml"
    trained = model("state/client-1")
    assert trained._world == "model"


def test_the_report_and_the_results_of_a_deployed_run(app: Path) -> None:
    served(app, run_dir="run", num_server_rounds=2)
    result = fedkt.load("run")
    assert result.figures()["global_accuracy"] > 0.3
    assert any("run over a network" in note for note in result.record.summary["notes"])
    page = write_run_report("run").read_text(encoding="utf-8")
    assert "Personalised accuracy (%)" in page
    for absent in ("Negative transfer", "Mean loss of those clients", "Transfer:", "Server acc"):
        assert absent not in page
    assert "Worst decile (%)" in page


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"num_server_rounds": 0}, "num-server-rounds is 0; it must be a whole number from 1"),
        ({"strategy": "knfoo"}, "knfoo"),
        ({"training__learning_rate": -1.0}, "learning_rate"),
        ({"server__quorum": "most"}, "quorum"),
        ({"server__qorum": 2}, "Did you mean 'quorum'"),
    ],
)
def test_a_wrong_configuration_is_one_line(app: Path, values: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        served(app, run_dir="run", **values)
    assert not Path("run").exists()


def test_a_node_without_an_id_says_how_to_give_it(app: Path) -> None:
    read = read_app(app)
    context = read.context(0)
    context.node_config.clear()
    with pytest.raises(ConfigError, match=r"partition-id is None; .*--node-config"):
        read.party(context)


def test_a_node_imports_neither_ray_nor_figures(app: Path) -> None:
    code = (
        "import sys, json; from fedkt.deploy import client; heavy = ('ray', 'matplotlib', 'pandas',"
        " 'sklearn', 'scipy', 'pydantic', 'datasets', 'fedkt.strategies', 'fedkt.simulations');"
        "print(json.dumps([m for m in heavy if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_a_strategy_of_text() -> None:
    assert strategy_of("knfu(beta=2)").beta == 2  # type: ignore[attr-defined]  # KnFu's
    with pytest.raises(ConfigError, match="beta"):
        strategy_of("knfu(beta=-1)")


def test_functions_get_the_context_if_they_ask_for_it(app: Path) -> None:
    context = read_app(app).context(2)
    functions = (lambda: 0, lambda width=64: width, lambda context=None: context, lambda node: node)
    assert [ask(function, context) for function in functions] == [0, 64, context, context]


# --- what must not pass in silence -----------------------------------------------------------


def changed(app: Path, file: str, before: str, after: str) -> None:
    path = next(app.glob(f"*/{file}"))
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def test_what_a_model_raises_on_data_stays_at_the_party(
    app: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin = "def build_model("
    changed(app, "data.py", begin, f"{RAISES}\n\n{begin}")
    changed(app, "data.py", "return MODELS", "return Raises() or MODELS")
    with pytest.raises(RunFailedError) as refused:
        served(app, run_dir="run", num_server_rounds=1)
    assert "row [0.0" not in str(refused.value)
    assert "ValueError at the client; the log of the node says more" in str(refused.value)
    assert "patient row" in caplog.text


RAISES = """
from torch import nn


class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        if self.training and x.abs().sum() > 0:
            raise ValueError(f"patient row {x[0].flatten().tolist()}")
        return self.last(x.flatten(1))
"""


def test_labels_are_not_quoted(app: Path) -> None:
    changed(app, "data.py", "        y[rows],", "        ['Ada, HIV'] * len(rows),")
    with pytest.raises(RunFailedError, match="none of the classes") as refused:
        served(app, run_dir="run", num_server_rounds=1)
    assert "Ada" not in str(refused.value)


def test_tables_over_the_classes_do_not_leave_by_default(app: Path) -> None:
    served(app, run_dir="run", num_server_rounds=2, server__metrics="macro-f1")
    with pytest.raises(RunFailedError, match="no tables over the classes, as confusion-matrix is"):
        served(app, run_dir="other", num_server_rounds=1, server__metrics="confusion-matrix")


def test_a_list_of_clients_without_any_checks_nobody_and_is_refused(app: Path) -> None:
    with pytest.raises(ConfigError, match=r"clients\.toml lists no client"):
        served(app, run_dir="run", clients_file=str(app / "deploy" / "clients.toml"))


@pytest.mark.parametrize("key", ["client-file", "num-server-round", "trainning.learning-rate"])
def test_almost_a_key_is_refused(app: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"Unknown key '{key}'"):
        served(app, **{key: 1})


def test_a_party_executes_no_file_of_the_server_s(app: Path, tmp_path: Path) -> None:
    file = tmp_path / "evil.py"
    file.write_text("raise SystemExit('executed')", encoding="utf-8")
    app_ = read_app(app)
    context = app_.context(0)
    context.run_config["training.optimiser"] = f"{file}:Evil"
    with pytest.raises((ConfigError, SystemExit)) as refused:
        app_.party(context)
    assert isinstance(refused.value, ConfigError)


def test_a_lost_disk_is_told_after_a_resume_too(app: Path) -> None:
    grid = Dying(grid_of(read_app(app)), "train", 3)
    with pytest.raises(DeathError):
        served(app, grid, run_dir="run", num_server_rounds=3)
    shutil.rmtree("state/client-1")
    rows = served(app, run_dir="run", num_server_rounds=3, resume=True)
    assert 1 not in rows[2]["participants"]
    assert any("the state of client 1 in run" in note for note in rows[2]["notes"])


def test_other_code_under_the_same_name_is_not_resumed(app: Path) -> None:
    mine = app.parent / "mine.py"
    text = "from fedkt.strategies import FedMD\n\n\nclass Mine(FedMD):\n    name = 'mine'\n"
    mine.write_text(text, encoding="utf-8")
    given = {"strategy": f"{mine}:Mine(local_epochs=1)", "num_server_rounds": 2, "run_dir": "run"}
    with pytest.raises(DeathError):
        served(app, Dying(grid_of(read_app(app)), "train", 2), **given)
    more = "\n    def fuse(self, uploads):\n        return super().fuse(uploads)\n"
    mine.write_text(text + more, encoding="utf-8")
    with pytest.raises(ConfigError):
        served(app, resume=True, **given)


def test_a_strategy_given_in_code_is_rehearsed(app: Path) -> None:
    changed(app, "server_app.py", "server()", "server(strategy='fedmd(local_epochs=7)')")
    assert values_of(read_app(app))["strategy"] == {"name": "fedmd", "local_epochs": 7}


def test_bytes_are_a_client_s_whatever_its_id(app: Path) -> None:
    rows = served(app, run_dir="run", num_server_rounds=1)
    changed(app, "data.py", 'party = context.node_config["partition-id"]', "party = 0")
    grid = grid_of(read_app(app))
    for number, client in ((1, 4), (2, 7)):
        grid._contexts[number].node_config |= {"partition-id": client, "num-partitions": 8}
    sparse = served(app, grid, run_dir="sparse", num_server_rounds=1)
    assert sparse[0]["bytes_up"] == rows[0]["bytes_up"]
    assert len(sparse[0]["global_accuracy"]["per_client"]) == 8


def test_a_reference_of_simulations_is_refused(app: Path) -> None:
    with pytest.raises(ConfigError, match="pooled is for simulations: no client has everybody's"):
        served(app, run_dir="run", strategy="pooled")
