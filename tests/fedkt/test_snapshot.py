from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkt import snapshot
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge


def there_and_back(folder: Path, value: Any) -> Any:
    snapshot.save(folder / "s.safetensors", value)
    return snapshot.load(folder / "s.safetensors")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        2.5,
        math.inf,
        "text with @tensor and Ünïcode",
        "",
        [],
        {},
        [1, [2, {"a": None}]],
        {"a": {1: "x", -7: {"b": [False]}}, "@tensor": "not one", "@dict": {}},
        b"\x00\xffbytes",
        b"",
    ],
)
def test_plain_values(tmp_path: Path, value: Any) -> None:
    back = there_and_back(tmp_path, value)
    assert back == value
    assert type(back) is type(value)


def test_keys_keep_their_type_and_order(tmp_path: Path) -> None:
    back = there_and_back(tmp_path, {10: "a", 2: "b", "2": "c"})
    assert list(back.items()) == [(10, "a"), (2, "b"), ("2", "c")]


def test_tuples_come_back_as_lists(tmp_path: Path) -> None:
    assert there_and_back(tmp_path, (1, (2, 3))) == [1, [2, 3]]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).view(2, 3),
        torch.tensor(3.5),
        torch.zeros(0, 4),
        torch.tensor([1, -(2**62)]),
        torch.tensor([True, False]),
        torch.tensor([float("nan"), float("inf"), -0.0]),
        torch.arange(12.0).view(3, 4).T,
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.randn(3).half(),
        torch.randn(3).double(),
        torch.ones(2, requires_grad=True),
    ],
)
def test_tensors_bit_for_bit(tmp_path: Path, tensor: torch.Tensor) -> None:
    back = there_and_back(tmp_path, {"t": tensor})["t"]
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    assert not back.requires_grad
    left, right = (t.detach().contiguous().numpy().tobytes() for t in (back, tensor))
    assert left == right


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    back = there_and_back(tmp_path, [whole, whole, whole[1:3]])
    assert [t.tolist() for t in back] == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2]]


def test_tensors_are_written_from_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state of 1 GB takes no second one in memory while it is saved."""
    state = {f"layer{n}": torch.randn(40, 50) for n in range(5)}
    written: dict[str, torch.Tensor] = {}

    def noting(tensors: dict[str, torch.Tensor], path: Path, metadata: Any) -> None:
        written.update(tensors)
        path.touch()

    monkeypatch.setattr(snapshot, "save_file", noting)
    snapshot.save(tmp_path / "state", {"learner": state, "view": state["layer0"][3:]})
    places = [tensor.data_ptr() for tensor in written.values()]
    assert places[:5] == [tensor.data_ptr() for tensor in state.values()]
    assert places[5] != state["layer0"][3:].data_ptr(), "safetensors refuses shared memory"


def test_knowledge(tmp_path: Path) -> None:
    ids, counts = torch.tensor([4, 1]), torch.tensor([2, 5])
    rows = Knowledge("prototypes", {"values": torch.randn(2, 3)}, ids, counts)
    weights = Knowledge("weights", {"a.b": torch.randn(2), "@x": torch.zeros(1)})
    back = there_and_back(tmp_path, {"fused": {3: [rows, weights]}})["fused"][3]
    assert [k.kind for k in back] == ["prototypes", "weights"]
    assert torch.equal(back[0].values, rows.values)
    assert torch.equal(back[0].ids, ids)
    assert torch.equal(back[0].counts, counts)
    assert set(back[1].tensors) == {"a.b", "@x"}
    assert back[1].ids is None


def test_saving_does_not_change_the_value(tmp_path: Path) -> None:
    tensor = torch.arange(3.0)
    value = {"a": tensor, "b": (1, 2)}
    snapshot.save(tmp_path / "s", value)
    tensor.add_(1)
    assert snapshot.load(tmp_path / "s")["a"].tolist() == [0, 1, 2]
    assert value["b"] == (1, 2)


# --- what cannot be saved ------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [{"a": {1, 2}}, [object()], {"a": np.zeros(2)}, np.int64(3), {(1, 2): "pair"}]
)
def test_other_types_are_refused_when_saving(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ConfigError, match="cannot save a "):
        snapshot.save(tmp_path / "s", value)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    snapshot.save(path, {"round": 1, "t": torch.ones(2)})
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="cannot save a "):
        snapshot.save(path, {"round": 2, "t": torch.zeros(2), "bad": object()})
    assert path.read_bytes() == before
    assert snapshot.load(path)["round"] == 1


def test_a_save_that_fails_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    snapshot.save(path, {"round": 1})
    nameless = torch.zeros(2, dtype=torch.complex128)  # safetensors cannot write this type
    with pytest.raises(Exception, match="complex128"):
        snapshot.save(path, {"round": 2, "t": nameless})
    assert snapshot.load(path) == {"round": 1}


def test_nothing_is_left_beside_the_file(tmp_path: Path) -> None:
    for round_ in range(3):
        snapshot.save(tmp_path / "deep" / "er" / "s", {"round": round_})
    assert [p.name for p in (tmp_path / "deep" / "er").iterdir()] == ["s"]
    assert snapshot.load(tmp_path / "deep" / "er" / "s") == {"round": 2}


# --- damaged files -------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_damaged_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "s"
    snapshot.save(path, {"a": torch.arange(100.0)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=f"{path} cannot be read"):
        snapshot.load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent cannot be read"):
        snapshot.load(tmp_path / "absent")


def test_a_safetensors_file_of_someone_else(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "s")
    with pytest.raises(ConfigError, match="cannot be read"):
        snapshot.load(tmp_path / "s")
