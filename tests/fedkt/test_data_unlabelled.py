"""Public sets without labels: what a public set normally is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedkt.data import FederationSpec, build_federation
from fedkt.data.dataset import Unlabelled, complete
from fedkt.data.identity import content_of
from fedkt.data.sources import dataset_of
from fedkt.data.vectors import with_features
from fedkt.errors import ConfigError

FUNCTIONS = """
import numpy as np
from fedkt.data import Dataset
from fedkt.data.dataset import Unlabelled

def table():
    x = np.random.default_rng(0).uniform(1, 9, (240, 3)).astype(np.float32)
    return Dataset("table", x[:200], np.arange(200) % 4, x[200:], np.arange(40) % 4,
                   columns=("age", "bp", "chol"))

def inputs():
    return Unlabelled("inputs", np.arange(150, dtype=np.float32).reshape(50, 3))

def many():
    return Unlabelled("many", np.arange(7500, dtype=np.float32).reshape(2500, 3))

def wide():
    return Unlabelled("wide", np.ones((50, 4)))

def renamed():
    return Unlabelled("renamed", np.ones((50, 3)), columns=("age", "chol", "bp"))

def bytes_():
    return Unlabelled("bytes", np.full((9, 8, 8, 3), 255, np.uint8))
"""


@pytest.fixture
def spec(tmp_path: Path) -> FederationSpec:
    file = tmp_path / "mine.py"
    file.write_text(FUNCTIONS, encoding="utf-8")
    return FederationSpec(
        dataset=f"{file}:table", public_dataset=f"{file}:inputs", clients=3, partition="iid"
    )


def test_all_inputs_are_the_public_set_and_have_no_labels(spec: FederationSpec) -> None:
    federation = build_federation(spec)
    public = federation.client(1).public
    assert public is not None
    assert public.y is None
    assert public.x.tolist() == np.arange(150.0).reshape(50, 3).tolist()
    assert federation.describe()["public_dataset"] == "inputs"
    assert len(federation.pool_x) == 200  # the clients keep theirs
    assert federation.notes == ()


def test_a_number_of_them_is_drawn_by_the_seed(spec: FederationSpec) -> None:
    drawn = [build_federation(replace(spec, public_samples=20, seed=s)).public_x for s in (0, 0, 1)]
    assert len(np.unique(drawn[0][:, 0])) == 20
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()
    many = replace(spec, public_dataset=str(spec.public_dataset).replace(":inputs", ":many"))
    assert len(build_federation(many).public_x) == 2000
    with pytest.raises(ConfigError, match="public_samples is 51; inputs has 50"):
        build_federation(replace(spec, public_samples=51))


def test_they_are_scaled_by_themselves(spec: FederationSpec) -> None:
    x = build_federation(replace(spec, scale="standardise")).public_x
    assert x.mean(0) == pytest.approx(0, abs=1e-5)
    assert x.std(0) == pytest.approx(1, abs=1e-5)
    logs = build_federation(replace(spec, features="log")).public_x
    assert np.square(logs).mean(1) == pytest.approx(1, abs=1e-5)


def test_images_get_the_shape_of_the_clients_images(spec: FederationSpec) -> None:
    reference = str(spec.public_dataset).replace(":inputs", ":bytes_")
    digits = replace(spec, dataset="digits", public_dataset=reference, input_shape=(1, 8, 8))
    public = build_federation(digits).client(0).public
    assert public is not None
    assert public.x.shape == (9, 1, 8, 8)
    assert public.x.numpy() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wide", r"public_dataset wide has samples of shape \[4\], table of \[3\]"),
        ("renamed", "Column 1 is 'chol' in renamed and 'bp' in table"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(spec: FederationSpec, name: str, words: str) -> None:
    reference = str(spec.public_dataset).replace(":inputs", f":{name}")
    with pytest.raises(ConfigError, match=words):
        build_federation(replace(spec, public_dataset=reference))


def test_clients_need_labels(spec: FederationSpec) -> None:
    with pytest.raises(ConfigError, match="inputs has no labels; only a public set may have none"):
        build_federation(replace(spec, dataset=str(spec.public_dataset), public_dataset=None))


def test_their_content_counts(spec: FederationSpec) -> None:
    before = content_of(spec)
    file = Path(spec.dataset.rpartition(":")[0])
    other = file.with_name("other.py")
    other.write_text(FUNCTIONS.replace("arange(150", "arange(1, 151"), encoding="utf-8")
    assert content_of(replace(spec, public_dataset=f"{other}:inputs")) != before
    assert content_of(spec) == before


def test_gaps_in_inputs_are_refused() -> None:
    gaps = Unlabelled("gaps", np.array([[1.0, np.nan], [2.0, 3.0]]))
    with pytest.raises(ConfigError, match="gaps: x holds NaN or infinity in 1 of 2 rows"):
        complete(gaps)
    images = dataset_of(Unlabelled("images", np.ones((5, 4, 4))), "images", layout="vector")
    assert images.input_shape == (16,)
    assert with_features(images, "log").x.shape == (5, 16)
