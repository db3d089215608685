"""Whole runs: stopping and going on, failing and going on, and honest evaluation."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.errors import RunFailedError
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.local_baseline import local_twin
from fedkt.simulations.runs.plan import Plan, prepare, workers_of
from fedkt.simulations.runs.run import execute

# Trains like a linear model; fails in training while a file called "broken" lies beside it, but
# not on the few samples that it is tried on before a run.
FRAGILE = """
from pathlib import Path
from torch import nn

class Fragile(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layer = nn.Linear(64, classes)

    def forward(self, x):
        if self.training and len(x) > 4 and (Path(__file__).parent / "broken").exists():
            raise RuntimeError("out of ink")
        return self.layer(x.flatten(1))
"""
# Breaks the models in its second round if a file called "armed" lies beside it.
TRIPPING = """
from pathlib import Path
from fedkt.strategies.answers.knfu import KnFu

class Tripping(KnFu):
    def __init__(self, local_epochs: int = 1):
        super().__init__(local_epochs=local_epochs, distil_epochs=1)

    def fuse(self, uploads):
        self.memory["fused"] = self.memory.get("fused", 0) + 1
        if self.memory["fused"] == 2 and (Path(__file__).parent / "armed").exists():
            (Path(__file__).parent / "broken").touch()
        return super().fuse(uploads)
"""


# --- stopping --------------------------------------------------------------------------------

MIXED = {"models": ["cnn", "mlp", "forest"], "rounds": 4, "run__participation": 0.7}


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ({"name": "knfu", "local_epochs": 1, "distil_epochs": 1, "neighbours": "all",
          "epd_from": "pre_distill"}, MIXED),
        ({"name": "fedavg", "local_epochs": 1}, {**MIXED, "models": ["cnn"]}),
        ({"name": "fedprox", "local_epochs": 1}, {**MIXED, "models": ["mlp"]}),
        ({"name": "fedmd", "local_epochs": 1}, {**MIXED, "models": ["mlp", "linear"]}),
    ],
    ids=lambda value: value.get("name", "") if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_stopped_run_goes_on_to_the_same_end(
    tmp_path: Path,
    tiny: Any,
    figures: Any,
    final_state: Any,
    strategy: Any,
    changes: Any,
    stop_after: Any,
) -> None:
    plan = prepare(tiny(strategy=strategy, **changes))
    execute(plan, tmp_path / "whole", label="x")
    for after in (1, 3):
        folder, again = tmp_path / f"stop{after}", stop_after(-1)
        with pytest.raises(KeyboardInterrupt):
            execute(plan, folder, label="x", progress=stop_after(after))
        assert not (folder / "summary.json").exists()
        execute(plan, folder, label="x", progress=again)
        assert again.first_rounds == [after + 1]
        assert figures(folder) == figures(tmp_path / "whole")
        assert final_state(folder) == final_state(tmp_path / "whole")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> tuple[Plan, Path]:
    """Return a plan and a folder with its finished run."""
    plan, folder = prepare(tiny(rounds=3)), tmp_path_factory.mktemp("whole") / "run"
    execute(plan, folder, label="x")
    return plan, folder


def tear(path: Path, keep: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize("damage", ["line", "checkpoint", "both", "no checkpoint", "summary only"])
def test_torn_files_are_survived(
    tmp_path: Path, whole: Any, figures: Any, final_state: Any, damage: str
) -> None:
    plan, finished = whole
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "summary.json").unlink()
    newest = folder / "checkpoints" / "round-00003.safetensors"
    if damage in ("line", "both"):
        rounds = (folder / "rounds.jsonl").read_bytes()
        (folder / "rounds.jsonl").write_bytes(rounds[:-50])
    if damage in ("checkpoint", "both"):
        tear(newest)
    if damage == "no checkpoint":
        newest.unlink()
        (folder / "checkpoints" / ".round-00003.safetensors.77.part").write_bytes(b"half")
    execute(plan, folder, label="x")
    assert figures(folder) == figures(finished)
    assert final_state(folder) == final_state(finished)
    assert (folder / "summary.json").is_file()


def test_without_any_readable_checkpoint_the_run_begins_anew(
    tmp_path: Path, whole: Any, figures: Any
) -> None:
    plan, finished = whole
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    for saved in (tmp_path / "run" / "checkpoints").iterdir():
        tear(saved)
    execute(plan, tmp_path / "run", label="x")
    assert figures(tmp_path / "run") == figures(finished)


def test_more_rounds_go_on_where_a_finished_run_ended(
    tmp_path: Path, whole: Any, tiny: Any, figures: Any
) -> None:
    _, finished = whole
    shutil.copytree(finished, tmp_path / "run")
    execute(prepare(tiny(rounds=5)), tmp_path / "run", label="x")
    execute(prepare(tiny(rounds=5)), tmp_path / "straight", label="x")
    assert figures(tmp_path / "run") == figures(tmp_path / "straight")
    assert (
        json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["last"]["round"]
        == 5
    )


@pytest.fixture
def stopped_in_the_baseline(
    here: Path,
    fedkt: Any,
    write_toml: Any,
    no_report: None,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: Any,
) -> Path:
    """Stop a simulation in the first of its two halves; return its TOML."""
    toml: Path = write_toml(here)
    with monkeypatch.context() as patch:
        patch.setattr("fedkt.simulations.cli.commands.progress_for", lambda *_: stop_after(1))
        assert fedkt("simulate", toml, "--out", "run").code == 130
    assert len(read_rounds(here / "run" / "baseline")) == 1
    return toml


def test_stopped_in_the_baseline_another_experiment_is_refused(
    stopped_in_the_baseline: Path, fedkt: Any
) -> None:
    options = ["--out", "run", "--resume", "--seed", 9]
    answer = fedkt("simulate", stopped_in_the_baseline, *options)
    assert (answer.code, "begun with another seed" in answer.err) == (2, True)


def test_stopped_in_the_baseline_the_experiment_is_known(
    here: Path, stopped_in_the_baseline: Path, fedkt: Any, figures: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert fedkt("simulate", stopped_in_the_baseline, "--out", "whole").code == 0

    def guarded(plan: Plan, *args: Any, **kwargs: Any) -> None:
        assert plan.experiment.data.clients == 3, "another experiment goes on than the one begun"
        execute(plan, *args, **kwargs)

    monkeypatch.setattr("fedkt.simulations.api.simulating.execute", guarded)
    answer = fedkt("simulate", "--out", "run", "--resume")
    assert (answer.code, answer.err) == (0, "")
    assert figures(here / "run") == figures(here / "whole")
    assert figures(here / "run" / "baseline") == figures(here / "whole" / "baseline")


# --- killing a process -----------------------------------------------------------------------

MANY = {"rounds": 40}


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Path:
    """Return the folder of a run of many rounds and its baseline, never interrupted."""
    folder = tmp_path_factory.mktemp("long")
    plan = prepare(tiny(**MANY))
    execute(prepare(local_twin(plan)), folder / "baseline", label="local")
    execute(plan, folder, label="knfu", baseline=folder / "baseline")
    return folder


def interrupt(folder: Path, toml: Path, how: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Begin a simulation in a process of its own and send it a signal in the middle."""
    command = [
        sys.executable,
        "-m",
        "fedkt.simulations.cli.main",
        "simulate",
        str(toml),
        "--out",
        "run",
    ]
    process = subprocess.Popen(
        command,
        cwd=folder,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background jobs ignore SIGINT, and their children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while len(read_rounds(folder / "run")) < 5 and time.monotonic() < deadline:
        time.sleep(0.002)
        assert process.poll() is None, process.communicate()
    os.kill(process.pid, how)
    out, err = process.communicate(timeout=30)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_killed_and_resumed_the_figures_are_the_same(
    here: Path, fedkt: Any, write_toml: Any, long_run: Path, figures: Any, final_state: Any,
    no_report: None,
) -> None:  # fmt: skip
    killed = interrupt(here, write_toml(here, **MANY), signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert 5 <= len(read_rounds(here / "run")) < 40
    answer = fedkt("simulate", "--out", "run", "--resume")
    assert (answer.code, answer.err) == (0, "")
    assert "knfu: round 40/40" in answer.out
    assert "local: round" not in answer.out, "the baseline was finished"
    assert figures(here / "run") == figures(long_run)
    assert final_state(here / "run") == final_state(long_run)


def test_ctrl_c_says_how_to_go_on(
    here: Path, fedkt: Any, write_toml: Any, long_run: Path, figures: Any, no_report: None
) -> None:
    stopped = interrupt(here, write_toml(here, **MANY), signal.SIGINT)
    assert stopped.returncode == 130
    assert "Traceback" not in stopped.stderr
    assert not (here / "run" / "summary.json").exists()
    assert fedkt("simulate", "--out", "run", "--resume").code == 0
    assert figures(here / "run") == figures(long_run)
    said = "Stopped. What is finished is kept; go on with: fedkt simulate --out run --resume"
    assert stopped.stderr.splitlines() == [said]


def test_sigterm_is_ctrl_c_of_programs(
    here: Path, fedkt: Any, write_toml: Any, long_run: Path, figures: Any, no_report: None
) -> None:
    toml = write_toml(here, **MANY, run={"grid": "in-process", "state": "disk"})
    stopped = interrupt(here, toml, signal.SIGTERM)
    assert stopped.returncode == 143
    (line,) = stopped.stderr.splitlines()
    assert {p.name for p in (here / "run").rglob("*") if p.name in ("state", ".lock")} == set()
    assert 5 <= len(read_rounds(here / "run")) < 40
    assert fedkt(*shlex.split(line.partition("go on with: fedkt ")[2])).code == 0
    assert figures(here / "run") == figures(long_run)


def test_a_signal_that_comes_out_of_native_code_as_another_error_still_stops(
    tmp_path: Path, tiny: Any
) -> None:
    """As torch does when the handler raises in the midst of it; no client is blamed either."""
    from fedkt.simulations.cli.commands import _resumable
    from fedkt.simulations.engines import stopping

    def struck() -> None:
        with pytest.raises(stopping.Stopped):
            signal.raise_signal(signal.SIGTERM)

    with stopping.stoppable():
        struck()
        with pytest.raises(stopping.Stopped), _resumable("simulate", tmp_path / "config.toml"):
            raise ValueError("could not determine the shape of object type")
    with stopping.stoppable():
        plan = prepare(tiny())
        struck()
        with pytest.raises(stopping.Stopped):
            execute(plan, tmp_path / "run", label="x")
    with stopping.stoppable():
        stopping.check()


# --- failing ---------------------------------------------------------------------------------


def test_a_failed_run_goes_on_when_the_cause_is_gone(
    here: Path, fedkt: Any, write_toml: Any, figures: Any, no_report: None
) -> None:
    (here / "fragile.py").write_text(FRAGILE, encoding="utf-8")
    (here / "tripping.py").write_text(TRIPPING, encoding="utf-8")
    toml = write_toml(
        here, rounds=3, models=["fragile.py:Fragile"], strategy={"name": "tripping.py:Tripping"}
    )
    assert fedkt("simulate", toml, "--out", "whole").code == 0
    (here / "armed").touch()
    failed = fedkt("simulate", toml, "--out", "run")
    assert failed.code == 1
    (line,) = failed.err.splitlines()
    assert "round 2: every client failed to absorb" in line
    assert "client 0: RuntimeError: out of ink" in line
    assert len(read_rounds(here / "run")) == 1
    assert not (here / "run" / "summary.json").exists()
    (here / "armed").unlink()
    (here / "broken").unlink()
    answer = fedkt("simulate", toml, "--out", "run", "--resume")
    assert (answer.code, answer.err) == (0, "")
    assert figures(here / "run") == figures(here / "whole")


def test_failed_in_the_baseline_goes_on_too(
    here: Path, fedkt: Any, write_toml: Any, figures: Any, no_report: None
) -> None:
    (here / "fragile.py").write_text(FRAGILE, encoding="utf-8")
    (here / "broken").touch()
    toml = write_toml(here, models=["fragile.py:Fragile"])
    failed = fedkt("simulate", toml, "--out", "run")
    assert failed.code == 1
    assert "local, round 1: every client failed to learn" in failed.err
    (here / "broken").unlink()
    assert fedkt("simulate", toml, "--out", "run", "--resume").code == 0
    assert fedkt("simulate", toml, "--out", "whole").code == 0
    assert figures(here / "run") == figures(here / "whole")


def test_one_failing_client_stops_nobody(tmp_path: Path, tiny: Any) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE, encoding="utf-8")
    (tmp_path / "broken").touch()
    plan = prepare(tiny(models=["linear", f"{tmp_path}/fragile.py:Fragile", "mlp"]))
    execute(plan, tmp_path / "run", label="x")
    for row in read_rounds(tmp_path / "run"):
        assert row["participants"] == [0, 2]
        assert row["failures"] == [
            {"client": 1, "phase": "learn", "reason": "RuntimeError: out of ink"}
        ]
        assert row["untrained"] == [1]
        missing = [value is None for value in row["global_accuracy"]["per_client"]]
        assert missing == [False, True, False], "an untrained model has no figure"
    plan = prepare(tiny(models=[f"{tmp_path}/fragile.py:Fragile"]))
    with pytest.raises(RunFailedError, match="every client failed to learn; client 0"):
        execute(plan, tmp_path / "all", label="x")


# --- honest evaluation -----------------------------------------------------------------------


def with_other_test_data(plan: Plan) -> Plan:
    """Replace what is held out (test and validation samples, common test set) by noise."""
    federation = plan.federation
    rng = np.random.default_rng(0)
    pool_x, pool_y = federation.pool_x.copy(), federation.pool_y.copy()
    for _, first, _, end in federation.bounds:
        rows = federation.rows[first:end]
        pool_x[rows] = rng.random(pool_x[rows].shape)
        pool_y[rows] = rng.integers(0, 10, len(rows))
    other = dataclasses.replace(
        federation, pool_x=pool_x, pool_y=pool_y, test_y=federation.test_y[::-1].copy(), token=""
    )
    return dataclasses.replace(plan, federation=other)


@pytest.mark.parametrize("name", ["knfu", "fedmd", "fedavg", "fedprox", "local"])
def test_nothing_is_learnt_from_held_out_data(
    tmp_path: Path, tiny: Any, final_state: Any, name: str
) -> None:
    plan = prepare(tiny(strategy={"name": name, "local_epochs": 2}, models=["mlp"], rounds=3))
    execute(plan, tmp_path / "true", label="x")
    execute(with_other_test_data(plan), tmp_path / "noise", label="x")
    assert final_state(tmp_path / "true") == final_state(tmp_path / "noise")
    true, noise = (read_rounds(tmp_path / f)[-1] for f in ("true", "noise"))
    assert true["global_accuracy"] != noise["global_accuracy"], "the noise was measured on"
    assert (true["server_accuracy"] is not None) == (name in ("fedavg", "fedprox"))


def test_the_server_is_measured_on_the_common_test_set(tmp_path: Path, tiny: Any) -> None:
    """Everyone holds the global weights after a round, so the server's accuracy is theirs."""
    plan = prepare(tiny(strategy={"name": "fedavg", "local_epochs": 2}, models=["mlp"]))
    execute(plan, tmp_path / "run", label="x")
    for row in read_rounds(tmp_path / "run"):
        assert row["global_accuracy"]["per_client"] == [row["server_accuracy"]] * 3


def test_workers_are_resolved(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert workers_of(tiny()) == 2
    assert workers_of(tiny(data__clients=1)) == 1, "at most one a client"
    assert workers_of(tiny(run__workers=7)) == 3
    assert prepare(tiny()).experiment.run.workers == 2
