"""The one reader of rounds.jsonl: what is damaged is said by all commands in the same words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.results.run_folder import load_run

Damage = Callable[[list[bytes]], list[bytes]]


def torn(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-1], lines[-1][:40]]


DAMAGES: dict[str, tuple[Damage, str]] = {
    "damaged middle line": (lambda x: [x[0], x[1][:40] + b"\n", *x[2:]], "line 2: "),
    "not an object": (lambda x: [x[0], b"[2]\n", *x[2:]], "line 2: not an object"),
    "not UTF-8": (
        lambda x: [x[0], b'{"round": 2, "a": "\xff"}\n', *x[2:]],
        "line 2: not UTF-8 at byte 20",
    ),
    "zeros": (lambda x: [x[0], b"\0" * len(x[1]) + b"\n", *x[2:]], "line 2: Expecting value"),
    "missing line": (lambda x: [x[0], *x[2:]], "line 2: round 3 where round 2 should be"),
    "duplicate round": (lambda x: [x[0], *x], "line 2: round 1 where round 2 should be"),
    "another order": (lambda x: [x[1], x[0], *x[2:]], "line 1: round 2 where round 1 should be"),
    "no round": (lambda x: [x[0], b"{}\n", *x[2:]], "line 2: no round number"),
}
# Damage that an interruption may leave, but not in a run that had finished.
ENDS: dict[str, tuple[Damage, str]] = {
    "torn last line": (torn, "line 4: "),
    "cut off": (lambda x: x[:3], "it has 3 rounds, and summary.json is of 4"),
    "empty file": (lambda x: [], "it has 0 rounds, and summary.json is of 4"),
}


def rounds_of(folder: Path, damage: Damage) -> Path:
    """Damage the rounds of a run; return their file."""
    log = folder / "rounds.jsonl"
    log.write_bytes(b"".join(damage(log.read_bytes().splitlines(keepends=True))))
    return log


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fedkt: Any, write_toml: Any) -> Path:
    """Return the folder of a finished simulation, its baseline inside, and of a comparison."""
    folder = tmp_path_factory.mktemp("rounds")
    toml = write_toml(folder, rounds=4)
    with pytest.MonkeyPatch.context() as patch:  # figures take most of a tiny run's time
        for name in ("write_run_report", "write_comparison_report"):
            patch.setattr(f"fedkt.simulations.cli.commands.{name}", Path)
        assert fedkt("simulate", toml, "--out", folder / "run").code == 0
        options = ("--strategies", "local,fedmd", "--out", folder / "cmp")
        assert fedkt("compare", toml, *options).code == 0
    return folder


@pytest.mark.parametrize("kind", [*DAMAGES, *ENDS])
def test_every_command_says_the_damage_of_a_finished_run_in_the_same_words(
    finished: Path, tmp_path: Path, fedkt: Any, kind: str
) -> None:
    damage, words = {**DAMAGES, **ENDS}[kind]
    shutil.copytree(finished, tmp_path / "x")
    run, compared = tmp_path / "x" / "run", tmp_path / "x" / "cmp"
    inner = compared / "runs" / "fedmd-seed0"
    for folder, commands in {
        run: [
            ("report", run),
            ("simulate", "--out", run, "--resume"),
            ("simulate", "--out", run, "--resume", "--rounds", 6),
            ("features", run),
        ],
        inner: [("report", compared), ("compare", "--out", compared, "--resume")],
    }.items():
        log = rounds_of(folder, damage)
        before = log.read_bytes()
        said = set()
        for command in commands:
            answer = fedkt(*command)
            assert answer.code == 2, (command, answer)
            said.add(answer.err)
        assert len(said) == 1, said
        (line,) = said
        assert line.startswith(f"error: {log} is damaged: {words}")
        assert line.count("\n") == 1
        assert f"remove {folder} and run that again." in line
        assert log.read_bytes() == before, "the old rounds are as they were"


@pytest.mark.parametrize("kind", ["damaged middle line", "missing line"])
def test_a_damaged_baseline_is_not_run_again(
    finished: Path, tmp_path: Path, fedkt: Any, no_report: None, kind: str
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    log = rounds_of(tmp_path / "run" / "baseline", DAMAGES[kind][0])
    answer = fedkt("simulate", "--out", tmp_path / "run", "--resume")
    assert (answer.code, f"{log} is damaged: line 2" in answer.err) == (2, True)
    shutil.rmtree(tmp_path / "run" / "baseline")  # as the message says
    assert fedkt("simulate", "--out", tmp_path / "run", "--resume").code == 0
    assert len(read_rounds(tmp_path / "run" / "baseline")) == 4


def test_rounds_that_are_gone_altogether_are_not_run_again(
    finished: Path, tmp_path: Path, fedkt: Any
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    (tmp_path / "run" / "rounds.jsonl").unlink()
    answer = fedkt("simulate", "--out", tmp_path / "run", "--resume")
    assert (answer.code, "it has 0 rounds, and summary.json is of 4" in answer.err) == (2, True)


@pytest.mark.parametrize("kind", DAMAGES)
def test_an_interrupted_run_does_not_go_on_from_damaged_rounds(
    finished: Path, tmp_path: Path, fedkt: Any, kind: str
) -> None:
    damage, words = DAMAGES[kind]
    shutil.copytree(finished / "run", tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    log = rounds_of(tmp_path / "run", damage)
    answer = fedkt("simulate", "--out", tmp_path / "run", "--resume")
    assert (answer.code, f"{log} is damaged: {words}" in answer.err) == (2, True), answer


@pytest.mark.parametrize(("kept", "words"), [(0, "0 rounds"), (2, "2 rounds")])
def test_rounds_that_checkpoints_stand_for_must_be_there(
    finished: Path, tmp_path: Path, fedkt: Any, kept: int, words: str
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    rounds_of(tmp_path / "run", lambda lines: lines[:kept])
    answer = fedkt("simulate", "--out", tmp_path / "run", "--resume")
    assert answer.code == 2
    assert f"it has {words}, and a checkpoint is of round 4" in answer.err


@pytest.mark.parametrize("damage", [torn, lambda x: [*x[:-1], x[-1][:-1]], lambda x: [*x, b"\0\0"]])
def test_an_interrupted_run_goes_on_over_its_torn_last_line(
    finished: Path, tmp_path: Path, fedkt: Any, no_report: None, figures: Any, damage: Damage
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    rounds_of(tmp_path / "run", damage)
    answer = fedkt("simulate", "--out", tmp_path / "run", "--resume")
    assert (answer.code, answer.err) == (0, "")
    assert figures(tmp_path / "run") == figures(finished / "run")


def test_a_longer_run_may_be_interrupted(
    finished: Path, tmp_path: Path, fedkt: Any, stop_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The summary of the shorter run is gone with the first step beyond it."""
    shutil.copytree(finished / "run", tmp_path / "run")
    options = ("simulate", "--out", tmp_path / "run", "--resume", "--rounds", 6)
    with monkeypatch.context() as patch:
        patch.setattr("fedkt.simulations.cli.commands.progress_for", lambda *_: stop_after(5))
        assert fedkt(*options).code == 130
    assert fedkt(*options).code == 0
    assert len(load_run(tmp_path / "run").rounds) == 6


def test_what_is_no_damage(tmp_path: Path) -> None:
    assert read_rounds(tmp_path / "nowhere") == []
    log = tmp_path / "rounds.jsonl"
    log.write_bytes(b"")
    assert read_rounds(tmp_path) == []
    log.write_bytes(b'{"round": 1}\r\n\n{"round": 2, "server_accuracy": NaN}')
    assert read_rounds(tmp_path) == [{"round": 1}, {"round": 2, "server_accuracy": None}]
    log.write_text(
        json.dumps({"round": 1, "reason": "a\u2028b"}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    assert len(read_rounds(tmp_path)) == 1


def test_a_folder_in_the_place_of_the_file_is_damage(tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").mkdir()
    with pytest.raises(ConfigError, match="is damaged"):
        read_rounds(tmp_path)
