from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedkt.clients import FileStore, MemoryStore
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge


def state_of(value: float) -> dict:
    return {
        "learner": {"model": {"w": torch.tensor([value])}, "optimiser": {0: {"step": 3}}},
        "started": True,
        "knowledge": {"weights": Knowledge("weights", {"w": torch.tensor([value])})},
    }


def value_of(state: dict | None) -> float | None:
    return None if state is None else float(state["learner"]["model"]["w"])


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path):
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path / "made" / "state")


def test_put_and_get(store) -> None:
    assert store.get(0) is None
    handle = store.put(0, state_of(1))
    store.put(10, state_of(10))
    assert isinstance(handle, str)
    assert value_of(store.get(0, handle)) == 1
    assert value_of(store.get(0)) == 1
    assert value_of(store.get(10)) == 10
    assert store.get(1) is None


def test_everything_comes_back(store) -> None:
    store.put(4, state_of(2.5))
    back = store.get(4)
    assert back["started"] is True
    assert back["learner"]["optimiser"] == {0: {"step": 3}}
    assert float(back["knowledge"]["weights"].tensors["w"]) == 2.5


def test_without_a_handle_the_newest(store) -> None:
    for value in range(12):  # more than ten: versions are numbers, not text
        store.put(0, state_of(value))
    assert value_of(store.get(0)) == 11


def test_snapshot_and_restore(store, tmp_path: Path) -> None:
    for client, value in ((3, 1), (12, 2), (3, 5)):
        store.put(client, state_of(value))
    saved = store.snapshot()
    assert {c: value_of(s) for c, s in saved.items()} == {3: 5, 12: 2}
    for other in (MemoryStore(), FileStore(tmp_path / "other"), store):
        other.put(99, state_of(0))
        other.put(3, state_of(0))
        other.restore(saved)
        assert {c: value_of(s) for c, s in other.snapshot().items()} == {3: 5, 12: 2}
        assert other.get(99) is None
        other.put(3, state_of(6))
        assert value_of(other.get(3)) == 6


# --- files ---------------------------------------------------------------------------------


def test_the_version_a_state_was_made_from_is_kept(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    handles: list[str] = []
    for value in range(5):
        handles.append(store.put(1, state_of(value), handles[-1] if handles else None))
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")) == [
        "client-1/3.safetensors",
        "client-1/4.safetensors",
    ]
    # Flower drops the context of a failed message: the handle then names the one before
    assert value_of(store.get(1, handles[3])) == 3
    assert value_of(store.get(1, handles[4])) == 4


def test_clients_do_not_share_files(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    for client in (1, 10, 11, 0, 100):
        for version in range(3):
            store.put(client, state_of(client + version / 10))
    assert {c: value_of(s) for c, s in store.snapshot().items()} == {
        c: pytest.approx(c + 0.2) for c in (0, 1, 10, 11, 100)
    }


def test_a_new_store_finds_the_old_files(tmp_path: Path) -> None:
    handle = FileStore(tmp_path).put(7, state_of(7))
    assert value_of(FileStore(tmp_path).get(7, handle)) == 7


def test_a_damaged_file_is_an_error_and_not_a_new_client(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put(1, state_of(1))
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ConfigError, match="cannot be read"):
        store.get(1)


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    store = FileStore(tmp_path)
    store.put(1, state_of(1))
    store.restore({})
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
