"""Stores of client state: what belongs to which run, and what a message may start from."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch

from fedkt.clients import FileStore, MemoryStore
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge


def state_of(value: float, **more: str) -> dict:
    return {
        "learner": {"model": {"w": torch.tensor([value])}, "optimiser": {0: {"step": 3}}},
        "started": True,
        "knowledge": {"weights": Knowledge("weights", {"w": torch.tensor([value])})},
        **more,
    }


def value_of(state: dict | None) -> float | None:
    return None if state is None else float(state["learner"]["model"]["w"])


def rounds(store, *numbers: int, client: int = 1, run: str = "a") -> None:
    """Take part in rounds: the states are 1.0 and 1.5 after training and evaluation of round 1."""
    for number in numbers:
        for phase, value in (("train", number), ("evaluate", number + 0.5)):
            store.put(run, client, number, phase, state_of(value, first=f"{numbers[0]}-train"))


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path):
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path / "made" / "state")


def test_put_and_get(store) -> None:
    assert store.get("a", 0) is None
    assert isinstance(store.put("a", 0, 1, "train", state_of(1)), str)
    store.put("a", 10, 1, "train", state_of(10))
    assert value_of(store.get("a", 0)) == 1
    assert value_of(store.get("a", 10)) == 10
    assert store.get("a", 1) is None


def test_everything_comes_back(store) -> None:
    store.put("a", 4, 2, "evaluate", state_of(2.5))
    back = store.get("a", 4)
    assert (back["run"], back["round"], back["phase"]) == ("a", 2, "evaluate")
    assert back["started"] is True
    assert back["learner"]["optimiser"] == {0: {"step": 3}}
    assert float(back["knowledge"]["weights"].tensors["w"]) == 2.5


def test_a_message_starts_from_the_newest_state_of_before(store) -> None:
    store.put("a", 1, 9, "train", state_of(9))
    assert value_of(store.get("a", 1, 9, "evaluate")) == 9
    assert value_of(store.get("a", 1, 10)) == 9
    store.put("a", 1, 10, "train", state_of(10, first="9-train"))  # numbers, not text
    assert value_of(store.get("a", 1, 10, "evaluate")) == 10
    assert value_of(store.get("a", 1)) == 10
    with pytest.raises(ConfigError, match="a round has train and evaluate"):
        store.get("a", 1, 9, "absorb")


def test_a_state_belongs_to_a_run(store) -> None:
    rounds(store, 1, 2, run="first")
    assert store.get("second", 1, 1) is None
    assert store.get("second", 1) is None
    rounds(store, 1, run="second")
    assert store.runs(1)[-1] == "second"
    assert value_of(store.snapshot()[1]) == 1.5


def test_who_came_later_has_no_state_of_before(store) -> None:
    rounds(store, 3)
    assert store.get("a", 1, 3) is None
    store.rewind("a", 1, 3)
    assert store.get("a", 1) is None


def test_a_state_that_is_gone_is_an_error(store) -> None:
    rounds(store, 1, 2, 3, 4)
    with pytest.raises(ConfigError, match="client 1 before train of round 2 is gone: it has gone"):
        store.get("a", 1, 2)


def test_snapshot_and_restore(store, tmp_path: Path) -> None:
    rounds(store, 1, 5, client=3)
    rounds(store, 2, client=12)
    saved = store.snapshot()
    assert {c: value_of(s) for c, s in saved.items()} == {3: 5.5, 12: 2.5}
    for other in (MemoryStore(), FileStore(tmp_path / "other"), store):
        rounds(other, 1, client=99)
        rounds(other, 1, client=3, run="b")
        other.restore(saved)
        assert {c: value_of(s) for c, s in other.snapshot().items()} == {3: 5.5, 12: 2.5}
        assert other.get("a", 99) is None
        other.put("a", 3, 6, "train", state_of(6, first="1-train"))
        assert value_of(other.get("a", 3)) == 6


# --- files ---------------------------------------------------------------------------------


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.safetensors"))


def test_what_the_last_two_rounds_need_is_kept(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    rounds(store, 1, 2, 4)  # absent in round 3
    kept = ["2-evaluate", "4-evaluate", "4-train"]
    assert files(tmp_path) == [f"run-a/client-1/{name}.safetensors" for name in kept]
    for before, phase, value in ((4, "train", 2.5), (4, "evaluate", 4), (5, "train", 4.5)):
        assert value_of(store.get("a", 1, before, phase)) == value


def test_a_round_that_begins_again_forgets_what_came_of_it(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    rounds(store, 1, 2)
    store.rewind("a", 1, 2)
    assert files(tmp_path) == ["run-a/client-1/1-evaluate.safetensors"]
    assert value_of(store.get("a", 1, 3)) == 1.5, "absent in the second round 2"
    rounds(store, 1, 2, 3, 4)
    with pytest.raises(ConfigError, match="is gone"):
        store.rewind("a", 1, 2)
    assert len(files(tmp_path)) == 3, "and nothing more is lost"


def test_clients_and_runs_do_not_share_files(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    for client in (1, 10, 11, 0, 100):
        rounds(store, client + 1, client=client)
        rounds(store, 1, client=client, run="a.b-c_d")
    assert {c: value_of(store.get("a", c)) for c in (0, 1, 10, 11, 100)} == {
        c: c + 1.5 for c in (0, 1, 10, 11, 100)
    }
    for name in ("", "../a", "a/b", "a b", "x" * 101):
        with pytest.raises(ConfigError, match="a name has at most 100 letters"):
            store.put(name, 1, 1, "train", state_of(0))


def test_a_new_store_finds_the_old_files(tmp_path: Path) -> None:
    rounds(FileStore(tmp_path), 7)
    assert value_of(FileStore(tmp_path).get("a", 1, 8)) == 7.5


def test_files_are_their_owner_s(tmp_path: Path) -> None:
    FileStore(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def test_a_damaged_file_is_an_error_and_not_a_new_client(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put("a", 1, 1, "train", state_of(1))
    damage(tmp_path / "run-a/client-1/1-train.safetensors")
    with pytest.raises(ConfigError, match="cannot be read"):
        store.get("a", 1)


def test_in_place_of_a_damaged_newest_state_comes_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileStore(tmp_path)
    rounds(store, 1, 2)
    damage(tmp_path / "run-a/client-1/2-evaluate.safetensors")
    with caplog.at_level("WARNING", "fedkt"):
        assert value_of(store.get("a", 1, 3)) == 2
    assert "client 1 goes on from its state 2-train" in caplog.text


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    folder = tmp_path / "run-a" / "client-1"
    rounds(store, 1)
    left = [folder / f".{moment}.safetensors.77.part" for moment in ("2-train", "4-train")]
    for path in (*left, folder / ".mine.part"):
        path.write_bytes(b"half")
    rounds(store, 2)
    assert [path.exists() for path in left] == [False, True], "another process may write the second"
    rounds(store, 5)
    assert sorted(path.name for path in folder.glob(".*")) == [".mine.part"]
    left[0].write_bytes(b"half")
    store.rewind("a", 1, 5)
    assert not left[0].exists()


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    store = FileStore(tmp_path)
    rounds(store, 1)
    store.restore({})
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
