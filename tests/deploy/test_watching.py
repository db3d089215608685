from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path

import pytest
from rich.console import Console

from fedkt.deploy import deployed_run
from fedkt.deploy.continuing import resume_deployed
from fedkt.deploy.live import LIVE
from fedkt.deploy.rehearsal import read_app
from fedkt.deploy.watching import has_failed, is_over, shown, watch
from fedkt.disk import only_user
from fedkt.errors import ConfigError
from fedkt.simulations.cli.deployed import resume_run

from .federating import DeathError, Dying, grid_of, new_app, served


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run whose server has died in round 2."""
    where = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        app = new_app(where / "hospitals")
        with pytest.raises(DeathError):
            served(app, Dying(grid_of(read_app(app)), "train", 2), run_dir="run")
    return where / "run"


def text_of(folder: Path, now: float | None = None) -> str:
    said = io.StringIO()
    Console(file=said, width=160).print(shown(folder, now))
    return said.getvalue()


def test_a_run_that_has_failed_says_why(folder: Path) -> None:
    assert is_over(folder)
    text = text_of(folder)
    assert f"{folder}: failed: DeathError" in text
    row = json.loads((folder / "rounds.jsonl").read_text(encoding="utf-8"))
    assert f"{100 * row['personalised_accuracy']['mean']:.1f} %" in text


def test_the_phase_its_clients_and_since_when(folder: Path) -> None:
    live = {"state": "train", "round": 2, "rounds": 3, "since": 100.0, "asked": [0, 2]}
    kept = (folder / LIVE).read_text(encoding="utf-8")
    (folder / LIVE).write_text(json.dumps(live), encoding="utf-8")
    try:
        with only_user(folder):
            assert not is_over(folder)
            text = text_of(folder, 112)
        assert f"{folder}: round 2 of 3, train, 2 clients asked, since 12 s" in text
    finally:
        (folder / LIVE).write_text(kept, encoding="utf-8")


def test_failures_are_named_with_their_reasons(folder: Path, tmp_path: Path) -> None:
    row = json.loads((folder / "rounds.jsonl").read_text(encoding="utf-8"))
    row["failures"] = [{"client": 1, "phase": "learn", "reason": "no reply in time"}]
    (tmp_path / "rounds.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    live = {"state": "train", "round": 2, "rounds": 3, "since": 0.0, "names": {"1": "north"}}
    (tmp_path / LIVE).write_text(json.dumps(live), encoding="utf-8")
    assert "round 1, client 1 (north), learn: no reply in time" in text_of(tmp_path)


def test_other_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run directory"):
        watch(tmp_path)
    with pytest.raises(ConfigError, match="holds no deployed run"):
        resume_deployed(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="name its folder with --app"):
        resume_deployed(folder, tmp_path)


def test_a_server_that_has_died_is_told_from_one_at_work(tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").write_text("", encoding="utf-8")
    live = {"state": "train", "round": 2, "rounds": 3, "since": 0.0}
    (tmp_path / LIVE).write_text(json.dumps(live), encoding="utf-8")
    died = "the server app has died, round 2, train; go on with: fedkt resume"
    with only_user(tmp_path):
        assert not is_over(tmp_path)
        assert died not in text_of(tmp_path)
    assert is_over(tmp_path)
    assert died in text_of(tmp_path)


@pytest.mark.parametrize("live", [None, '{"state": "tr', "[]", "{}"])
def test_a_run_without_a_word_of_the_moment(
    folder: Path, tmp_path: Path, live: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulation's, or one whose file is damaged: whether it is at work, its lock says."""
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it is waited for"))
    for name in ("config.toml", "rounds.jsonl"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    if live is not None:
        (tmp_path / LIVE).write_text(live, encoding="utf-8")
    with only_user(tmp_path):
        assert not is_over(tmp_path)
        assert f"{tmp_path}: 1 rounds\n" in text_of(tmp_path).replace("  ", "")
    said = io.StringIO()
    watch(tmp_path, console=Console(file=said, width=200))
    assert has_failed(tmp_path)
    text = said.getvalue()
    assert "1 rounds, and no process writes it; go on with the command that began it" in text
    (tmp_path / "deployment.json").write_text("{}", encoding="utf-8")
    assert "the server app has died, 1 rounds; go on with: fedkt resume" in text_of(tmp_path)


def test_a_run_of_a_comparison_is_at_work_while_the_comparison_is(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "knfu-0"
    run.mkdir(parents=True)
    (run / "config.toml").write_text("", encoding="utf-8")
    with only_user(tmp_path):
        assert not is_over(run)
    assert is_over(run)


def test_folders_that_cannot_be_resumed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere holds no deployed run: it has no deployment"):
        resume_run(tmp_path / "nowhere", tmp_path, "", 0)
    (tmp_path / "deployment.json").write_text('{"run-config": 3}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"deployment\.json is damaged"):
        resume_run(tmp_path, tmp_path, "", 0)
    (tmp_path / "deployment.json").write_text('{"run-config": {}}', encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no run yet: remove it, and begin the run again"):
        resume_run(tmp_path, tmp_path, "", 0)
    (tmp_path / "deployment.json").unlink()
    (tmp_path / "config.toml").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="is no deployed run; a simulation goes on with"):
        resume_run(tmp_path, tmp_path, "", 0)


def test_a_run_that_dies_while_it_begins_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never with what tells a run, and without what it goes on with."""
    monkeypatch.chdir(tmp_path)
    app = new_app(tmp_path / "hospitals")

    def killed(*arguments: object) -> None:
        raise DeathError

    for writer in ("write_json", "write_atomic"):
        with monkeypatch.context() as patch:
            patch.setattr(deployed_run, writer, killed)
            with pytest.raises(DeathError):
                served(app, run_dir=writer)
        run = Path(writer)
        assert not (run / "config.toml").is_file() or (run / "deployment.json").is_file()


def test_the_command_that_goes_on_stays_on_one_line_in_a_pipe(folder: Path, tmp_path: Path) -> None:
    # Longer than the 80 columns that a pipe is taken to have.
    run = shutil.copytree(
        folder, tmp_path / "a-folder-with-a-long-name" / "and-another-one" / "run"
    )
    live = {"state": "train", "round": 2, "rounds": 3, "since": 0.0}
    (run / LIVE).write_text(json.dumps(live), encoding="utf-8")
    said = io.StringIO()
    watch(run, once=True, console=Console(file=said))
    assert f"go on with: fedkt resume {run} --app APP\n" in said.getvalue()
