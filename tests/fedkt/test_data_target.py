"""Federations with an unlabelled target domain."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkt.data import ClientData, Federation, FederationSpec, Samples, build_federation
from fedkt.data.sources import load_dataset
from fedkt.data.targets import TRANSDUCTIVE, short_names
from fedkt.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
DIGITS = ("digits-plain", "digits-inverted", "digits-rotated", "digits-blurred")


def spec_for(target: str | None, **changed: Any) -> FederationSpec:
    settings: dict[str, Any] = {"domains": DIGITS, "clients": 6, "seed": 3, "target": target}
    return FederationSpec(**{**settings, **changed})


def write(folder: Path, name: str, seed: int = 0, **changed: Any) -> dict[str, Any]:
    """Write 80 + 40 bright random images of 4 classes."""
    rng = np.random.default_rng(seed)
    x = rng.integers(100, 256, (120, 4, 4), dtype=np.uint8)
    y = np.arange(120) % 4
    arrays = {"x_train": x[:80], "y_train": y[:80], "x_test": x[80:], "y_test": y[80:], **changed}
    np.savez(folder / f"{name}.npz", **arrays)
    return arrays


def toys(folder: Path, **changed: Any) -> FederationSpec:
    for seed, name in enumerate("abc"):
        if not (folder / f"{name}.npz").is_file():
            write(folder, name, seed)
    settings: dict[str, Any] = {"domains": tuple("abc"), "clients": 4, "data_dir": str(folder)}
    return FederationSpec(**{**settings, **changed})


def contents(samples: Samples | None) -> set[bytes]:
    assert samples is not None
    return {row.numpy().tobytes() for row in samples.x}


def stored(name: str, part: str) -> set[bytes]:
    x = getattr(load_dataset(name), f"x_{part}") / 16
    return {row[None].astype(np.float32).tobytes() for row in x}


def everything(federation: Federation) -> dict[str, bytes]:
    arrays = {k: v.tobytes() for k, v in federation._arrays().items()}
    return {**arrays, "header": json.dumps(federation._header()).encode()}


# --- who holds what ------------------------------------------------------------------------


@pytest.mark.parametrize("target", DIGITS)
def test_clients_own_the_sources_and_the_target_is_public(target: str) -> None:
    federation = build_federation(spec_for(target))
    sources = [name for name in DIGITS if name != target]
    described = federation.describe()
    assert described["domains"] == sources * 2
    assert (described["target"], described["transductive"]) == (target, False)
    assert described["public_dataset"] == target
    client = federation.client(0)
    assert client.public is not None
    assert client.public.y is None
    assert federation.public_y is None
    assert contents(client.public) == stored(target, "train"), "the whole training part"
    assert contents(client.common_test) == stored(target, "test"), "the whole test part"
    for i in range(6):
        own = federation.client(i)
        held = contents(own.train) | contents(own.validation) | contents(own.test)
        assert held <= stored(sources[i % 3], "train")
    assert federation.test_domain is not None
    assert set(federation.test_domain) == {DIGITS.index(target)}


def test_ids_are_disjoint_and_public_ones_first() -> None:
    federation = build_federation(spec_for("digits-rotated"))
    clients = [federation.client(i) for i in range(6)]
    own = [part for c in clients for part in (c.train, c.validation, c.test)]
    groups = [clients[0].public, *own, clients[0].common_test]
    ids = [int(i) for samples in groups if samples is not None for i in samples.ids]
    assert len(ids) == len(set(ids))
    assert ids[: len(federation.public_x)] == list(range(len(federation.public_x)))


def test_the_samples_of_a_source_do_not_depend_on_the_target() -> None:
    """Nine clients: every domain has three, whichever of the others is the target."""
    found: dict[str, set[bytes]] = {}
    for target in DIGITS:
        federation = build_federation(spec_for(target, clients=9))
        owned = federation.describe()["domains"]
        for name in set(owned):
            split = b"".join(
                b"|" + (part.x.numpy().tobytes() + _labels(part))
                for i in range(9)
                if owned[i] == name
                for part in _parts(federation.client(i))
            )
            found.setdefault(name, set()).add(split)
    assert {name: len(splits) for name, splits in found.items()} == dict.fromkeys(DIGITS, 1)


def _parts(client: ClientData) -> tuple[Samples, Samples, Samples]:
    return client.train, client.validation, client.test


def _labels(samples: Samples) -> bytes:
    assert samples.y is not None
    return samples.y.numpy().tobytes()


def test_the_sets_can_be_limited() -> None:
    federation = build_federation(spec_for("digits-plain", public_samples=50, test_samples=20))
    assert (len(federation.public_x), len(federation.test_x)) == (50, 20)
    client = federation.client(0)
    assert contents(client.public) < stored("digits-plain", "train")
    assert contents(client.common_test) < stored("digits-plain", "test")
    other = build_federation(spec_for("digits-plain", public_samples=50, seed=4))
    assert contents(other.client(0).public) != contents(client.public)


def test_by_default_at_most_two_thousand_are_public(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (2500, 4, 4), dtype=np.uint8)
    write(tmp_path, "b", x_train=x, y_train=np.arange(2500) % 4)
    assert len(build_federation(toys(tmp_path, target="b")).public_x) == 2000
    assert len(build_federation(toys(tmp_path, target="b", public_samples=2400)).public_x) == 2400


def test_source_clients_have_no_matched_test_samples() -> None:
    federation = build_federation(spec_for("digits-plain"))
    matched = federation.client(1).matched_test
    assert matched is not None
    assert len(matched) == 0


def test_a_target_without_a_target_is_the_federation_of_before() -> None:
    plain = build_federation(spec_for(None))
    assert plain.target == ""
    assert plain.describe()["target"] is None
    assert build_federation(spec_for("")).fingerprint() == plain.fingerprint()


# --- labels of the target ------------------------------------------------------------------


@pytest.mark.parametrize("public_samples", [0, 30])
@pytest.mark.parametrize("how", ["shuffled", "all the same"])
def test_the_labels_of_the_targets_training_part_are_nowhere(
    tmp_path: Path, public_samples: int, how: str
) -> None:
    spec = toys(tmp_path, target="b", public_samples=public_samples)
    before = everything(build_federation(spec))
    arrays = write(tmp_path, "b", 1)
    y = np.random.default_rng(5).permutation(arrays["y_train"])
    write(tmp_path, "b", 1, y_train=y if how == "shuffled" else np.zeros_like(y))
    assert everything(build_federation(spec)) == before


def test_in_a_transductive_federation_they_are_test_labels_only(tmp_path: Path) -> None:
    spec = toys(tmp_path, target="b", transductive=True, public_samples=30)
    before = everything(build_federation(spec))
    arrays = write(tmp_path, "b", 1)
    write(tmp_path, "b", 1, y_train=np.random.default_rng(5).permutation(arrays["y_train"]))
    after = everything(build_federation(spec))
    assert {key for key in before if before[key] != after[key]} == {"test_y"}


# --- transductive --------------------------------------------------------------------------


def test_a_transductive_federation_tests_on_the_public_set() -> None:
    federation = build_federation(spec_for("digits-plain", transductive=True, public_samples=60))
    client = federation.client(0)
    assert client.public is not None
    assert client.common_test is not None
    assert client.public.y is None
    assert torch.equal(client.public.x, client.common_test.x)
    assert not set(client.public.ids.tolist()) & set(client.common_test.ids.tolist())
    known = load_dataset("digits-plain")
    of = {x.tobytes(): y for x, y in zip(known.x_train / 16, known.y_train, strict=True)}
    expected = [of[row.tobytes()] for row in federation.test_x]
    assert federation.test_y.tolist() == expected
    assert TRANSDUCTIVE in federation.notes
    assert federation.describe()["transductive"] is True


def test_target_and_transductive_are_kept_in_files(tmp_path: Path) -> None:
    federation = build_federation(spec_for("digits-plain", transductive=True))
    federation.save(tmp_path / "saved")
    loaded = Federation.load(tmp_path / "saved")
    assert (loaded.target, loaded.transductive) == ("digits-plain", True)
    assert loaded.fingerprint() == federation.fingerprint()
    assert replace(federation, target="x").fingerprint() != federation.fingerprint()


# --- overlap -------------------------------------------------------------------------------


def test_rows_that_equal_test_rows_leave_the_pool(tmp_path: Path) -> None:
    arrays = write(tmp_path, "b", 1)
    x = arrays["x_train"].copy()
    x[:3] = arrays["x_test"][:3]
    write(tmp_path, "b", 1, x_train=x)
    federation = build_federation(toys(tmp_path, target="b"))
    assert len(federation.public_x) == 77
    assert "3 public samples equal to test samples were dropped" in federation.notes
    whole = build_federation(toys(tmp_path, target="b", transductive=True))
    assert len(whole.public_x) == 80, "there the pool is the test set"
    assert len(whole.test_x) == 80


def test_samples_that_source_clients_are_tested_on_leave_the_pool_in_any_case(
    tmp_path: Path,
) -> None:
    first = write(tmp_path, "a", 0)
    write(tmp_path, "b", 1, x_train=first["x_train"])
    spec = toys(tmp_path, target="b", transductive=True)
    federation = build_federation(spec)
    tested = sum(len(federation.client(i).test) for i in (0, 2))
    assert tested > 0
    assert len(federation.public_x) == len(federation.test_x) == 80 - tested


def test_an_empty_pool_is_an_error(tmp_path: Path) -> None:
    arrays = write(tmp_path, "b", 1)
    twice = np.concatenate([arrays["x_test"]] * 2)
    write(tmp_path, "b", 1, x_train=twice)
    with pytest.raises(ConfigError, match="Every public sample of b is also a test sample"):
        build_federation(toys(tmp_path, target="b"))


# --- missing classes -----------------------------------------------------------------------


def without(arrays: dict[str, Any], *classes: int) -> dict[str, Any]:
    out = {}
    for part in ("train", "test"):
        kept = ~np.isin(arrays[f"y_{part}"], classes)
        out |= {f"{key}_{part}": arrays[f"{key}_{part}"][kept] for key in "xy"}
    return out


@pytest.mark.parametrize(("target", "kept"), [("a", 20), ("b", 40)])
def test_sources_and_targets_may_lack_classes(tmp_path: Path, target: str, kept: int) -> None:
    arrays = write(tmp_path, "a", 0)
    write(tmp_path, "a", 0, **without(arrays, 1, 3))
    federation = build_federation(toys(tmp_path, target=target))
    assert federation.classes == ("0", "1", "2", "3")
    assert len(federation.test_y) == kept
    own = {
        "a": ("classes 1, 3 have training samples, but no test samples",),
        "b": ("a has no samples of classes 1, 3",),
    }
    assert federation.notes == own[target]
    assert federation.label_counts().shape == (4, 4)


def test_only_test_labels_tell_what_a_target_lacks(tmp_path: Path) -> None:
    arrays = write(tmp_path, "a", 0)
    lacking = without(arrays, 2)
    changed = {"x_test": lacking["x_test"], "y_test": lacking["y_test"]}
    write(tmp_path, "a", 0, **changed)
    federation = build_federation(toys(tmp_path, target="a"))
    assert federation.notes == ("class 2 has training samples, but no test samples",)
    assert build_federation(toys(tmp_path, target="b")).notes == ()


def test_long_lists_of_classes_are_cut(tmp_path: Path) -> None:
    write(tmp_path, "b", 1, classes=np.arange(20).astype(str))
    notes = build_federation(toys(tmp_path)).notes
    assert notes[0] == "a has no samples of classes 4, 5, 6, 7, 8, 9, 10, 11, 12, 13 and 6 more"


# --- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"target": "digits-rotate"}, "Unknown target 'digits-rotate'. Did you mean 'digits-rot"),
        ({"target": "each"}, "only fedkt compare does; else name one of digits-plain, "),
        ({"domains": ("digits",), "target": "digits"}, "target is 'digits', the only domain"),
        ({"domains": (), "target": "digits"}, "target is 'digits', but domains is empty"),
        ({"clients": 2}, "clients is 2; 3 source domains need at least 3"),
        ({"public_dataset": "digits"}, "public_dataset is 'digits' and target is 'digits-plain'"),
        ({"public_samples": 999}, "public_samples is 999; the training part of target digits-plai"),
        ({"test_samples": 99}, "test_samples is 99; the test part of digits-plain has 90"),
        ({"transductive": True, "target": None}, "transductive is true, but there is no target"),
        ({"transductive": True, "test_samples": 9}, "test_samples is 9 and transductive is true"),
    ],
)
def test_bad_specifications(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_federation(spec_for("digits-plain", **changed) if "target" not in changed
                         else spec_for(**changed))  # fmt: skip
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_targets_by_the_last_part_of_their_names(tmp_path: Path) -> None:
    for place, name in enumerate(("x/a", "y/a", "y/b")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path, name, place)
    names = ("x/a", "y/a", "y/b")
    spec = FederationSpec(domains=names, data_dir=str(tmp_path), clients=4)
    for target in ("y/b", "b"):
        assert build_federation(replace(spec, target=target)).target == "y/b"
    assert build_federation(replace(spec, target="y/a")).target == "y/a"
    with pytest.raises(ConfigError, match=r"target 'a' may be x/a or y/a; write which\."):
        build_federation(replace(spec, target="a"))
    with pytest.raises(ConfigError, match=r"Unknown target 'y/c'\. Did you mean 'y/"):
        build_federation(replace(spec, target="y/c"))
    assert short_names([*names, "own.py:bright", "d.npz"]) == ["x/a", "y/a", "b", "bright", "d"]


# --- the documentation, and real files -----------------------------------------------------


def documented() -> dict[str, Any]:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    section = page.split("## Domain adaptation")[1]
    return tomllib.loads(section.split("```toml")[1].split("```")[0])


def test_the_documented_federation_can_be_built() -> None:
    data = documented()["data"]
    spec = FederationSpec(**{**data, "domains": tuple(data["domains"])})
    assert build_federation(spec).target == data["target"]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data sets in {SHARED.name} beside the project")
def test_stored_digits_with_usps_as_the_target() -> None:
    names = tuple(f"digits5/{n}" for n in ("mnist", "usps", "mnistm", "synth"))
    spec = FederationSpec(
        domains=names, target="usps", data_dir=str(SHARED), clients=3, input_shape=(3, 16, 16)
    )
    federation = build_federation(spec)
    assert federation.target == "digits5/usps"
    assert (len(federation.public_x), len(federation.test_x)) == (2000, 2007)
    assert federation.public_y is None
    assert federation.notes == ()
