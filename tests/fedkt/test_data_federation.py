from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkt.data import Federation, FederationSpec, Samples, build_federation, load_dataset
from fedkt.errors import ConfigError

SMALL = FederationSpec(clients=5, partition="dirichlet:0.5", seed=1)


@pytest.fixture(scope="module")
def federation() -> Federation:
    return build_federation(SMALL)


def contents(samples: Samples | None) -> set[bytes]:
    assert samples is not None
    return {row.numpy().tobytes() for row in samples.x}


def toy(folder: Path, name: str = "toy", **changed: Any) -> dict[str, Any]:
    """Write 200 + 40 distinct vectors of 4 classes, changed as asked."""
    x = np.arange(240 * 3, dtype=np.float32).reshape(240, 3)
    y = np.arange(240) % 4
    arrays = {"x_train": x[:200], "y_train": y[:200], "x_test": x[200:], "y_test": y[200:]}
    np.savez(folder / f"{name}.npz", **{**arrays, **changed})
    return arrays


def spec_for(folder: Path, **changed: Any) -> FederationSpec:
    return replace(SMALL, dataset="toy", data_dir=str(folder), **changed)


def test_the_data_are_shared_out_without_loss_or_overlap(federation: Federation) -> None:
    clients = [federation.client(i) for i in range(5)]
    first = clients[0]
    assert first.public is not None
    assert first.common_test is not None
    own = [part for c in clients for part in (c.train, c.validation, c.test)]
    ids = torch.cat([first.public.ids, *(s.ids for s in own), first.common_test.ids])

    assert len(torch.unique(ids)) == len(ids)
    assert first.public.ids.tolist() == list(range(287))  # 20 % of 1438
    assert sum(len(s) for s in own) == 1438 - 287
    assert len(first.common_test) == 359


def test_types_and_shapes(federation: Federation) -> None:
    client = federation.client(2)
    assert (client.num_classes, client.input_shape) == (10, (1, 8, 8))
    for samples in (client.train, client.validation, client.test, client.public):
        assert samples is not None
        assert samples.x.dtype == torch.float32
        assert samples.x.shape[1:] == (1, 8, 8)
        assert samples.ids.dtype == torch.int64
        assert samples.y is not None
        assert samples.y.dtype == torch.int64
        assert 0 <= float(samples.x.min()) <= float(samples.x.max()) <= 1
    assert client.common_test is not None
    assert float(client.common_test.x.max()) == 1.0


def test_samples_keep_their_labels(tmp_path: Path) -> None:
    toy(tmp_path)
    federation = build_federation(spec_for(tmp_path))
    for i in range(5):
        client = federation.client(i)
        for samples in (client.train, client.validation, client.test, client.public):
            assert samples is not None
            assert samples.y is not None
            rows = samples.x[:, 0].long() // 3  # the toy's first feature is 3 x its row
            assert samples.y.tolist() == (rows % 4).tolist()
            assert bool((rows < 200).all())


@pytest.mark.parametrize("partition", ["iid", "pathological:2", "shards:2", "quantity:linear"])
def test_public_never_meets_test_data(partition: str) -> None:
    federation = build_federation(replace(SMALL, partition=partition, seed=3))
    public = contents(federation.client(0).public)
    tests = contents(federation.client(0).common_test)
    for i in range(5):
        tests |= contents(federation.client(i).test)
    assert not public & tests


def test_duplicates_are_dropped_from_a_public_set_of_the_same_pool(tmp_path: Path) -> None:
    arrays = toy(tmp_path)
    x = arrays["x_train"].copy()
    x[1::2] = x[::2]  # every sample twice
    toy(tmp_path, x_train=x, x_test=x[:40])
    federation = build_federation(spec_for(tmp_path, partition="iid", deduplicate=True))
    public = federation.client(0).public
    assert public is not None
    tests = contents(federation.client(0).common_test)
    for i in range(5):
        tests |= contents(federation.client(i).test)

    assert not contents(public) & tests
    assert 0 < len(public) < 40
    assert public.ids.tolist() == list(range(len(public)))
    dropped = 40 - len(public)
    note = f"{dropped} public samples equal to test samples were dropped"
    assert note in federation.describe()["notes"]


def test_a_public_set_of_test_copies_only_is_an_error(tmp_path: Path) -> None:
    x = np.ones((200, 3), dtype=np.float32)
    toy(tmp_path, x_train=x)
    with pytest.raises(ConfigError, match="Every public sample"):
        build_federation(spec_for(tmp_path, deduplicate=True))


def test_equal_rows_of_tables_are_counted_and_stay(tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).integers(0, 2, (240, 3)).astype(np.float32)  # 8 rows differ
    toy(tmp_path, x_train=coarse[:200], x_test=coarse[200:])
    spec = spec_for(tmp_path, public_samples=50)
    federation = build_federation(spec)
    assert len(federation.public_x) == 50
    note = "50 of 50 public rows equal test rows, which may be chance in a table with few distinct"
    assert any(line.startswith(note) for line in federation.notes)
    toy(tmp_path, "other", x_train=coarse[:20], y_train=np.arange(20) % 4)
    other = build_federation(replace(spec, public_dataset="other", public_samples=0))
    assert len(other.public_x) == 20
    assert any("20 of 20 public rows equal test rows" in line for line in other.notes)


@pytest.mark.parametrize(("deduplicate", "left"), [(False, 40), (True, 37)])
def test_equal_rows_of_another_table_are_dropped_on_request(
    tmp_path: Path, deduplicate: bool, left: int
) -> None:
    arrays = toy(tmp_path)
    x = arrays["x_train"][:40] + 0.5
    x[:3] = arrays["x_test"][:3]
    toy(tmp_path, "other", x_train=x, y_train=np.arange(40) % 4)
    spec = spec_for(tmp_path, public_dataset="other", deduplicate=deduplicate)
    assert len(build_federation(spec).public_x) == left


def test_without_a_public_set_all_samples_stay_with_the_clients(tmp_path: Path) -> None:
    toy(tmp_path)
    federation = build_federation(spec_for(tmp_path, public=False, public_samples=50))
    assert federation.client(0).public is None
    assert federation.client(0).train.ids.min() >= 0
    assert len(federation.pool_x) == 200
    described = federation.describe()
    assert (described["public"], described["public_dataset"]) == (0, None)
    assert not any("public" in note for note in federation.notes)
    federation.save(tmp_path / "kept")
    assert Federation.load(tmp_path / "kept").client(1).public is None


def test_a_public_set_is_given_or_not(tmp_path: Path) -> None:
    toy(tmp_path)
    with pytest.raises(ConfigError, match="public is false and public_dataset is 'digits'"):
        build_federation(spec_for(tmp_path, public=False, public_dataset="digits"))
    with pytest.raises(ConfigError, match="public is false and target is 'a'"):
        build_federation(FederationSpec(domains=("a", "b"), target="a", public=False))


def test_another_data_set_as_public_set(tmp_path: Path) -> None:
    arrays = toy(tmp_path)
    toy(tmp_path, "other", x_train=arrays["x_train"] + 0.5)
    federation = build_federation(spec_for(tmp_path, public_dataset="other", public_samples=50))
    public = federation.client(0).public

    assert public is not None
    assert len(public) == 50
    assert public.y is not None
    assert bool((public.x % 1 == 0.5).all())
    assert sum(len(federation.client(i).train) for i in range(5)) == 139  # none kept apart
    assert federation.describe()["public_dataset"] == "other"


def test_labels_of_other_classes_are_not_used(tmp_path: Path) -> None:
    arrays = toy(tmp_path)
    toy(tmp_path, "other", x_train=arrays["x_train"] + 0.5, classes=np.array(list("abcd")))
    federation = build_federation(spec_for(tmp_path, public_dataset="other"))
    public = federation.client(0).public

    assert public is not None
    assert len(public) == 200
    assert public.y is None
    assert "labels of public set other are not used" in federation.notes[0]


def test_overlap_of_another_public_set_is_counted(tmp_path: Path) -> None:
    x = np.arange(240 * 4, dtype=np.float32).reshape(240, 2, 2)
    toy(tmp_path, x_train=x[:200], x_test=x[200:])
    copies = x[:200] + 0.5
    copies[[3, 50, 120]] = x[200:203]
    toy(tmp_path, "other", x_train=copies, x_test=x[200:])
    with pytest.raises(ConfigError, match="3 of 200 rows of public_dataset other"):
        build_federation(spec_for(tmp_path, public_dataset="other"))


def test_overlap_is_seen_through_another_dtype(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (240, 2, 2), dtype=np.uint8)
    pixels[200, 0, 0] = 255
    toy(tmp_path, x_train=pixels[:200], x_test=pixels[200:])
    floats = pixels.astype(np.float32)
    toy(tmp_path, "other", x_train=floats[200:], y_train=np.arange(40) % 4, x_test=floats[:40])
    with pytest.raises(ConfigError, match="40 of 40 rows"):
        build_federation(spec_for(tmp_path, public_dataset="other"))


def test_public_set_of_another_shape(tmp_path: Path) -> None:
    toy(tmp_path)
    with pytest.raises(ConfigError, match=r"digits has samples of shape \[1, 8, 8\], toy of \[3\]"):
        build_federation(spec_for(tmp_path, public_dataset="digits"))


def test_each_client_is_split_by_its_own_distribution() -> None:
    federation = build_federation(replace(SMALL, partition="pathological:2"))
    for i in range(5):
        client = federation.client(i)
        assert client.train.y is not None
        assert client.test.y is not None
        train = torch.bincount(client.train.y, minlength=10) / len(client.train)
        test = torch.bincount(client.test.y, minlength=10) / len(client.test)
        assert float((train - test).abs().max()) < 0.03
        total = len(client.train) + len(client.validation) + len(client.test)
        assert abs(len(client.test) - 0.2 * total) <= 0.5
        assert abs(len(client.validation) - 0.1 * total) <= 0.5


def test_samples_per_client_counts_training_samples() -> None:
    federation = build_federation(replace(SMALL, samples_per_client=35))
    sizes = federation.describe()["sizes"]
    assert sizes == {"train": [35] * 5, "validation": [5] * 5, "test": [10] * 5}


def test_tiny_clients_train_on_what_they_have() -> None:
    federation = build_federation(replace(SMALL, clients=1151, partition="iid"))
    client = federation.client(1150)
    assert [len(client.train), len(client.validation), len(client.test)] == [1, 0, 0]
    assert client.test.x.shape == (0, 1, 8, 8)
    assert "1151 of 1151 clients are too small for test samples" in federation.notes


def test_stratified_common_test_set() -> None:
    federation = build_federation(replace(SMALL, test_samples=100))
    common = federation.client(0).common_test
    assert common is not None
    assert common.y is not None
    counts = torch.bincount(common.y)
    assert int(counts.sum()) == 100
    assert 9 <= int(counts.min()) <= int(counts.max()) <= 11


def test_public_set_is_stratified_and_depends_on_the_seed_only() -> None:
    def labels_and_rows(**changed: Any) -> tuple[list[int], set[bytes]]:
        public = build_federation(replace(SMALL, public_samples=100, **changed)).client(0).public
        assert public is not None
        assert public.y is not None
        return torch.bincount(public.y).tolist(), contents(public)

    counts, rows = labels_and_rows()
    assert sum(counts) == 100
    assert max(counts) - min(counts) <= 2
    assert labels_and_rows(clients=7, partition="iid")[1] == rows
    assert labels_and_rows(seed=2)[1] != rows


def test_description(federation: Federation) -> None:
    found = json.loads(json.dumps(federation.describe()))
    counts = federation.label_counts()

    assert found["dataset"] == "digits"
    assert found["clients"] == 5
    assert found["classes"] == [str(k) for k in range(10)]
    assert found["label_counts"] == counts.tolist()
    assert counts.dtype == np.int64
    assert found["sizes"]["train"] == counts.sum(axis=1).tolist()
    assert (found["public"], found["common_test"]) == (287, 359)
    for i in range(5):
        labels = federation.client(i).train.y
        assert labels is not None
        assert torch.bincount(labels, minlength=10).tolist() == counts[i].tolist()


def test_fingerprint_is_of_the_content(federation: Federation) -> None:
    again = build_federation(SMALL)
    other = build_federation(replace(SMALL, seed=2))
    changed = federation.pool_x.copy()
    changed[7, 0, 0] += 1

    assert len(federation.fingerprint()) == 64
    assert again.fingerprint() == federation.fingerprint()
    assert other.fingerprint() != federation.fingerprint()
    assert replace(federation, pool_x=changed).fingerprint() != federation.fingerprint()


def test_save_and_load(federation: Federation, tmp_path: Path) -> None:
    federation.save(tmp_path / "saved")
    loaded = Federation.load(tmp_path / "saved")

    assert isinstance(loaded.pool_x, np.memmap)
    assert loaded.fingerprint() == federation.fingerprint()
    assert loaded.describe() == federation.describe()
    assert torch.equal(loaded.client(3).train.x, federation.client(3).train.x)
    assert replace(loaded, token="other").client(0).public is not None


def test_save_and_load_without_public_labels(tmp_path: Path, federation: Federation) -> None:
    empty = replace(federation, public_x=federation.public_x[:0], public_y=None, token="")
    empty.save(tmp_path)
    loaded = Federation.load(tmp_path)
    assert loaded.public_y is None
    assert loaded.client(0).public is None
    assert loaded.fingerprint() == empty.fingerprint()


def test_loading_what_is_not_there_or_broken(tmp_path: Path, federation: Federation) -> None:
    with pytest.raises(ConfigError, match="no readable federation"):
        Federation.load(tmp_path)
    federation.save(tmp_path)
    (tmp_path / "rows.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ConfigError, match="no readable federation"):
        Federation.load(tmp_path)
    header = json.loads((tmp_path / "federation.json").read_text(encoding="utf-8"))
    (tmp_path / "federation.json").write_text(
        json.dumps({**header, "format": 99}), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="another version"):
        Federation.load(tmp_path)


def test_pickles_to_its_arrays_and_works_on_read_only_ones(federation: Federation) -> None:
    federation.client(0)  # must leave nothing behind in the object
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(federation, protocol=5, buffer_callback=buffers.append)
    frozen = [memoryview(bytes(b.raw())) for b in buffers]
    copy: Federation = pickle.loads(data, buffers=frozen)

    assert len(data) < 4000
    assert not copy.pool_x.flags.writeable
    copy = replace(copy, token="read-only")
    client = copy.client(1)
    assert torch.equal(client.train.x, federation.client(1).train.x)
    client.train.x.add_(1)
    assert client.public is not None
    client.public.x.add_(1)
    assert copy.fingerprint() == federation.fingerprint()


def test_shared_sets_are_made_once_a_process(federation: Federation) -> None:
    copy: Federation = pickle.loads(pickle.dumps(federation))
    assert copy.client(0).public is federation.client(1).public
    assert copy.client(0).common_test is federation.client(4).common_test


@pytest.mark.parametrize("i", [-1, 5])
def test_no_such_client(federation: Federation, i: int) -> None:
    with pytest.raises(ConfigError, match="0 to 4"):
        federation.client(i)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"clients": 0}, "clients must be .* not 0"),
        ({"samples_per_client": -1}, "samples_per_client must be .* not -1"),
        ({"samples_per_client": 500}, r"714 samples each \(500 to train, 71 to validate, 143"),
        ({"public_samples": 1438}, "public_samples is 1438; the training part of digits has 1438"),
        ({"public_samples": -5}, "public_samples must be .* not -5"),
        ({"test_samples": 360}, "test_samples is 360; the test part of digits has 359"),
        ({"validation_fraction": 1.0}, r"validation_fraction must be .* not 1\.0"),
        ({"test_fraction": -0.1}, r"test_fraction must be .* not -0\.1"),
        ({"test_fraction": 0.6, "validation_fraction": 0.4}, "sum must be below 1"),
        ({"clients": 1300}, "1300 clients cannot share 1151 samples"),
        ({"dataset": "digit"}, "Did you mean 'digits'"),
        ({"partition": "idd"}, "Did you mean 'iid'"),
        ({"public_dataset": "digits"}, "public and test data must not overlap"),
    ],
)
def test_bad_specifications(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_federation(replace(SMALL, **changed))


def test_no_public_sample_more_than_there_is(tmp_path: Path) -> None:
    arrays = toy(tmp_path)
    toy(tmp_path, "other", x_train=arrays["x_train"] + 0.5)
    with pytest.raises(ConfigError, match="training part of other has 200"):
        build_federation(spec_for(tmp_path, public_dataset="other", public_samples=201))


def test_the_default_public_set_has_at_most_two_thousand(tmp_path: Path) -> None:
    x = np.arange(12000 * 2, dtype=np.float32).reshape(12000, 2)
    toy(tmp_path, x_train=x, y_train=np.arange(12000) % 4, x_test=-x[1:9], y_test=np.arange(8) % 4)
    federation = build_federation(spec_for(tmp_path, partition="iid"))
    assert federation.describe()["public"] == 2000


def test_import_is_cheap() -> None:
    heavy = "('flwr_datasets', 'datasets', 'sklearn', 'pandas', 'matplotlib', 'ray', 'flwr')"
    code = (
        f"import sys, fedkt.data, fedkt.models\nprint([m for m in {heavy} if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.strip() == "[]"


def test_digits_content_survives(federation: Federation) -> None:
    digits = load_dataset("digits")
    whole = {row.tobytes() for row in digits.x_train / 16}
    held = {row.tobytes() for row in (*federation.pool_x, *federation.public_x)}
    assert held == whole
