"""Data, models and methods are known by their content, never by a name that stays."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt import registry
from fedkt.clients.turn import read_recipe
from fedkt.data import Dataset, FederationSpec
from fedkt.errors import ConfigError
from fedkt.models import build_model
from fedkt.recipe import Recipe
from fedkt.simulations.engines.population import Population
from fedkt.simulations.runs.plan import federation_of, prepare
from fedkt.simulations.runs.run import execute

MODEL = """
from torch import nn

def own(shape, classes):
    layers = nn.Linear(64, {width}), nn.ReLU(), nn.Linear({width}, classes)
    return nn.Sequential(nn.Flatten(), *layers)
"""
STRATEGY = """
from fedkt.strategies.answers.fedmd import FedMD

class Mine(FedMD):
    # {comment}
    pass
"""
DATA = """
from dataclasses import replace
from fedkt.data import load_dataset

def rows():
    digits = load_dataset("digits")
    return replace(digits, name="rows", x_train={x_train})
"""
TERM = """
from dataclasses import dataclass
from fedkt import objectives, recipe, registry

@registry.register(name="edited-term")
@dataclass(frozen=True)
class Edited(objectives.CrossEntropy):
    version = {version}
"""


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in registry.PARTS:
        registry.names(part)
    known = {part: dict(of) for part, of in registry._known.items()}
    monkeypatch.setattr(registry, "_known", known)


def toy(shift: float) -> Dataset:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 4)) + shift, np.arange(80) % 2
    return Dataset("mine", x, y, x[:20] + 1e-3, y[:20])


# --- within a process ----------------------------------------------------------------------


@pytest.mark.usefixtures("own_registry")
def test_a_data_set_registered_again_gives_its_new_rows() -> None:
    spec = FederationSpec(dataset="mine", clients=2, partition="iid")
    for shift in (0.0, 5.0, 0.0):
        registry.register(part="datasets", name="mine")(lambda shift=shift: toy(shift))
        found = federation_of(spec)
        assert found.pool_x.mean() == pytest.approx(shift, abs=0.3)
        assert federation_of(spec) is found, "the same data are not built twice"


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("role", ["dataset", "domains", "public_dataset"])
def test_a_function_that_returns_other_rows_gives_them(role: str) -> None:
    now = {"shift": 0.0}
    registry.register(part="datasets", name="mine")(lambda: toy(now["shift"]))
    registry.register(part="datasets", name="still")(lambda: dataclasses.replace(toy(1), name="s"))
    values: dict[str, Any] = {
        "dataset": {"dataset": "mine"},
        "domains": {"domains": ("still", "mine")},
        "public_dataset": {"dataset": "still", "public_dataset": "mine"},
    }[role]
    spec = FederationSpec(clients=2, partition="iid", **values)
    first = federation_of(spec).fingerprint()
    now["shift"] = 3.0
    assert federation_of(spec).fingerprint() != first
    now["shift"] = 0.0
    assert federation_of(spec).fingerprint() == first


@pytest.mark.parametrize("reference", ["toy", "folder/toy"])
def test_a_file_written_again_gives_its_new_rows(tmp_path: Path, reference: str) -> None:
    spec = FederationSpec(dataset=reference, data_dir=str(tmp_path), clients=2, partition="iid")
    file = tmp_path / f"{reference}.npz"
    file.parent.mkdir(exist_ok=True)
    for shift in (0.0, 5.0):
        data = toy(shift)
        arrays = {key: getattr(data, key) for key in ("x_train", "y_train", "x_test", "y_test")}
        np.savez(file, **arrays)
        assert federation_of(spec).pool_x.mean() == pytest.approx(shift, abs=0.3)


def test_an_edited_partition_shares_out_anew(tmp_path: Path) -> None:
    file = tmp_path / "shares.py"
    spec = FederationSpec(clients=2, partition=f"{file}:halves")
    sizes = []
    for first in (500, 300):
        file.write_text(
            "import numpy as np\ndef halves(labels, argument, clients, seed, each):\n"
            f"    return [np.arange({first}), np.arange({first}, len(labels))]\n",
            encoding="utf-8",
        )
        sizes.append(int(federation_of(spec).label_counts()[0].sum()))
    assert sizes == [350, 210]


def test_an_edited_model_is_built_as_it_is_now(tmp_path: Path) -> None:
    """Edits of one length within a second: cached bytecode would not see them."""
    file = tmp_path / "nets.py"
    for width in (16, 32, 16):
        file.write_text(MODEL.format(width=width), encoding="utf-8")
        model = build_model(f"{file}:own", (1, 8, 8), 10)
        assert sum(p.numel() for p in model.parameters()) == 65 * width + 10 * (width + 1)


@pytest.mark.usefixtures("own_registry")
def test_an_edited_file_replaces_its_own_parts_and_recipes_read_before(tmp_path: Path) -> None:
    file = tmp_path / "terms.py"
    terms = '[{"@objectives": "edited-term"}]'
    learn = f'{{"@steps": "train", "on": "private", "terms": {terms}}}'
    text = f'{{"learn": [{learn}], "readout": {{"@readouts": "raw"}}}}'
    for version in (1, 2):
        file.write_text(TERM.format(version=version), encoding="utf-8")
        registry.load_file(file)
        assert read_recipe(text).learn[0].terms[0].version == version
    assert Recipe.from_json(text) == read_recipe(text)
    file.write_text("x = 1\n", encoding="utf-8")
    registry.load_file(file)
    with pytest.raises(ConfigError, match="Unknown objective 'edited-term'"):
        read_recipe(text)


def test_a_worker_refuses_another_content(tmp_path: Path, tiny: Any) -> None:
    file = tmp_path / "nets.py"
    file.write_text(MODEL.format(width=16), encoding="utf-8")
    plan = prepare(tiny(models=[f"{file}:own"]))
    Population(plan.population, plan.federation)
    file.write_text(MODEL.format(width=32), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"nets\.py has another content than when this run"):
        Population(plan.population, plan.federation)
    with pytest.raises(ConfigError, match="another content"):
        execute(plan, tmp_path / "run", label="x")
    assert not (tmp_path / "run" / "rounds.jsonl").exists()


def test_an_edit_after_the_start_does_not_reach_a_model_built_later(
    tmp_path: Path, tiny: Any
) -> None:
    file = tmp_path / "nets.py"
    file.write_text(MODEL.format(width=16), encoding="utf-8")
    plan = prepare(tiny(models=[f"{file}:own"]))
    population = Population(plan.population, plan.federation)
    file.write_text(MODEL.format(width=32), encoding="utf-8")
    with pytest.raises(ConfigError, match="another content"):
        population.client(0)


@pytest.mark.ray
def test_a_ray_worker_says_so_in_one_line(tmp_path: Path, tiny: Any) -> None:
    import ray

    from fedkt.simulations.engines.ray_grid import RayGrid

    file = tmp_path / "nets.py"
    file.write_text(MODEL.format(width=16), encoding="utf-8")
    plan = prepare(tiny(models=[f"{file}:own"]))
    file.write_text(MODEL.format(width=32), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"nets\.py has another content") as caught:
        RayGrid(plan.population, plan.federation, workers=1)
    assert "\n" not in str(caught.value)
    assert not ray.is_initialized(), "Ray is left"


# --- on --resume ---------------------------------------------------------------------------


def edit(folder: Path, what: str) -> None:
    """Write the three files of an experiment, one of them edited; ``what`` = "": none."""
    (folder / "nets.py").write_text(
        MODEL.format(width=32 if what == "model" else 16), encoding="utf-8"
    )
    comment = "second" if what == "strategy" else "first!"
    (folder / "mine.py").write_text(STRATEGY.format(comment=comment), encoding="utf-8")
    x = "digits.x_train[::-1]" if what == "data" else "digits.x_train"
    (folder / "data.py").write_text(DATA.format(x_train=x), encoding="utf-8")


def settings(folder: Path) -> dict[str, Any]:
    return {
        "rounds": 1,
        "models": [f"{folder}/nets.py:own"],
        "strategy": {"name": f"{folder}/mine.py:Mine", "local_epochs": 1},
        "data__dataset": f"{folder}/data.py:rows",
    }


CHANGES = pytest.mark.parametrize(
    ("what", "words"),
    [
        ("data", "was begun with other data"),
        ("model", "was begun with another content of .*nets.py"),
        ("strategy", "was begun with another content of .*mine.py"),
    ],
)


@CHANGES
def test_a_run_is_not_resumed_with_other_content(
    here: Path, fedkt: Any, write_toml: Any, no_report: None, what: str, words: str
) -> None:
    edit(here, "")
    toml = write_toml(here, **settings(here))
    begun = fedkt("simulate", toml, "--out", "run")
    assert begun.code == 0, begun.err
    again = ("simulate", toml, "--out", "run", "--resume", "--rounds", 2)
    edit(here, what)
    before = (here / "run" / "rounds.jsonl").read_text(encoding="utf-8")
    refused = fedkt(*again)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert re.search(words, refused.err)
    assert (here / "run" / "rounds.jsonl").read_text(encoding="utf-8") == before
    edit(here, "")
    assert fedkt(*again).code == 0


@pytest.mark.parametrize("lost", ["content", "file"])
def test_a_run_that_does_not_say_its_content_is_not_resumed(
    here: Path, fedkt: Any, write_toml: Any, no_report: None, lost: str
) -> None:
    toml = write_toml(here, rounds=1, models=["linear"])
    assert fedkt("simulate", toml, "--out", "run").code == 0
    file = here / "run" / "federation.json"
    if lost == "file":
        file.unlink()
    else:
        file.write_text("{}", encoding="utf-8")
    refused = fedkt("simulate", toml, "--out", "run", "--resume", "--rounds", 2)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "does not say which data it was begun with" in refused.err


@CHANGES
def test_a_comparison_does_not_mix_contents(
    here: Path, fedkt: Any, write_toml: Any, no_report: None, what: str, words: str
) -> None:
    edit(here, "")
    values = settings(here)
    own = values.pop("strategy")["name"]
    toml = write_toml(here, **values, strategy={"name": "knfu"}, compare__seeds=1)
    more = (toml, "--out", "runs", "--strategies")
    begun = fedkt("compare", *more, f"local,mine = {own}")
    assert begun.code == 0, begun.err
    edit(here, what)
    refused = fedkt("compare", *more, f"local,mine = {own},fedmd", "--resume")
    assert refused.code == 2
    assert re.search(words, refused.err)
    assert not (here / "runs" / "runs" / "fedmd-seed0").exists()


def test_features_are_not_drawn_of_other_data(
    here: Path, fedkt: Any, write_toml: Any, no_report: None
) -> None:
    edit(here, "")
    assert fedkt("simulate", write_toml(here, **settings(here)), "--out", "run").code == 0
    edit(here, "data")
    refused = fedkt("features", "run")
    assert (refused.code, "was begun with other data" in refused.err) == (2, True)


@pytest.mark.usefixtures("own_registry")
def test_rows_that_differ_at_every_call_are_refused(
    here: Path, fedkt: Any, write_toml: Any, no_report: None
) -> None:
    calls: list[int] = []

    def restless() -> Dataset:
        calls.append(1)
        return toy(float(len(calls)))

    registry.register(part="datasets", name="mine")(restless)
    toml = write_toml(here, data__dataset="mine", data__samples_per_client=0)
    refused = fedkt("simulate", toml, "--out", "run", "--set", "data.public_samples=10",
                    "--set", "data.test_samples=10")  # fmt: skip
    assert refused.code == 2
    assert "was run on other data: their source gives new rows" in refused.err


NAMESAKE = """
from dataclasses import dataclass
from typing import ClassVar

from fedkt.objectives import CrossEntropy
from fedkt.registry import register
from fedkt.strategies.answers.fedmd import FedMD

@register
@dataclass(frozen=True)
class Nothing(CrossEntropy):
    name: ClassVar[str] = "cross-entropy"

    def __call__(self, outputs, batch, knowledge):
        return 0.0 * super().__call__(outputs, batch, knowledge)

class Mine(FedMD): ...
"""


@pytest.mark.usefixtures("own_registry")
def test_a_user_s_term_of_a_built_in_s_name_changes_nothing_for_others(
    tmp_path: Path, tiny: Any, figures: Any
) -> None:
    """A file with a cross-entropy of its own, in one process with fedmd."""
    execute(prepare(tiny(strategy={"name": "fedmd"})), tmp_path / "before", label="x")
    (tmp_path / "namesake.py").write_text(NAMESAKE, encoding="utf-8")
    prepare(tiny(strategy={"name": f"{tmp_path}/namesake.py:Mine"}))
    execute(prepare(tiny(strategy={"name": "fedmd"})), tmp_path / "after", label="x")
    assert figures(tmp_path / "after") == figures(tmp_path / "before")
