"""What a script or a session without files defines: at the workers, and in later sessions."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

SCRIPT = """
from __future__ import annotations
import sys
import numpy as np
from dataclasses import dataclass
from torch import nn
import fedkt
from fedkt import KnowledgeStrategy, Predict, Recipe, Term, Train, register
from fedkt.fusion import mean
from fedkt.objectives import KL, CrossEntropy, Distil, weighted_mean

@register
@dataclass(frozen=True)
class Shrink(Term):
    '''The mean square of the logits.'''
    factor: float
    def __call__(self, outputs, batch, knowledge):
        return self.factor * weighted_mean((outputs.logits**2).mean(1), batch.weight)

class Mine(KnowledgeStrategy):
    '''Averaged answers, with small logits.'''
    def recipe(self) -> Recipe:
        return Recipe(
            learn=[Train(on="private", terms=[CrossEntropy(), Shrink(0.02)])],
            share=[Predict(on="public", form="probabilities")],
            absorb=[Train(on="public", terms=[Distil(KL(1.0))])],
        )
    def fuse(self, uploads):
        return mean(uploads["public"])

def build(shape, classes):
    return nn.Linear(int(np.prod(shape)), classes)

def main():
    x = np.random.default_rng(0).normal(size=(240, 5)).astype(np.float32)
    study = fedkt.Experiment(
        data=(x, (x[:, 0] > 0).astype(int)), models=[build], clients=3, rounds=2, workers=2,
    )
    if "ray" in sys.argv:
        print(fedkt.simulate(study, Mine(), out="ray"))
        return
    study = study.with_values(run={"grid": "in-process"}, compare={"processes": 2})
    print(fedkt.compare(study, ["local", Mine], seeds=2, out="processes"))

if __name__ == "__main__":
    main()
"""


def python(*words: str) -> str:
    """Return what a session of Python prints; it must not fail or warn."""
    done = subprocess.run(
        [sys.executable, *words], encoding="utf-8", capture_output=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_what_a_script_and_a_session_without_files_define_reaches_workers(
    here: Path, figures: Any, fedkt: Any
) -> None:
    Path("script.py").write_text(SCRIPT, encoding="utf-8")
    run, comparison = python("-c", SCRIPT, "ray"), python("script.py")
    assert run.startswith("<fedkt run Mine, seed 0, round 2: personalised accuracy ")
    assert comparison.startswith("<fedkt comparison of 2 strategies, 2 seeds, 4 runs")
    # The same objects have the same names in both, and give the same results.
    assert figures(here / "ray") == figures(here / "processes/runs/Mine-seed0")
    models = [tomllib.loads(Path(f"{run}/config.toml").read_text(encoding="utf-8"))["models"]
              for run in ("ray", "processes/runs/Mine-seed0")]  # fmt: skip
    assert models[0] == models[1]
    # In another session: results can be read, what ran cannot be run again.
    for folder in ("ray", "processes"):
        answer = fedkt("report", folder)
        assert (answer.code, answer.err) == (0, "")
        assert "python@" not in Path(folder, "report.html").read_text(encoding="utf-8")
    ask = "import fedkt; print(fedkt.load('ray').client(1).model()(__import__('torch').ones(2, 5)))"
    assert python("-c", ask).startswith("tensor([[")
    answer = fedkt("simulate", "ray/config.toml", "--out", "again")
    assert answer.code == 2
    reason = "is an object of another Python session: pass the object to an Experiment again."
    assert reason in answer.err
    assert answer.err.count("\n") == 1
