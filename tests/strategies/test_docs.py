"""What the documentation shows must run as it is shown."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from fedkt import registry
from fedkt.knowledge import Knowledge
from fedkt.objectives.term import Batch, Outputs
from fedkt.recipe import Recipe, Train
from fedkt.shares import Asked
from fedkt.simulations.attacks import View
from fedkt.strategies.construction import make_strategy

DOCS = Path(__file__).parents[2] / "docs"


def written(page: str, folder: Path) -> Path:
    """Return a file with all Python that a page shows."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    file = folder / "mine.py"
    file.write_text("\n\n".join(blocks), encoding="utf-8")
    return file


def test_the_examples_form_one_file_that_works(tmp_path: Path) -> None:
    file = written("strategies.md", tmp_path)
    strategy = registry.lookup("strategies", f"{file}:Mine")(temperature=2.0)
    assert strategy.recipe() == Recipe.from_json(strategy.recipe().to_json())
    term = registry.lookup("objectives", "confidence")(0.1)
    recipe = Recipe(learn=[Train("private", [term])])
    assert Recipe.from_json(recipe.to_json()) == recipe
    logits = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    batch = Batch(torch.zeros(1, 1), None, torch.zeros(1, dtype=torch.int64), torch.ones(1))
    loss = term(Outputs(logits, None, {}), batch, {})
    (gradient,) = torch.autograd.grad(loss, logits)
    assert bool(torch.isfinite(loss)), "extreme logits too"
    assert bool(torch.isfinite(gradient).all())
    share = registry.lookup("shares", "label-counts")("mine")
    recipe = Recipe(share=[share])
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert share.expected(Asked(None, 3, (1, 8, 8), {})).shapes == {"counts": (3,)}
    composed = make_strategy({"name": "compose", "fusion": f"{file}:GeometricMean(power=2)"})
    assert Recipe.from_json(composed.recipe().to_json()) == composed.recipe()


def test_the_attack_denies_what_was_fused(tmp_path: Path) -> None:
    file = written("attacks.md", tmp_path)
    own = torch.eye(4)
    target = Knowledge.rows("probabilities", own)
    view = View(own, own[None], own[None], own, torch.arange(4), target, seed=0, round=2, client=0)
    attack = registry.lookup("attacks", f"{file}:sceptic")
    doubted = attack(view, doubt=1.0).softmax(-1)
    assert torch.allclose(doubted.diagonal(), torch.zeros(4), atol=1e-5), "not what was fused"
