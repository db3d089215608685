"""What the disk refuses: one line that names the folder, and how to go on. Real limits, no mocks.

A limit on the size of files (``RLIMIT_FSIZE``) makes real writes fail as on a full disk. Nothing
here depends on who runs it: root may write anywhere but below a file and into ``/proc``.
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt import snapshot
from fedkt.clients import FileStore
from fedkt.disk import only_user, refused, write_atomic, writing
from fedkt.errors import ConfigError, DiskError
from fedkt.simulations.report.drawing import canvas
from fedkt.simulations.results.checkpoints import latest
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare

resource = pytest.importorskip("resource", reason="limits on files are Unix's")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file larger than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def hold(folder: Path) -> None:
    with only_user(folder):
        pass


def draw(folder: Path) -> None:
    with canvas(folder / "x.png", 4, 3):
        pass


@pytest.fixture(scope="module")
def federation(tiny: Any) -> Any:
    return prepare(tiny()).federation


@pytest.fixture
def writers(federation: Any) -> dict[str, Callable[[Path], object]]:
    """Return all that writes into a folder."""
    large = torch.zeros(10_000)
    return {
        "text": lambda folder: write_atomic(folder / "x.json", "x" * 10_000),
        "snapshot": lambda folder: snapshot.save(folder / "x.safetensors", large),
        "state": lambda folder: FileStore(folder).put("a", 0, 1, "train", {"learner": large}),
        "federation": federation.save,
        "figure": draw,
    }


@pytest.mark.parametrize("name", ["text", "snapshot", "federation", "figure"])
def test_a_full_disk_is_named(tmp_path: Path, writers: Any, name: str) -> None:
    with largest_file(1000), pytest.raises(DiskError, match="Cannot write to") as raised:
        writers[name](tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    parts = [
        p.name for p in tmp_path.iterdir() if p.suffix in (".part", ".tmp") or p.name[0] == "."
    ]
    assert parts == [], "nothing half written is left"
    writers[name](tmp_path)  # and with room it goes on


@pytest.mark.parametrize("name", ["text", "snapshot", "state", "federation", "figure", "hold"])
def test_a_folder_that_takes_nothing_is_named(tmp_path: Path, writers: Any, name: str) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "run", Path("/proc/nowhere")):
        with pytest.raises(ConfigError, match=f"Cannot write to {folder}"):
            (writers | {"hold": hold})[name](folder)


def test_a_device_without_room() -> None:
    with (
        pytest.raises(DiskError, match=r"^Cannot write to runs: No space left on device\.$"),
        writing(Path("runs")),
        Path("/dev/full").open("w", encoding="utf-8") as file,
    ):
        file.write("x")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskError),
        (errno.EDQUOT, DiskError),
        (errno.EFBIG, DiskError),
        (errno.EIO, DiskError),
        (errno.EACCES, ConfigError),
        (errno.EPERM, ConfigError),
        (errno.EROFS, ConfigError),
    ],
)
def test_what_can_be_gone_on_from_is_no_error_of_the_user(number: int, kind: type) -> None:
    assert type(refused("x", number)) is kind


# --- the commands ----------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["simulate"], ["compare", "--strategies", "local"]])
@pytest.mark.parametrize("out", ["/proc/nowhere/run", "tiny.toml/run"])
def test_a_folder_that_cannot_be_written_to_is_refused(
    here: Path, fedkt: Any, write_toml: Any, command: list[str], out: str
) -> None:
    write_toml(here, strategy={"name": "local"})
    answer = fedkt(*command, "tiny.toml", "--out", out)
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert out.partition("/run")[0] in line
    assert "--resume" not in line


def test_a_run_on_a_disk_that_fills_up_goes_on_with_what_is_said(
    here: Path, fedkt: Any, write_toml: Any, figures: Any, final_state: Any, no_report: None
) -> None:
    toml = write_toml(here, rounds=80, models=["linear"], strategy={"name": "local"})
    assert fedkt("simulate", toml, "--out", "whole").code == 0
    saved = max(p.stat().st_size for p in (here / "whole" / "checkpoints").iterdir())
    half = (here / "whole" / "rounds.jsonl").stat().st_size // 2
    assert half > saved, "the limit is to hit the rounds, not the first checkpoint"
    with largest_file(half):
        full = fedkt("simulate", toml, "--out", "a run")
    assert full.code == 1
    (line,) = full.err.splitlines()
    assert line == (
        "error: Cannot write to a run: File too large. What is finished is kept; "
        "go on with: fedkt simulate --out 'a run' --resume"
    )
    done = latest(here / "a run" / "checkpoints")
    assert done == len(read_rounds(here / "a run"))
    assert 30 < done < 50
    again = fedkt(*shlex.split(line.partition("go on with: fedkt ")[2]))
    assert (again.code, again.err) == (0, "")
    assert figures(here / "a run") == figures(here / "whole")
    assert final_state(here / "a run") == final_state(here / "whole")


@pytest.mark.parametrize("executor", ["loop", "cohort"])
def test_a_disk_too_full_for_states_ends_the_run_and_no_client_is_blamed(
    here: Path, fedkt: Any, write_toml: Any, no_report: None, executor: str
) -> None:
    run = {"grid": "in-process", "state": "disk", "executor": executor}
    toml = write_toml(here, models=["mlp"], strategy={"name": "local"}, run=run)
    with largest_file(12_000):
        full = fedkt("simulate", toml, "--out", "run")
    assert full.code == 1
    (line,) = full.err.splitlines()
    where = "run/state/run-simulation/client-0"
    assert line.startswith(f"error: Cannot write to {where}: File too large. ")
    assert read_rounds(here / "run") == []
    assert not (here / "run" / "state").exists(), "scratch folders are removed"


def test_a_comparison_does_not_go_on_to_the_next_run(
    here: Path, fedkt: Any, write_toml: Any, no_report: None
) -> None:
    toml = write_toml(here, models=["mlp"])
    with largest_file(12_000):
        full = fedkt("compare", toml, "--strategies", "local,knfu", "--seeds", 2, "--out", "cmp")
    assert full.code == 1
    (line,) = full.err.splitlines()
    assert "Cannot write to cmp/runs/local-seed0/checkpoints: File too large." in line
    assert line.endswith("go on with: fedkt compare --out cmp --resume")
    assert [p.name for p in (here / "cmp" / "runs").iterdir()] == ["local-seed0"]


def test_a_disk_too_full_for_the_data_leaves_none_of_it(
    here: Path, fedkt: Any, write_toml: Any, no_report: None
) -> None:
    """Flower's engine reads them from files; nothing of Flower or Ray has begun by then."""
    toml = write_toml(here, strategy={"name": "local"}, run={"grid": "flower", "workers": 1})
    with largest_file(12_000):
        full = fedkt("simulate", toml, "--out", "run")
    assert full.code == 1
    assert "Cannot write to run/flower/federation: " in full.err
    assert not (here / "run" / "flower").exists()
