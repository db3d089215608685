"""Notes about classes without samples and samples that are trained and tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.data import Federation, FederationSpec, build_federation
from fedkt.data.notes import class_notes
from fedkt.data.splits import Array
from fedkt.data.targets import TRANSDUCTIVE


def write(folder: Path, name: str, y_train: Array, y_test: Array, **more: Any) -> None:
    rng = np.random.default_rng(list(name.encode()))
    x = rng.normal(size=(len(y_train) + len(y_test), 4)).astype(np.float32)
    arrays = {"x_train": x[: len(y_train)], "x_test": x[len(y_train) :], **more}
    np.savez(folder / f"{name}.npz", y_train=y_train, y_test=y_test, **arrays)


def federation_of(folder: Path, **more: Any) -> Federation:
    spec = {"dataset": "toy", "data_dir": str(folder), "clients": 2, "partition": "iid", **more}
    if "domains" in more:
        del spec["dataset"]
    return build_federation(FederationSpec(**spec))


LABELS = np.arange(200) % 10


# --- classes -------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "empty"), [(3, 18), (2, 9), (1, 0)])
def test_labels_with_gaps_get_a_note(tmp_path: Path, step: int, empty: int) -> None:
    write(tmp_path, "toy", step * LABELS, step * LABELS[:40])
    found = federation_of(tmp_path)
    classes = 9 * step + 1
    assert len(found.classes) == classes
    if not empty:
        assert found.notes == ()
        return
    (note,) = found.notes
    assert note.startswith(f"{empty} of {classes} classes have no samples at all: classes 1, ")
    assert note.endswith("; if labels have gaps, number them 0, ..., K - 1")


def test_a_named_class_without_samples(tmp_path: Path) -> None:
    write(tmp_path, "toy", LABELS % 2, LABELS[:40] % 2, classes=np.array(["cat", "dog", "emu"]))
    assert federation_of(tmp_path).notes == ("1 of 3 classes have no samples at all: class emu",)


@pytest.mark.parametrize(
    ("lacking", "note"),
    [
        ({"train"}, "class 9 has test samples, but no training or public samples"),
        ({"test"}, "class 9 has training and public samples, but no test samples"),
        ({"train", "test"}, "class 9 has public samples, but no training or test samples"),
    ],
)
def test_classes_that_some_sets_lack(tmp_path: Path, lacking: set[str], note: str) -> None:
    fewer = LABELS[LABELS < 9]
    labels = {part: fewer if part in lacking else LABELS for part in ("train", "test")}
    names = np.arange(10).astype(str)
    write(tmp_path, "toy", labels["train"], labels["test"], classes=names)
    if lacking == {"train", "test"}:
        write(tmp_path, "other", LABELS, LABELS, classes=names)
        found = federation_of(tmp_path, public_dataset="other")
    else:
        found = federation_of(tmp_path)
    assert found.notes == (note,)


def test_one_note_for_each_choice_of_sets() -> None:
    labels = {
        "training": np.array([0, 0, 1, 4]), "test": np.array([0, 2, 3]), "public": np.array([0, 4]),
    }  # fmt: skip
    assert class_notes(labels, list("abcdef")) == [
        "1 of 6 classes have no samples at all: class f",
        "class b has training samples, but no test or public samples",
        "classes c, d have test samples, but no training or public samples",
        "class e has training and public samples, but no test samples",
    ]
    assert class_notes({"training": np.arange(3), "test": np.arange(3)}, list("abc")) == []
    assert class_notes({"training": np.arange(3), "test": np.arange(0)}, list("abc")) == []


def test_the_labels_of_a_target_are_not_looked_at(tmp_path: Path) -> None:
    """Only those it is tested by may be known."""
    write(tmp_path, "source", LABELS % 3, LABELS[:40] % 3)
    notes = set()
    for y in (LABELS % 3, LABELS % 4, LABELS % 2):
        write(tmp_path, "target", y, LABELS[:40] % 4, classes=np.array(list("0123")))
        domains = ("source", "target")
        notes.add(federation_of(tmp_path, domains=domains, target="target").notes)
    assert notes == {
        ("source has no samples of class 3", "class 3 has test samples, but no training samples")
    }


# --- duplicates ----------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [0.0, 0.2])
def test_test_samples_that_equal_training_samples_are_counted(
    tmp_path: Path, held_out: float
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 4)).astype(np.float32)
    x[200:230] = x[:30]  # in the test part and the training part
    x[100:140] = x[60:100]  # twice in the training part: tested on if one is held out
    write(tmp_path, "toy", LABELS, LABELS[:40], x_train=x[:200], x_test=x[200:])
    found = federation_of(tmp_path, test_fraction=held_out, validation_fraction=0)
    clients = [found.client(c) for c in range(2)]
    trained = {row.numpy().tobytes() for client in clients for row in client.train.x}
    tests = [row.numpy().tobytes() for client in clients for row in client.test.x]
    tests += [row.tobytes() for row in found.test_x]
    twice = sum(row in trained for row in tests)
    assert twice > (20 if held_out else 15)
    assert f"{twice} of {len(tests)} test samples equal training samples" in found.notes


def test_transductive_tests_count_too(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(240, 4)).astype(np.float32)
    for name in ("source", "target"):
        write(tmp_path, name, LABELS, LABELS[:40], x_train=x[:200], x_test=x[200:])
    found = federation_of(
        tmp_path, domains=("source", "target"), target="target", transductive=True,
        test_fraction=0, validation_fraction=0,
    )  # fmt: skip
    note = "200 of 200 test samples equal training samples"
    assert set(found.notes) == {note, TRANSDUCTIVE}


def test_equal_inputs_in_two_dtypes_are_equal(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, 3), dtype=np.uint8)
    y = np.arange(60) % 2
    floats = pixels.astype(np.float32) / np.float32(255)
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=y, x_test=pixels[:4] // 2, y_test=y[:4])
    np.savez(tmp_path / "b.npz", x_train=floats / 3, y_train=y, x_test=floats[:30], y_test=y[:30])
    spec = FederationSpec(
        domains=("a", "b"), data_dir=str(tmp_path), clients=2, partition="iid", test_fraction=0,
        validation_fraction=0,
    )  # fmt: skip
    federation = build_federation(spec)
    trained = {x.numpy()[0].tobytes() for x in federation.client(0).train.x}
    twice = sum(row.tobytes() in trained for row in federation.test_x)
    assert twice > 15
    assert f"{twice} of 34 test samples equal training samples" in federation.notes


def test_a_data_set_without_either_has_no_notes() -> None:
    assert build_federation(FederationSpec(clients=5)).notes == ()
