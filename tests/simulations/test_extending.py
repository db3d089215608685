"""Every file that the documentation shows works as it is shown: each kind of part, from outside.

Some are changed so that they cannot work, and are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt import Fused, Knowledge, KnowledgeStrategy, Predict, Recipe, Train, Uploads, registry
from fedkt.augmentations import augmentations_of, augmented
from fedkt.data import load_dataset
from fedkt.errors import ConfigError, RunFailedError
from fedkt.objectives import CrossEntropy
from fedkt.recipe import Weighted
from fedkt.simulations.attacks import View
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.experiment.references import read_strategy
from fedkt.simulations.results.rounds import SUMMARY, read_rounds
from fedkt.simulations.runs.plan import Plan, prepare
from fedkt.simulations.runs.run import execute
from fedkt.testing import (
    check_codec,
    check_fusion,
    check_learner,
    check_share,
    check_strategy,
    check_term,
)

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("extending.md", "attacks.md", "comparisons.md")
TEXT = "".join((DOCS / page).read_text(encoding="utf-8") for page in PAGES)
BLOCKS = re.findall(r"```python\n# (\S+)\n(.*?)```", TEXT, re.DOTALL)
CHECKS: dict[str, Callable[[], None]] = {}
KINDS: set[str] = set()  # of parts that are shown


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put all files of the page into the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in BLOCKS:
        Path(name).write_text(text, encoding="utf-8")


def checks(name: str, *kinds: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Return a decorator for the check of a file, which shows some kinds of parts."""
    KINDS.update(kinds)
    return lambda check: CHECKS.setdefault(name, check)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", [name for name, _ in BLOCKS])
def test_the_file_works(name: str) -> None:
    assert CHECKS[name]() is None, "a check asserts for itself"


def test_every_block_is_a_file_and_is_checked() -> None:
    assert TEXT.count("```python\n") == len(BLOCKS)
    assert sorted(CHECKS) == sorted(name for name, _ in BLOCKS)


def test_every_kind_of_part_is_shown() -> None:
    assert set(registry.PARTS) == KINDS


def changed(name: str, old: str, new: str) -> str:
    """Return the name of a new file: one that is shown, with other words."""
    text = dict(BLOCKS)[name]
    assert old in text
    path = Path(f"changed-{len(list(Path().glob('changed-*')))}.py")
    path.write_text(text.replace(old, new), encoding="utf-8")
    return str(path)


def part(kind: str, reference: str, **options: Any) -> Any:
    """Return a part of a file."""
    return registry.lookup(kind, reference)(**options)


def planned(strategy: str = "fedmd(distil_steps=0)", **sections: Any) -> Plan:
    """Return the plan of a small experiment with some other sections or values."""
    base: dict[str, Any] = {
        "rounds": 2,
        "models": ["mlp"],
        "strategy": read_strategy(strategy),
        "data": {"clients": 3, "samples_per_client": 24, "public_samples": 24, "test_samples": 40},
        "training": {"batch_size": 8, "public_batch_size": 12},
        "run": {"grid": "in-process", "workers": 1, "executor": "loop"},
    }
    for name, section in sections.items():
        base[name] = {**base[name], **section} if isinstance(section, dict) else section
    return prepare(parse(base))


def rounds(strategy: str = "fedmd(distil_steps=0)", **sections: Any) -> list[dict[str, Any]]:
    """Run an experiment without failures; return its rounds without the times."""
    folder = Path(f"run-{len(list(Path().glob('run-*')))}")
    execute(planned(strategy, **sections), folder, label="shown")
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_rounds(folder)]
    assert [row["failures"] for row in rows] == [[], []]
    return rows


def in_both(strategy: str = "fedmd(distil_steps=0)", **sections: Any) -> list[dict[str, Any]]:
    """Run an experiment in the loop and in cohorts, which end at equal accuracies."""
    loop = rounds(strategy, **sections)
    cohort = rounds(strategy, **sections, run={"executor": "cohort"})
    assert accuracies(loop) == accuracies(cohort)
    return loop


def accuracies(rows: list[dict[str, Any]]) -> list[float]:
    """Return the clients' accuracies after the last round."""
    return [float(a) for a in rows[-1]["personalised_accuracy"]["per_client"]]


def following(recipe: Recipe) -> str:
    """Return a reference to a method whose clients follow a recipe, and get nothing back."""

    class Following(KnowledgeStrategy):
        def recipe(self) -> Recipe:
            return recipe

        def fuse(self, uploads: Uploads) -> Fused:
            return Fused()

    registry.register_as(Following, "strategies", "following", replace=True)
    return "following"


@checks("mine.py", "strategies")
def mine() -> None:
    in_both("mine.py:Mine(temperature=2)")
    check_strategy("mine.py:Mine", models=["mlp"], level="quick")


@checks("confidence.py", "objectives")
def confidence() -> None:
    term = part("objectives", "confidence.py:Confidence", factor=0.5)
    check_term(term)
    in_both(following(Recipe(learn=[Train("private", [CrossEntropy(), term])])))


@checks("speckle.py", "transforms")
def speckle() -> None:
    noise = part("transforms", "speckle.py:Speckle", deviation=2.0)
    step = Train("private", [CrossEntropy()], transforms=[noise])
    recipe = Recipe(learn=[step])
    assert Recipe.from_json(recipe.to_json()) == recipe
    noisy, again = (rounds(following(recipe)) for _ in range(2))
    assert noisy == again
    assert noisy != rounds(following(Recipe(learn=[Train("private", step.terms)])))


@checks("doubt.py", "shares")
def doubt() -> None:
    check_share(part("shares", "doubt.py:Doubt"))


@checks("shrink.py", "steps")
def shrink() -> None:
    train, step = Train("private", [CrossEntropy()]), part("steps", "shrink.py:Shrink", factor=0.0)
    rows = in_both(following(Recipe(learn=[train, step])))
    assert len(set(rows[-1]["global_accuracy"]["per_client"])) == 1, "weights of 0 answer the same"


@checks("cautious.py", "readouts")
def cautious() -> None:
    in_both("compose(readout=cautious.py:Cautious)", data={"validation_fraction": 0.25})


@checks("eight_bits.py", "codecs")
def eight_bits() -> None:
    check_codec(part("codecs", "eight_bits.py:EightBits"), error=0.05)
    plain, coded = rounds(), rounds(run={"codec": "eight_bits.py:EightBits"})
    assert coded[0]["traffic"]["up"] < plain[0]["traffic"]["up"] / 3


@checks("geometric.py", "fusions")
def geometric() -> None:
    check_fusion(part("fusions", "geometric.py:GeometricMean", power=2.0))
    in_both("compose(fusion=geometric.py:GeometricMean(power=2))")


@checks("centres.py", "heads")
def centres() -> None:
    heads, term = [part("heads", "centres.py:Centres")], part("objectives", "centres.py:CentreLoss")
    check_term(term, heads=heads)
    in_both(following(Recipe(learn=[Train("private", [CrossEntropy(), term])], heads=heads)))


@checks("near.py", "trust-rules")
def near() -> None:
    for method in ("fedmd", "fedpf", "knfu"):
        rows = rounds(f"{method}(trust=near.py:NearMedian(k=0.9))", data={"clients": 5})
        assert min(rows[0]["strategy"]["trust"]) == 0.0, "somebody is far"
    check_fusion(part("fusions", "trusted-mean", choice="near.py:NearMedian"))
    share = planned("fedmd(trust=near.py:NearMedian)").recipe.share[0]
    assert not share.partial, "it compares clients on the same rows"


@checks("small.py", "models")
def small() -> None:
    check_learner("small.py:small")


@checks("centroids.py", "learners")
def centroids() -> None:
    check_learner("centroids.py:Centroids")
    rounds("fedmd", models=["mlp", "centroids.py:Centroids"])


@checks("lion.py", "optimisers")
def lion() -> None:
    in_both(training={"optimiser": "lion.py:Lion", "learning_rate": 0.003})


@checks("cutout.py", "augmentations")
def cutout() -> None:
    in_both(training={"augment": "flip+cutout.py:Cutout(columns=3)"})
    chain = augmentations_of("cutout.py:Cutout(columns=3)")
    found = augmented(chain, torch.ones(50, 1, 4, 6), torch.tensor(0))
    assert (found == 0).sum().item() == 50 * 4 * 3


@checks("sawtooth.py", "schedules")
def sawtooth() -> None:
    schedule = part("schedules", "sawtooth.py:Sawtooth", teeth=3)
    recipe = Recipe(learn=[Train("private", [Weighted(schedule, CrossEntropy())], rate=schedule)])
    assert recipe.follows_progress
    in_both(following(recipe))


@checks("student.py")
def student() -> None:
    rows = rounds("student.py:Student")
    assert rows[-1]["server_accuracy"] is not None
    assert rows[-1]["strategy"]["student_loss"] > 0
    check_strategy("student.py:Student", models=["mlp"])


@checks("lines.py", "readers")
def lines() -> None:
    registry.load_file("lines.py")
    rows = [{"age": age, "label": "old" if age > 50 else "young"} for age in range(20, 90)]
    Path("people.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    people = load_dataset("people.jsonl")
    assert (people.columns, people.classes) == (("age",), ("old", "young"))


@checks("blobs.py", "datasets", "partitions")
def blobs() -> None:
    data = {
        "dataset": "blobs.py:blobs", "partition": "blobs.py:halves",
        "samples_per_client": 0, "public_samples": 20,
    }  # fmt: skip
    rounds(data=data)
    sizes = planned(data=data).federation.label_counts().sum(1)
    assert sizes[0] > 1.5 * sizes[1]


@checks("backwards.py", "engines")
def backwards() -> None:
    assert rounds(run={"grid": "backwards.py:Backwards"}) == rounds()
    one_by_one = changed("backwards.py", "    def start", "    one_by_one = True\n\n    def start")
    run = {"grid": f"{one_by_one}:Backwards", "executor": "auto"}
    assert planned(run=run).experiment.run.plan == {"mlp": "loop"}


@checks("sceptic.py", "attacks")
def sceptic() -> None:
    assert rounds(attack="sceptic.py:sceptic:1") != rounds()
    own = torch.eye(4)
    target = Knowledge.rows("probabilities", own)
    view = View(own, own[None], own[None], own, torch.arange(4), target, seed=0, round=2, client=0)
    doubted = part("attacks", "sceptic.py:sceptic", view=view, doubt=1.0).softmax(-1)
    assert torch.allclose(doubted.diagonal(), torch.zeros(4), atol=1e-5), "not what was fused"


@checks("kappa.py", "metrics")
def kappa() -> None:
    names = ["macro-f1", "kappa.py:Kappa"]
    keys = {f"{on}_{name}" for on in ("personalised", "global", "validation")
            for name in ("macro_f1", "kappa")}  # fmt: skip
    for personalised in ("split", "matched"):
        base = {"personalised": personalised}
        plain, measured = rounds(run=base), rounds(run={**base, "metrics": names})
        folder = max(Path().glob("run-*"), key=lambda path: int(path.name[4:]))
        for row, before in zip(measured, plain, strict=True):
            assert {k: v for k, v in row.items() if k not in keys} == before, "all else is the same"
            assert all(None not in row[key]["per_client"] for key in keys)
            assert row["global_kappa"]["mean"] < row["global_accuracy"]["mean"]
        cohort = rounds(run={**base, "metrics": names, "executor": "cohort"})
        for key in keys:
            assert cohort[-1][key]["mean"] == pytest.approx(measured[-1][key]["mean"])
        last = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["last"]
        assert last["personalised_kappa"] == measured[-1]["personalised_kappa"]["mean"]


REFUSED: dict[str, tuple[str, str, str, Callable[[str], Any], str]] = {
    "an optimiser without a step": (
        "lion.py", "def update", "def nothing",
        lambda file: planned(training={"optimiser": f"{file}:Lion"}),
        "optimiser Lion must define update or build",
    ),
    "an unknown option": (
        "near.py", "k: float", "other: float",
        lambda file: planned(f"fedpf(trust={file}:NearMedian(k=2))"),
        "Unknown option of trust rule .*NearMedian 'k'",
    ),
    "trust in no number": (
        "near.py", ".float()", ".float() * float('nan')",
        lambda file: rounds(f"fedmd(trust={file}:NearMedian)", data={"clients": 5}),
        r"near-median' must give 5 numbers in \[0, 1\]",
    ),
    "an unknown engine": (
        "backwards.py", "class Backwards", "class Backward",
        lambda file: planned(run={"grid": f"{file}:Backwards"}),
        r"run\.grid: Unknown engine in .*Did you mean 'Backward'",
    ),
    "a budget that training alone cannot have": (
        "shrink.py", "    def run", "    def budget(self, *_):\n        return 7\n\n    def run",
        lambda file: planned(following(
            Recipe(learn=[part("steps", f"{file}:Shrink")], share=[Predict()])
        )),
        "step Shrink says that it trains on 7 private samples, and the Train of its as_train",
    ),
    "a model without weights": (
        "centroids.py", "", "",
        lambda file: planned("fedavg", models=[f"{file}:Centroids"]),
        "needs a network as model",
    ),
    "a model of no learner": (
        "small.py", "return nn.Sequential(", "return 'a tree' or (",
        lambda file: planned(models=[f"{file}:small"]),
        r"gives a 'str' object, neither a torch module nor .* takes it",
    ),
    "a metric out of its bounds": (
        "kappa.py", "(-1.0, 1.0)", "(-2.0, -1.0)",
        lambda file: planned(run={"metrics": [f"{file}:Kappa"]}),
        "metric kappa is .* its bounds are -2 and",
    ),
    "a metric that fails": (
        "kappa.py", "cells.trace()", "cells.track()",
        lambda file: planned(run={"metrics": [f"{file}:Kappa"]}),
        "metric kappa: AttributeError",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(case: str) -> None:
    name, old, new, use, line = REFUSED[case]
    with pytest.raises((ConfigError, RunFailedError), match=line):
        use(changed(name, old, new))


@pytest.mark.usefixtures("files")
def test_an_optimiser_of_torch_runs_in_the_loop() -> None:
    lion = dict(BLOCKS)["lion.py"]
    step = lion[lion.index("    momentum") :]
    build = (
        "    def build(self, parameters, rate):\n        return torch.optim.Rprop(parameters, rate)"
    )
    file = changed("lion.py", step, build)
    training = {"optimiser": f"{file}:Lion"}
    assert min(accuracies(rounds(training=training))) > 0.2
    assert planned(training=training, run={"executor": "auto"}).experiment.run.plan == {
        "mlp": "loop"
    }
    with pytest.raises(ConfigError, match=r"Lion is stepped by torch\.optim, one model at a time"):
        planned(training=training, run={"executor": "cohort"})
