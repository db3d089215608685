from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedkt.simulations.cli import doctor
from fedkt.simulations.runs.progress import Lines, Live, progress_for

USER_STRATEGY = """
from fedkt.strategies.answers.knfu import KnFu

class Mine(KnFu):
    '''A method of the user's.'''
    name = "mine"

    def __init__(self, beta: float = 1.0, local_epochs: int = 1):
        super().__init__(beta=beta, local_epochs=local_epochs, distil_epochs=1)
"""
ACCURACY = {"mean", "std", "per_client"}
NUMBER, WHOLE = (int, float), int


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, write_toml: Any) -> Any:
    """Return a finished ``simulate``, a process of its own, and its folder; not to be changed."""
    folder = tmp_path_factory.mktemp("simulate")
    toml = write_toml(folder, run__codec="float16", run__oracle=True)
    done = subprocess.run(
        [sys.executable, "-m", "fedkt.simulations.cli", "simulate", toml, "--out", "run"],
        cwd=folder, capture_output=True, encoding="utf-8", env={**os.environ, "COLUMNS": "60"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, folder / "run"


# --- starting -----------------------------------------------------------------------------


def test_help_answers_at_once() -> None:
    script = Path(sysconfig.get_path("scripts")) / "fedkt"
    if not script.is_file():
        pytest.skip("fedkt is not installed as a command")
    times = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run([script, "--help"], capture_output=True, encoding="utf-8", check=True)
        times.append(time.monotonic() - began)
        assert "simulate" in done.stdout
        assert "compare" in done.stdout
    assert min(times) < 1


@pytest.mark.parametrize("arguments", [["--help"], ["list", "codecs"], ["list", "objectives"]])
def test_help_and_lists_import_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from fedkt.simulations.cli.main import main
sys.argv = ["fedkt", *{arguments}]
try:
    main()
except SystemExit as stop:
    heavy = "torch numpy scipy ray flwr matplotlib sklearn pandas pydantic".split()
    print("left", stop.code, sorted(set(heavy) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.splitlines()[-1] == "left 0 []"


@pytest.mark.parametrize("command", ["simulate", "compare", "list", "show", "report", "doctor"])
def test_every_command_explains_itself(fedkt: Any, command: str) -> None:
    answer = fedkt(command, "--help")
    assert answer.code == 0
    assert f"fedkt {command}" in answer.out


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("objectives", "cross-entropy"),
        ("fusions", "mean-by-examples"),
        ("codecs", "float16"),
        ("datasets", "digits"),
        ("models", "cnn"),
        ("partitions", "dirichlet"),
        ("attacks", "wrong"),
    ],
)
def test_list_names_and_explains_every_part(fedkt: Any, part: str, name: str) -> None:
    answer = fedkt("list", part)
    lines = [line.split(maxsplit=1) for line in answer.out.splitlines()]
    assert (answer.code, answer.err) == (0, "")
    assert name in [line[0] for line in lines]
    assert all(len(line) == 2 for line in lines), "a part without a description"
    assert [line[0] for line in lines] == sorted(line[0] for line in lines)


# --- the run directory --------------------------------------------------------------------


def test_simulate_writes_exactly_the_run_directory(run: Any) -> None:
    _, folder = run
    own = ["config.toml", "federation.json", "rounds.jsonl", "summary.json"]
    own += ["checkpoints/round-00001.safetensors", "checkpoints/round-00002.safetensors"]
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    figures = {f for f in files if re.fullmatch(r"figures/[^/]+\.png", f)}
    assert files - figures == {*own, "report.html", *(f"baseline/{f}" for f in own)}
    assert figures
    for figure in figures:
        assert (folder / figure).read_bytes().startswith(b"\x89PNG\r\n")


def test_without_a_terminal_progress_is_plain_lines(run: Any) -> None:
    done, _ = run
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    rounds = [line for line in lines if re.match(r"(local|knfu): round \d/2, 3 clients, ", line)]
    assert len(rounds) == 4
    assert re.match(r"knfu, round 2: personalised accuracy \d+\.\d %, global", lines[-2])
    assert lines[-1] == "Report: run/report.html"


def test_rounds_have_the_keys_and_types_of_the_contract(run: Any) -> None:
    _, folder = run
    rows = [
        json.loads(line)
        for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["round"] for row in rows] == [1, 2]
    for row in rows:
        for key in ("personalised_accuracy", "global_accuracy"):
            assert set(row[key]) == ACCURACY
            assert len(row[key]["per_client"]) == 3
            assert all(0 <= a <= 1 for a in row[key]["per_client"])
            assert row[key]["mean"] == pytest.approx(sum(row[key]["per_client"]) / 3)
        assert row["server_accuracy"] is None
        assert 0 <= row["negative_transfer"] <= 1
        assert row["seconds"] > 0
        assert row["failures"] == []
        assert isinstance(row["strategy"], dict)
        # 40 public samples, 10 classes, two bytes a number; both ways for every client.
        assert row["bytes_up"] == row["bytes_down"] == 2 * 40 * 10


def test_summary_has_the_headline_figures(run: Any) -> None:
    _, folder = run
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rows = [
        json.loads(line)
        for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert summary["last"]["round"] == 2
    assert summary["last"]["personalised_accuracy"] == rows[-1]["personalised_accuracy"]["mean"]
    chosen = rows[summary["validation_selected"]["round"] - 1]
    assert chosen["validation_accuracy"]["mean"] == max(
        row["validation_accuracy"]["mean"] for row in rows
    )
    assert summary["bytes_up"] == sum(row["bytes_up"] for row in rows)
    assert summary["oracle"]["round"] in (1, 2)
    assert (summary["strategy"], summary["seed"], summary["baseline"]) == ("knfu", 0, "baseline")


def test_the_report_opens_offline(run: Any) -> None:
    _, folder = run
    page = (folder / "report.html").read_text(encoding="utf-8")
    loaded = re.findall(r"""(?:src|srcset|data)=["']?([^"'\s>]+)""", page)
    assert loaded
    assert all(source.startswith("data:") for source in loaded)
    assert not re.search(r"<link\b|@import|url\((?!['\"]?data:)", page)


def test_the_written_config_runs_again_with_equal_figures(
    run: Any, here: Path, fedkt: Any, figures: Any, no_report: None
) -> None:
    _, folder = run
    answer = fedkt("simulate", folder / "config.toml", "--out", "again")
    assert answer.code == 0, answer.err
    assert figures(here / "again") == figures(folder)
    first, second = (
        tomllib.loads((f / "config.toml").read_text(encoding="utf-8"))
        for f in (folder, here / "again")
    )
    assert first == second
    assert first["run"]["workers"] >= 1, "the plan is resolved"
    assert first["strategy"]["beta"] == 10.0, "defaults are written down"


def test_every_written_setting_is_resolved(run: Any) -> None:
    config = tomllib.loads((run[1] / "config.toml").read_text(encoding="utf-8"))
    assert config["data"]["partition"] == "dirichlet:0.5"
    assert config["training"]["learning_rate"] == 0.02
    assert config["run"]["codec"] == "float16"
    assert config["models"] == ["linear", "mlp"]


def test_report_writes_anew(run: Any, fedkt: Any) -> None:
    _, folder = run
    before = (folder / "report.html").read_bytes()
    rounds = (folder / "rounds.jsonl").read_bytes()
    (folder / "report.html").unlink()
    for figure in (folder / "figures").iterdir():
        figure.unlink()
    answer = fedkt("report", folder)
    assert answer.code == 0, answer.err
    assert answer.out.split() == ["Report:", str(folder / "report.html")]
    assert (folder / "report.html").read_bytes() == before
    assert list((folder / "figures").glob("*.png"))
    assert (folder / "rounds.jsonl").read_bytes() == rounds


def test_local_training_is_its_own_baseline(
    here: Path, fedkt: Any, write_toml: Any, no_report: None
) -> None:
    answer = fedkt("simulate", write_toml(here), "--strategy", "local", "--out", "run")
    assert answer.code == 0, answer.err
    assert not (here / "run" / "baseline").exists()
    assert (
        json.loads((here / "run" / "summary.json").read_text(encoding="utf-8"))["baseline"] is None
    )


# --- options -------------------------------------------------------------------------------


def test_options_and_set_overrule_the_file(
    here: Path, fedkt: Any, write_toml: Any, no_report: None
) -> None:
    answer = fedkt(
        "simulate", write_toml(here), "--strategy", "knfu(beta=0.5, local_epochs=1)",
        "--clients", 4, "--partition", "iid", "--models", "linear", "--rounds", 1,
        "--seed", 7, "--set", "training.batch_size=8", "--set", "run.participation=0.5",
        "--set", "strategy.divergence=js", "--set", 'data.public_samples = 20', "--out", "run",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    written = tomllib.loads((here / "run" / "config.toml").read_text(encoding="utf-8"))
    assert written["strategy"]["beta"] == 0.5
    assert written["strategy"]["divergence"] == "js"
    assert written["strategy"]["local_epochs"] == 1
    assert (written["seed"], written["rounds"], written["models"]) == (7, 1, ["linear"])
    assert written["data"]["clients"] == 4
    assert written["data"]["public_samples"] == 20
    assert written["data"]["partition"] == "iid"
    assert written["training"]["batch_size"] == 8
    row = json.loads((here / "run" / "rounds.jsonl").read_text(encoding="utf-8"))
    assert len(row["participants"]) == 2


def test_a_strategy_from_a_file(here: Path, fedkt: Any, write_toml: Any, no_report: None) -> None:
    (here / "mine.py").write_text(USER_STRATEGY, encoding="utf-8")
    toml = write_toml(here, strategy={"name": "mine.py:Mine", "beta": 3.0})
    answer = fedkt("simulate", toml, "--out", "run")
    assert answer.code == 0, answer.err
    assert "mine, round 2: personalised accuracy" in answer.out
    summary = json.loads((here / "run" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["label"], summary["strategy"]) == ("mine", f"{here / 'mine.py'}:Mine")


def test_without_out_a_new_folder_below_runs(
    here: Path, fedkt: Any, write_toml: Any, no_report: None
) -> None:
    answer = fedkt("simulate", write_toml(here, rounds=1), "--strategy", "fedavg", "--models",
                   "linear")  # fmt: skip
    assert answer.code == 0, answer.err
    (folder,) = (here / "runs").iterdir()
    assert re.fullmatch(r"fedavg-\d{8}-\d{6}", folder.name)
    assert (folder / "summary.json").is_file()


# --- progress ------------------------------------------------------------------------------


def follow(progress: Any) -> None:
    progress.run_started("knfu[x]", 3, 5, 2)
    for done in (1, 5):
        progress.clients_done(done, 5)
    progress.round_finished(2, 0.5, None)
    progress.round_finished(3, 0.625, 0.25)
    progress.run_finished()
    progress.close()


def test_lines_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), width=40)
    progress = progress_for(console, 3)
    follow(progress)
    assert isinstance(progress, Lines)
    first, second = console.file.getvalue().splitlines()
    assert first.startswith("knfu[x]: round 2/3, 5 clients, personalised 50.0 %, global –, about ")
    assert second.endswith("personalised 62.5 %, global 25.0 %, about 0 s left")


def test_bars_in_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    progress = progress_for(console, 3)
    follow(progress)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert isinstance(progress, Live)
    assert "knfu[x]" in shown
    assert "3/3" in shown, "rounds of all runs, those done before included"
    assert re.search(r"\d/5 clients", shown), "those of the phase"
    assert "62.5 %" in shown
    assert not Console(file=io.StringIO()).is_terminal


# --- doctor --------------------------------------------------------------------------------


def free_disk(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    """Let the disk have ``free`` gigabytes left, whatever this machine's has."""
    usage = shutil.disk_usage(".")._replace(free=int(free * 1e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


@pytest.mark.ray
def test_doctor_finds_a_machine_well(fedkt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free_disk(monkeypatch, 20)
    answer = fedkt("doctor")
    assert answer.code == 0, answer.out
    lines = answer.out.splitlines()
    assert all(line.startswith("ok    ") for line in lines)
    assert any(re.match(r"ok    Ray starts: \d+\.\d+", line) for line in lines)
    assert any("a federation runs: two clients, one round" in line for line in lines)


def test_doctor_names_what_is_wrong(fedkt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free_disk(monkeypatch, 1.5)
    monkeypatch.setattr(doctor, "_ray", lambda: "not tried")
    monkeypatch.setattr(doctor, "_federation", lambda: "not tried")
    answer = fedkt("doctor")
    assert answer.code == 1
    assert "FAIL  disk: RuntimeError: 1.5 GB free here; 2 GB are needed" in answer.out.splitlines()
    assert "ok    Ray starts: not tried" in answer.out.splitlines(), "the other checks go on"
