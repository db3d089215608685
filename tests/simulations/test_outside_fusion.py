"""A fusion and a divergence in a file of a user's: by name in ``compose``, with no other edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt.errors import ConfigError
from fedkt.fusion import Median
from fedkt.objectives import MSE
from fedkt.simulations.experiment import config
from fedkt.simulations.experiment.references import absolute, read_strategy
from fedkt.simulations.results import checkpoints
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute
from fedkt.strategies import KnowledgeStrategy
from fedkt.strategies.answers.compose import Compose
from fedkt.strategies.construction import make_strategy

FILE = '''
from dataclasses import dataclass
from typing import ClassVar

from fedkt import Fusion, Knowledge, register
from fedkt.options import Positive

CLIENTS = 3


@register
@dataclass(frozen=True)
class GeometricMean(Fusion):
    """The normalised geometric mean of probabilities, to a power."""

    power: Positive = 1.0

    def __call__(self, stack, round):
        round.diagnostics["clients"] = list(stack.clients)
        logits = stack.values.clamp_min(1e-12).log().mean(0)
        return Knowledge("probabilities", {"values": (self.power * logits).softmax(-1)}, stack.ids)


@register(name="brier")
@dataclass(frozen=True)
class Brier:
    """The squared difference of probabilities."""

    part: ClassVar[str] = "objectives"
    factor: Positive = 1.0

    def __call__(self, logits, target, kind):
        return self.factor * (logits.softmax(-1) - target).square().sum(-1)


@register
@dataclass(frozen=True)
class Broken(Fusion):
    """No fusion at all."""

    def __call__(self, stack, round):
        return stack.values[1, 2, 3, 4]


@register(part="fusions")
def plain(stack=None):
    """A function is no fusion."""
    return stack


class Unfinished(Fusion):
    """A fusion without a rule."""
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE, encoding="utf-8")
    return path


def run(folder: Path, tiny: Any, reference: str, **changes: Any) -> tuple[Any, list[Any], Any]:
    """Run a combination for two rounds; return its plan, its rounds, and the clients' states."""
    plan = prepare(tiny(rounds=2, strategy=read_strategy(reference), **changes))
    execute(plan, folder, label="own")
    saved = checkpoints.newest(folder / "checkpoints", at_most=2)
    assert saved is not None
    return plan, list(read_rounds(folder)), saved[1]["clients"]


def test_it_runs_in_both_executors(tmp_path: Path, tiny: Any, file: Path) -> None:
    reference = (
        f"compose(fusion={file}:GeometricMean(power=2), objective={file}:Brier(factor=3), "
        "private=cross-entropy, local_epochs=1, distil_epochs=1)"
    )
    states = {}
    for executor in ("loop", "cohort"):
        plan, rounds, states[executor] = run(
            tmp_path / executor, tiny, reference, run__executor=executor, models=("mlp",)
        )
        assert [row["failures"] for row in rounds] == [[], []]
        assert rounds[0]["strategy"]["clients"] == [*range(len(states[executor]))]
        assert list(plan.files) == [str(file)], "a run knows the content of the file"
    for client, state in states["loop"].items():
        for name, tensor in state["learner"]["model"].items():
            other = states["cohort"][client]["learner"]["model"][name]
            assert torch.allclose(tensor, other, atol=1e-4)


def test_the_experiment_of_the_run_directory_runs_again_from_elsewhere(
    here: Path, tiny: Any
) -> None:
    (here / "mine.py").write_text(FILE, encoding="utf-8")
    reference = "compose(fusion=mine.py:GeometricMean, local_epochs=1, distil_epochs=1)"
    plan, _, _ = run(here / "run", tiny, reference)
    again = config.parse(config.load(here / "run" / "config.toml"))
    assert again.strategy["fusion"] == f"{here / 'mine.py'}:GeometricMean"
    assert again.strategy["objective"] == "distil"
    assert prepare(again).content == plan.content
    (here / "mine.py").write_text(FILE + "\n", encoding="utf-8")
    assert prepare(again).content != plan.content, "identity is content"


def test_paths_in_options_are_made_absolute(here: Path) -> None:
    reference = "a.py:A(x=b/c.py:B(y=1), z=mean)"
    assert absolute(reference) == f"{here}/a.py:A(x={here}/b/c.py:B(y=1), z=mean)"
    assert absolute("trimmed-mean(trim=0.1)") == "trimmed-mean(trim=0.1)"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("fusion={file}:GeometricMean(power=0)", r"fusion.power = 0 .*above 0"),
        ("fusion={file}:GeometricMeen", "Did you mean 'GeometricMean'"),
        ("fusion={file}:Broken", "fusion broken .* do not go together: IndexError: "),
        ("fusion={file}:Unfinished", "is not complete: it does not define __call__"),
        ("fusion={file}:plain", "is no fusion: it makes NoneType"),
        ("fusion={file}:CLIENTS", "cannot be made: TypeError"),
        ("fusion={file}:GeometricMean, form=labels", "do not go together: "),
        ("form=labels", "labels cannot be averaged; share probabilities or logits"),
        ("form=labels, fusion=median", "labels cannot be averaged"),
        ("form=labels, fusion=sample-weighted-mean", "logits or probabilities, not labels"),
        ("objective=mse", "mse compares logits and the fused knowledge holds probabilities"),
        ("objective=supported(source=public)", "these probabilities come without counts"),
        ("objective=cross-entropy", "reads no knowledge; it must read 'public' alone"),
        ("objective=distil(source=votes)", "reads votes; it must read 'public' alone"),
        ("objective=distil(divergence=kl(temperature=0))", r"objective.temperature = 0 \(kl\)"),
        ("fusion=trimmed-mean(trim=0.5)", r"fusion.trim = 0.5 \(trimmed-mean\)"),
        ("fusion=meen", "Unknown fusion 'meen'. Did you mean 'mean'?"),
        ("fusion=mean(", "write name"),
        ("codec=float61", "Unknown codec 'float61'. Did you mean 'float16'?"),
        ("readout=priors", "Unknown read-out 'priors'. Did you mean 'prior'?"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(options: str, says: str, file: Path) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        make_strategy(read_strategy(f"compose({options.format(file=file)})")).recipe()
    assert "\n" not in str(caught.value)


def test_parts_may_be_objects() -> None:
    strategy = Compose(objective=MSE(), fusion=Median(), form="logits")
    assert isinstance(strategy, KnowledgeStrategy)
    named = make_strategy(read_strategy("compose(objective=mse, fusion=median, form=logits)"))
    assert strategy.recipe() == named.recipe()
    assert Compose(objective="kl(temperature=2)").recipe().share[0].temperature == 2.0


def test_a_schedule_is_said() -> None:
    assert Compose(objective="ramped(term=distil)").follows_progress
    scheduled = "distil(divergence=kl(temperature=cosine(start=4, end=1)))"
    assert Compose(objective=scheduled, form="logits").follows_progress
    assert not Compose().follows_progress


def test_a_run_of_few_rows(tiny: Any, tmp_path: Path) -> None:
    _, rounds, _ = run(
        tmp_path / "run", tiny, "compose(public_samples=5, form=labels, fusion=vote)"
    )
    assert [row["failures"] for row in rounds] == [[], []]
    assert set(rounds[0]["strategy"]) == {"agreement", "ties"}
