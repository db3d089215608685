"""Where a run keeps its clients' states, and how often it saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.progress import Silent
from fedkt.simulations.runs.run import execute


class Looking(Silent):
    """Counts the files of client state when a round is done."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.files = folder, 0

    def round_finished(
        self, round_: int, personalised: float | None, global_: float | None
    ) -> None:
        self.files = max(self.files, len(list(self._folder.rglob("client-*/*.safetensors"))))


@pytest.mark.parametrize("grid", ["in-process", "ray"])
def test_state_on_disk_changes_no_bit(
    tmp_path: Path, tiny: Any, figures: Any, final_state: Any, grid: str
) -> None:
    disk, memory = tmp_path / "disk", tmp_path / "memory"
    given = {"run__grid": grid, "run__workers": 2}
    watching = Looking(disk / "state")
    plan = prepare(tiny(run__state="disk", **given))
    execute(plan, disk, label="x", progress=watching)
    assert watching.files >= plan.federation.num_clients
    assert not (disk / "state").exists()
    execute(prepare(tiny(**given)), memory, label="x")
    assert figures(disk) == figures(memory)
    assert final_state(disk) == final_state(memory)


def test_what_a_killed_run_left_on_disk_is_not_taken_up(
    tmp_path: Path, tiny: Any, figures: Any
) -> None:
    plan = prepare(tiny(run__state="disk"))
    execute(plan, tmp_path / "straight", label="x")
    left = tmp_path / "killed" / "state" / "client-0"
    left.mkdir(parents=True)
    (left / "7.safetensors").write_bytes(b"half a state")
    execute(plan, tmp_path / "killed", label="x")
    assert figures(tmp_path / "killed") == figures(tmp_path / "straight")


@pytest.mark.parametrize(("stop", "goes_on_at"), [(1, 1), (3, 3), (4, 5)])
def test_rounds_after_the_last_checkpoint_are_done_again(
    tmp_path: Path,
    tiny: Any,
    figures: Any,
    final_state: Any,
    stop: int,
    goes_on_at: int,
    stop_after: Any,
) -> None:
    plan = prepare(tiny(rounds=5, run__checkpoint_every=2))
    execute(plan, tmp_path / "whole", label="x")
    saved = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir())
    assert saved == ["round-00004.safetensors", "round-00005.safetensors"]
    run, progress = tmp_path / "run", stop_after(stop)
    with pytest.raises(KeyboardInterrupt):
        execute(plan, run, label="x", progress=progress)
    again = stop_after(-1)
    execute(plan, run, label="x", progress=again)
    assert again.first_rounds == [goes_on_at]
    assert figures(run) == figures(tmp_path / "whole")
    assert final_state(run) == final_state(tmp_path / "whole")
