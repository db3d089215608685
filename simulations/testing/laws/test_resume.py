"""A run that was stopped goes on as if it had never stopped: same figures, same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedkt.simulations.runs import checkpoint
from fedkt.simulations.runs.progress import Silent
from fedkt.testing.kit import Method, difference
from fedkt.testing.on_engines import plan_on, run_in

ROUNDS = 3


class StopAfterRound(Silent):
    """Stops a run right after the checkpoint of a round."""

    def __init__(self, last: int) -> None:
        self._last = last

    def round_finished(
        self, round_: int, personalised: float | None, global_: float | None
    ) -> None:
        """Stop the run after its last round."""
        if round_ == self._last:
            raise KeyboardInterrupt


class StopAtMessage(Silent):
    """Stops a run in the middle of a phase, when the n-th message has been handled."""

    def __init__(self, last: int) -> None:
        self._left = last

    def clients_done(self, done: int, total: int) -> None:
        """Stop the run after the last of its messages."""
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


_whole: dict[Method, dict[str, Any]] = {}


@pytest.fixture
def whole(exchange: Method, tmp_path: Path) -> dict[str, Any]:
    """Return what the run comes to that is never stopped; made once for each strategy."""
    if exchange not in _whole:
        plan = plan_on(exchange, "in-process", rounds=ROUNDS)
        _whole[exchange] = run_in(tmp_path / "whole", plan)
    return _whole[exchange]


def go_on(folder: Path, method: Method, whole: dict[str, Any], stopped: str) -> None:
    """Finish the run in a folder with new objects, and compare it with the whole one."""
    resumed = run_in(folder, plan_on(method, "in-process", rounds=ROUNDS))
    found = difference(whole, resumed)
    law = f"{method}: a run {stopped} goes on as if it had never stopped"
    assert found is None, f"{law}; but {found}"


def test_stopped_between_rounds(exchange: Method, whole: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_on(exchange, "in-process", rounds=ROUNDS)
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path, plan, StopAfterRound(2))
    go_on(tmp_path, exchange, whole, "stopped after round 2")


# Five greetings, then in each round three clients learn (some do not absorb) and five answer:
# 7 is in the first round, before any checkpoint, 14 and 19 in the two phases of the second.
@pytest.mark.parametrize("message", [7, 14, 19])
def test_stopped_in_the_middle_of_a_round(
    exchange: Method, whole: dict[str, Any], message: int, tmp_path: Path
) -> None:
    plan = plan_on(exchange, "in-process", rounds=ROUNDS)
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path, plan, StopAtMessage(message))
    go_on(tmp_path, exchange, whole, f"stopped at message {message}")


def test_planned_shorter_at_first(exchange: Method, whole: dict[str, Any], tmp_path: Path) -> None:
    if exchange.make().follows_progress:
        pytest.skip("a round depends on how many are planned, so the longer run is another run")
    shorter = run_in(tmp_path, plan_on(exchange, "in-process", rounds=1))
    assert len(shorter["rounds"]) == 1
    go_on(tmp_path, exchange, whole, "of one round, made longer,")


def test_newest_checkpoint_is_torn(exchange: Method, whole: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path, plan_on(exchange, "in-process", rounds=ROUNDS), StopAfterRound(2))
    newest = max((tmp_path / "checkpoints").glob("round-*"))
    newest.write_bytes(newest.read_bytes()[:1000])
    go_on(tmp_path, exchange, whole, "whose newest checkpoint is torn")


def test_stopped_between_a_line_and_its_checkpoint(
    exchange: Method, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def save_first_only(folder: Path, round_: int, state: dict[str, Any], durable: bool) -> None:
        if round_ > 1:
            raise KeyboardInterrupt
        save(folder, round_, state, durable)

    monkeypatch.setattr(checkpoint, "save", save_first_only)
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path, plan_on(exchange, "in-process", rounds=ROUNDS))
    monkeypatch.undo()
    go_on(tmp_path, exchange, whole, "stopped before the checkpoint of a written line")
