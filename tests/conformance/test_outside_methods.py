"""Published methods, each one file outside the packages: they run, in either executor.

The laws of methods are checked on them by the conformance suite.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt.errors import ConfigError
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.experiment.references import read_strategy
from fedkt.simulations.results import checkpoints
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute
from fedkt.testing.plugin import references_in

FILES = [f for f in sorted(Path(__file__).parent.glob("outside/*.py")) if references_in(f)]
MOST_LINES = 90
# Methods that cohorts refuse, and the one line that says so.
REFUSED: dict[str, str] = {}


def run(
    folder: Path,
    reference: str,
    executor: str,
    models: Sequence[str] = ("mlp",),
    public: bool | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run a method for two rounds; return its rounds and the clients' states."""
    data = {"clients": 4, "samples_per_client": 24, "test_samples": 60, "public_samples": 40}
    plan = prepare(parse({
        "rounds": 2,
        "models": models,
        "strategy": read_strategy(reference),
        "data": {**data, "public": public},
        "training": {"batch_size": 8, "public_batch_size": 16},
        "run": {"grid": "in-process", "workers": 1, "executor": executor},
    }))  # fmt: skip
    execute(plan, folder, label="outside")
    saved = checkpoints.newest(folder / "checkpoints", at_most=2)
    assert saved is not None
    return list(read_rounds(folder)), saved[1]["clients"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_executors_agree(file: Path, tmp_path: Path) -> None:
    rounds, loop = run(tmp_path / "loop", references_in(file)[0], "loop")
    assert [row["failures"] for row in rounds] == [[], []]
    if file.stem in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[file.stem]):
            run(tmp_path / "cohort", references_in(file)[0], "cohort")
        return
    rounds, cohort = run(tmp_path / "cohort", references_in(file)[0], "cohort")
    assert [row["failures"] for row in rounds] == [[], []]
    assert_alike(loop, cohort)


def assert_alike(loop: dict[str, Any], cohort: dict[str, Any]) -> None:
    for client, state in loop.items():
        for name, tensor in state["learner"]["model"].items():
            other = cohort[client]["learner"]["model"][name]
            assert torch.allclose(tensor, other, atol=1e-4), f"client {client}: {name}"


def test_feddf_without_distillation_is_fedavg(tmp_path: Path) -> None:
    """Of one architecture, from the same first weights: to the bit, and in what the server has."""
    (file,) = (file for file in FILES if file.stem == "feddf")
    ours = run(tmp_path / "a", f"{references_in(file)[0]}(distil_epochs=0)", "loop")
    theirs = run(tmp_path / "b", "fedavg(local_epochs=1)", "loop", public=True)
    for client, state in theirs[1].items():
        for name, tensor in state["learner"]["model"].items():
            assert torch.equal(ours[1][client]["learner"]["model"][name], tensor)
    names = ("personalised_accuracy", "global_accuracy", "server_accuracy")
    for one, other in zip(ours[0], theirs[0], strict=True):
        assert [one[name] for name in names] == [other[name] for name in names]


MIXED = ("fml", "feddf")  # methods for clients of several architectures


@pytest.mark.parametrize("name", MIXED)
def test_clients_of_two_architectures_in_either_executor(name: str, tmp_path: Path) -> None:
    (file,) = (file for file in FILES if file.stem == name)
    rounds, loop = run(tmp_path / "loop", references_in(file)[0], "loop", ("cnn", "mlp"))
    assert [row["failures"] for row in rounds] == [[], []]
    _, cohort = run(tmp_path / "cohort", references_in(file)[0], "cohort", ("cnn", "mlp"))
    assert_alike(loop, cohort)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_short(file: Path) -> None:
    assert code_lines(file.read_text(encoding="utf-8")) <= MOST_LINES


def code_lines(source: str) -> int:
    """Return the number of lines with code: without comments, docstrings and empty lines."""
    nothing = {
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
        tokenize.ENDMARKER,
    }  # fmt: skip
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in nothing:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            text = node.body[0]
            lines -= set(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    return len(lines)
