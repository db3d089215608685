"""Domain columns (NAME/*, NAME/VALUE) and the forms of feature vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.data import Dataset, Federation, FederationSpec, build_federation, load_dataset
from fedkt.data.columns import column_of, expand, load_domain
from fedkt.data.sources import dataset_of
from fedkt.data.vectors import damped, with_features
from fedkt.errors import ConfigError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_files = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"no data sets in {SHARED.name} beside the project"
)


def write(folder: Path, name: str = "set", **changed: Any) -> dict[str, Any]:
    """Write 90 + 45 vectors of 3 classes and, by domain d of 3, with 10 d in every column."""
    domain = np.arange(135) // 3 % 3
    x = np.random.default_rng(0).normal(10.0 * domain[:, None], size=(135, 4)).astype(np.float32)
    y = np.arange(135) % 3
    arrays = {
        "x_train": x[:90], "y_train": y[:90], "x_test": x[90:], "y_test": y[90:],
        "client_train": domain[:90].astype(np.uint8), "client_test": domain[90:].astype(np.uint8),
        "client_names": np.array(["ann", "bob", "cy"]),
    }  # fmt: skip
    arrays = {key: value for key, value in {**arrays, **changed}.items() if value is not None}
    np.savez(folder / f"{name}.npz", **arrays)
    return arrays


def refusal(folder: Path, *domains: str, **changed: Any) -> str:
    values = {"domains": domains, "data_dir": str(folder), "clients": 6, **changed}
    with pytest.raises(ConfigError) as caught:
        build_federation(FederationSpec(**values))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- columns -------------------------------------------------------------------------------


def test_a_star_stands_for_every_domain_of_the_column(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    assert expand(["digits", "set/*"], tmp_path) == ("digits", "set/ann", "set/bob", "set/cy")
    spec = FederationSpec(domains=("set/*",), data_dir=str(tmp_path), clients=6)
    federation = build_federation(spec)
    assert federation.domains == ("set/ann", "set/bob", "set/cy")
    for i in range(6):
        known = {x.tobytes() for x in arrays["x_train"][arrays["client_train"] == i % 3]}
        assert {x.numpy().tobytes() for x in federation.client(i).train.x} <= known
    one_out = build_federation(
        FederationSpec(domains=("set/*",), data_dir=str(tmp_path), clients=4, target="bob")
    )
    assert one_out.target == "set/bob"
    assert one_out.describe()["domains"] == ["set/ann", "set/cy"] * 2
    assert (len(one_out.public_x), len(one_out.test_x)) == (30, 15)


def test_columns_come_in_several_forms(tmp_path: Path) -> None:
    arrays = write(tmp_path, client_names=None)
    assert expand(["set/*"], tmp_path) == ("set/0", "set/1", "set/2")
    words = np.array(["left", "right", "mid"])
    strings = {f"domain_{p}": words[arrays[f"client_{p}"]] for p in ("train", "test")}
    write(tmp_path, **strings)
    assert expand(["set/*"], tmp_path) == ("set/left", "set/mid", "set/right")
    right = load_domain("set/right", tmp_path)
    assert right.name == "set/right"
    assert np.array_equal(right.x_test, arrays["x_test"][arrays["client_test"] == 1])
    assert np.array_equal(right.y_train, arrays["y_train"][arrays["client_train"] == 1])
    numbers = {f"domain_{p}": arrays[f"client_{p}"] for p in ("train", "test")}
    write(tmp_path, **numbers, domain_names=np.array(["x", "y", "z"]))
    assert expand(["set/*"], tmp_path) == ("set/x", "set/y", "set/z")


def test_a_column_of_a_function(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import numpy as np\nfrom fedkt.data import Dataset\n"
        "def halves():\n"
        "    x, y = np.random.default_rng(0).random((40, 3)), np.arange(40) % 2\n"
        "    d = np.arange(40) // 2 % 2\n"
        "    return Dataset('halves', x, y, x[:8], y[:8], (), d, d[:8], ('up', 'down'))\n",
        encoding="utf-8",
    )
    reference = f"{tmp_path / 'own.py'}:halves"
    assert expand([f"{reference}/*"]) == (f"{reference}/up", f"{reference}/down")
    federation = build_federation(
        FederationSpec(domains=(f"{reference}/*",), clients=1, target="down", deduplicate=True)
    )
    assert federation.target == "halves/down"
    assert len(federation.public_x) + len(federation.test_x) == 20


def test_a_set_of_many_domains_is_opened_once(tmp_path: Path) -> None:
    file, log = tmp_path / "own.py", tmp_path / "calls"
    file.write_text(
        "import numpy as np\nfrom fedkt.data import Dataset\n"
        "def wards():\n"
        f"    open({str(log)!r}, 'a').write('x')\n"
        "    x, y, d = np.arange(80.0)[:, None] * [1, 2], np.arange(80) % 2, np.arange(80) // 4\n"
        "    return Dataset('wards', x, y, x + 0.5, y, (), d, d)\n",
        encoding="utf-8",
    )
    spec = FederationSpec(domains=(f"{file}:wards/*",), clients=20, partition="iid")
    assert len(build_federation(replace(spec, public=False)).domains) == 20
    assert len(log.read_text(encoding="utf-8")) == 2  # for the names of the domains, and for all


def test_a_file_goes_before_a_value(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "set").mkdir()
    write(tmp_path, "set/bob", x_test=np.full((45, 4), 7, np.float32))
    assert (load_domain("set/bob", tmp_path).x_test == 7).all()
    assert len(load_domain("set/ann", tmp_path).x_test) == 15
    alone = FederationSpec(dataset="set/ann", data_dir=str(tmp_path), clients=2)
    assert build_federation(alone).domains == ()


def test_a_domain_knows_all_classes_of_its_set(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    y = arrays["y_train"].copy()
    y[arrays["client_train"] == 1] = 0
    tests = arrays["y_test"].copy()
    tests[arrays["client_test"] == 1] = 0
    write(tmp_path, y_train=y, y_test=tests)
    assert load_domain("set/bob", tmp_path).classes == ("0", "1", "2")
    spec = FederationSpec(domains=("set/*",), data_dir=str(tmp_path), clients=3)
    assert build_federation(spec).notes == ("set/bob has no samples of classes 1, 2",)


def test_errors_of_columns(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    write(tmp_path, "plain", client_train=None, client_test=None)
    assert "plain has no domain column: arrays domain_train" in refusal(tmp_path, "plain/*")
    assert "plain has no domain column" in refusal(tmp_path, "plain/ann")
    assert "Unknown domain of set 'bobb'. Did you mean 'bob'?" in refusal(tmp_path, "set/bobb")
    assert "Unknown data set 'sett'" in refusal(tmp_path, "sett/*")
    assert "Unknown data set 'other/x'" in refusal(tmp_path, "other/x")
    assert "Two domains are called 'set/bob'" in refusal(tmp_path, "set/*", "set/bob")
    assert "clients is 2; 3 domains need" in refusal(tmp_path, "set/*", clients=2)
    for part, what in (("train", "training"), ("test", "test")):
        column = arrays[f"client_{part}"].copy()
        column[column == 2] = 0
        write(tmp_path, **{f"client_{part}": column})
        assert refusal(tmp_path, "set/*") == f"Domain set/cy has no {what} rows."
    write(tmp_path, client_names=np.array(["ann", "bob"]))
    assert "a row is of domain 2 but there are 2 domain names" in refusal(tmp_path, "set/*")
    write(tmp_path, client_test=arrays["client_test"][:5])
    assert "domain_test has shape [5]" in refusal(tmp_path, "set/*")
    write(tmp_path, client_train=arrays["client_train"].astype(float))
    assert "dtype float64; it must hold one integer or string" in refusal(tmp_path, "set/*")
    write(tmp_path, client_train=arrays["client_train"].astype(str))
    assert "both must hold integers or both strings" in refusal(tmp_path, "set/*")


def test_refusals_name_all_that_is_known(tmp_path: Path) -> None:
    write(tmp_path)
    assert "FederationSpec" not in refusal(tmp_path, "set/*", target="bobo")
    assert "Unknown target 'bobo'. Did you mean 'bob'?" in refusal(tmp_path, "set/*", target="bobo")


# --- features ------------------------------------------------------------------------------


def test_every_domain_is_standardised_by_rows_that_no_client_holds_out(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    x = arrays["x_train"].copy()
    x[::7, 2] = np.nan
    write(tmp_path, x_train=x)
    settings: dict[str, Any] = {"data_dir": str(tmp_path), "clients": 6, "features": "standardise"}
    federation = build_federation(FederationSpec(domains=("set/*",), **settings))
    for number in range(3):
        own = [federation.client(c).train.x.numpy() for c in (number, number + 3)]
        public = federation.public_x[number * 6 : (number + 1) * 6]
        known = np.concatenate([*own, public]).astype(np.float64)
        for column in (0, 1, 3):
            assert known[:, column].mean() == pytest.approx(0, abs=1e-5)
            assert known[:, column].var() == pytest.approx(1, abs=1e-4)
        present = known[known[:, 2] != 0, 2]
        assert len(present) < len(known)
        assert present.mean() == pytest.approx(0, abs=1e-5)
    assert np.abs(federation.pool_x).max() < 6, "unstandardised, two domains are 10 and 20 away"
    alone = build_federation(FederationSpec(dataset="set", **settings))
    assert np.isfinite(alone.pool_x).all()


def test_missing_values_are_refused_as_stored(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    x = np.abs(arrays["x_train"])
    x[4, 1] = np.nan
    write(tmp_path, x_train=x, x_test=np.abs(arrays["x_test"]))
    words = 'NaN or infinity in 1 of .* rows; fill or drop them, or set data.features = "standar'
    with pytest.raises(ConfigError, match=words):
        load_dataset("set", tmp_path)
    spec = FederationSpec(domains=("set/*",), data_dir=str(tmp_path), clients=6)
    assert build_federation(spec).gaps() == 1
    assert 'set data.features = "standardise"' in refusal(tmp_path, "set/*", features="log")
    x[4, 1] = np.inf
    write(tmp_path, x_train=x)
    assert "NaN or infinity in 1 of 90" in refusal(tmp_path, "set/*", features="standardise")


def test_damped_counts_have_rows_of_one_length() -> None:
    counts = np.random.default_rng(0).poisson(0.2, (50, 300)).astype(np.uint8)
    counts[0] = 0
    out = damped(counts)
    assert out.dtype == np.float32
    assert not out[0].any()
    assert np.square(out[1:]).mean(1) == pytest.approx(1, abs=1e-5)
    ratio = out[1:] / np.where(counts[1:], np.log1p(counts[1:].astype(np.float64)), 1)
    for row, seen in zip(ratio, counts[1:], strict=True):
        assert np.ptp(row[seen > 0]) < 1e-5, "one factor a row"
        assert not row[seen == 0].any()


def test_log_is_for_counts_and_both_are_for_vectors(tmp_path: Path) -> None:
    write(tmp_path)
    assert 'features is "log" and set/ann holds -' in refusal(tmp_path, "set/*", features="log")
    for how in ("log", "standardise"):
        words = f'features is "{how}" and digits-plain holds images'
        assert words in refusal(tmp_path, "digits-plain", "digits-rotated", features=how)
    words = "features must be one of as-stored, standardise, log, not 'standardize'. Did you mean '"
    assert words in refusal(tmp_path, "set/*", features="standardize")


def test_as_stored_changes_nothing() -> None:
    digits = load_dataset("digits")
    assert with_features(digits, "as-stored") is digits


def test_vectors_of_different_lengths_are_refused(tmp_path: Path) -> None:
    arrays = write(tmp_path, "a")
    write(tmp_path, "b", x_train=arrays["x_train"][:, :3], x_test=arrays["x_test"][:, :3])
    assert "b has samples of shape [3], which cannot be brought to [4]" in refusal(
        tmp_path, "a", "b"
    )


def test_another_public_set_gets_the_same_form(tmp_path: Path) -> None:
    x = write(tmp_path)["x_train"].copy()
    x[:, 0] = np.nan
    write(tmp_path, "more", x_train=np.float32(3) * x)
    spec = FederationSpec(
        domains=("set/*",), data_dir=str(tmp_path), clients=3, features="standardise",
        public_dataset="more",
    )  # fmt: skip
    public = build_federation(spec).public_x
    assert not public[:, 0].any()
    assert public[:, 1].std() == pytest.approx(1, abs=1e-3)


def test_a_data_set_of_integers_has_no_column_by_default() -> None:
    x, y = np.zeros((4, 2)), np.array([0, 1, 0, 1])
    with pytest.raises(ConfigError, match="toy has no domain column"):
        column_of(Dataset("toy", x, y, x, y))


@needs_files
@pytest.mark.parametrize(
    ("name", "domains", "target", "features"),
    [("fsdd", 6, "jackson", "as-stored"), ("heart4", 4, "switzerland", "standardise")],
)
def test_natural_federations(name: str, domains: int, target: str, features: str) -> None:
    settings: dict[str, Any] = {"data_dir": str(SHARED), "features": features}
    whole = FederationSpec(domains=(f"{name}/*",), clients=domains, partition="iid", **settings)
    federation = build_federation(whole)
    assert len(federation.domains) == domains
    assert np.isfinite(federation.pool_x).all()
    one_out = build_federation(
        FederationSpec(domains=(f"{name}/*",), target=target, clients=domains - 1, **settings)
    )
    assert one_out.target == f"{name}/{target}"
    assert one_out.target not in one_out.describe()["domains"]


@needs_files
def test_counts_of_different_descriptors_are_refused() -> None:
    names = ("office_caltech/dslr_googlenet", "office_caltech/webcam_surf")
    assert "cannot be brought to [1024]" in refusal(SHARED, *names)


# --- names of columns ----------------------------------------------------------------------


@pytest.mark.parametrize("key", ["columns", "features"])
def test_a_client_knows_the_names_and_dtypes_of_its_columns(tmp_path: Path, key: str) -> None:
    write(tmp_path, **{key: np.array(["age", "sex", "bp", "chol"]), "classes": np.array([*"abc"])})
    data = build_federation(
        FederationSpec(domains=("set/*",), data_dir=str(tmp_path), clients=3)
    ).client(1)
    assert data.columns == dict.fromkeys(["age", "sex", "bp", "chol"], "float32")
    assert data.classes == ("a", "b", "c")


def test_the_names_of_columns_survive_a_federations_files(tmp_path: Path) -> None:
    write(tmp_path, columns=np.array(["age", "sex", "bp", "chol"]))
    spec = FederationSpec(dataset="set", data_dir=str(tmp_path), clients=3)
    before = build_federation(spec)
    before.save(tmp_path / "kept")
    after = Federation.load(tmp_path / "kept")
    assert after.columns == before.columns == ("age", "sex", "bp", "chol")
    write(tmp_path, columns=np.array(["sex", "age", "bp", "chol"]))
    assert build_federation(spec).fingerprint() != before.fingerprint()


def test_columns_need_a_name_each(tmp_path: Path) -> None:
    write(tmp_path, columns=np.array(["age", "sex"]))
    with pytest.raises(ConfigError, match="columns has 2 names and vectors have 4 columns"):
        load_dataset("set", tmp_path)


def test_an_array_of_numbers_names_no_columns(tmp_path: Path) -> None:
    write(tmp_path, features=np.zeros((90, 7)))
    assert load_dataset("set", tmp_path).columns == ()


def test_tables_with_other_columns_do_not_go_together(tmp_path: Path) -> None:
    one, other = np.array(["age", "sex", "bp", "chol"]), np.array(["sex", "age", "bp", "chol"])
    plain = {"client_train": None, "client_test": None, "client_names": None}
    for name, columns in (("here", one), ("there", other), ("unnamed", None), ("alike", one)):
        write(tmp_path, name, columns=columns, **plain)
    words = "Column 0 is 'sex' in there and 'age' in here; tables that go together must have"
    assert words in refusal(tmp_path, "here", "there")
    spec = FederationSpec(dataset="here", public_dataset="there", data_dir=str(tmp_path), clients=3)
    with pytest.raises(ConfigError, match="Column 0 is 'sex' in there"):
        build_federation(spec)
    alike = build_federation(replace(spec, public_dataset="alike"))
    assert any("public rows equal test rows" in note for note in alike.notes)


def test_class_names_of_a_client_are_one_for_each_class() -> None:
    data = build_federation(FederationSpec(clients=3)).client(0)
    assert replace(data, classes=()).classes == tuple("0123456789")
    with pytest.raises(ConfigError, match="2 class names for 10 classes"):
        replace(data, classes=("benign", "malignant"))


@needs_files
def test_the_columns_of_four_hospitals() -> None:
    spec = FederationSpec(
        domains=("heart4/*",), features="standardise", data_dir=str(SHARED), clients=4
    )
    tables = [[*build_federation(spec).client(i).columns] for i in range(4)]
    assert tables[0][:2] == ["age", "sex"]
    assert all(table == tables[0] and len(table) == 13 for table in tables)


def test_columns_of_objects_are_text() -> None:
    wards = np.array(["a", "b"] * 10, dtype=object)  # as pandas gives them
    arrays = {"x": np.zeros((20, 2)), "y": np.arange(20) % 2, "domain": wards}
    data = dataset_of(arrays, "mine")
    assert isinstance(data, Dataset)
    assert column_of(data).names == ("a", "b")
