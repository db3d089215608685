"""Objects of this session: named by content, equal in every session, sent with their code."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import nn

from fedkt import Term, by_value, register, registry
from fedkt.errors import ConfigError
from fedkt.models.dense import mlp
from fedkt.strategies import FedMD

SCRIPT = """
import dataclasses
from fedkt import Term, by_value, register
from fedkt.objectives import CrossEntropy
CELL = '''
WIDTH, NAMES = {width}, {{"a", "b", "c"}}
def helper(x): return x * WIDTH
@register
@dataclasses.dataclass(frozen=True)
class Shrink(Term):
    "A term of the cell."
    factor: float = {factor}
    def __call__(self, outputs, batch, knowledge):
        return helper(outputs.logits.mean()) if "a" in {{"a", "b"}} and NAMES else self.factor
print(by_value.digest(Shrink), by_value.digest({{"net": [helper, CrossEntropy(), Shrink()]}}))
'''
for width, factor in (3, 0.5), (4, 0.5), (3, 0.4):
    exec(compile(LINES + CELL.format(width=width, factor=factor), FILE, "exec"))
"""


def digests(seed: int, lines: str) -> list[str]:
    """Return the digests of a cell and of two edits of it, as another Python session gives them."""
    script = SCRIPT.replace("LINES", repr(lines)).replace("FILE", repr(f"<cell {seed}>"))
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        encoding="utf-8",
        capture_output=True,
        env=environment,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_digest_is_equal_in_every_session_and_another_after_an_edit() -> None:
    first = digests(1, lines="")
    assert digests(2, lines="\n# a comment\n\nx = 1\n") == first
    assert len({word for line in first for word in line.split()}) == 6, (
        "what a method has, and what a helper of it uses, belongs to the content"
    )


@pytest.mark.parametrize(
    "pair",
    [
        (np.arange(3), np.arange(3.0)),
        (torch.zeros(2), torch.zeros(2, 1)),
        (lambda x: x + 1, lambda x: x + 2),
        (RandomForestClassifier(), RandomForestClassifier(max_depth=3)),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        (np.array(["a", "b"], dtype=object), np.array(["a", "c"], dtype=object)),
    ],
    ids=["dtype", "shape", "function", "estimator", "order", "texts"],
)
def test_other_content_has_another_digest(pair: tuple[Any, Any]) -> None:
    first, second = map(by_value.digest, pair)
    assert first != second
    assert first == by_value.digest(pair[0])


def test_weights_belong_to_the_content_of_a_network() -> None:
    torch.manual_seed(0)
    net = nn.Linear(2, 2)
    before = by_value.digest(net)
    with torch.no_grad():
        net.weight += 1
    assert by_value.digest(net) != before


def test_lazy_layers_count_by_what_is_known_of_them() -> None:
    assert by_value.digest(nn.LazyLinear(3)) == by_value.digest(nn.LazyLinear(3))
    assert by_value.digest(nn.LazyLinear(3)) != by_value.digest(nn.LazyLinear(4))


def test_circles_and_what_no_pickle_can_hold_have_a_digest() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    assert by_value.digest(circle) == by_value.digest(circle)
    assert by_value.digest(threading.Lock()) == by_value.digest(threading.Lock())


def test_a_class_counts_alike_before_and_after_it_is_used() -> None:
    @dataclass(frozen=True)
    class Used(Term):
        """A term."""

        factor: float

        def __call__(self, outputs: Any, batch: Any, knowledge: Any) -> Any:
            return self.factor

    register(Used)
    before = by_value.digest(Used)
    Used(1.0)
    assert by_value.digest(Used) == before
    registry.forget("objectives", "used")


def test_what_other_processes_find_by_name_keeps_its_name() -> None:
    assert by_value.named("models", mlp) == "mlp"
    assert by_value.named("strategies", FedMD) == "fedmd"
    assert not by_value.travels(FedMD)
    assert not by_value.travels(RandomForestClassifier)


def build(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Linear(shape[0], classes)


def test_an_object_gets_a_name_that_says_what_it_is() -> None:
    reference = by_value.named("models", build, "my net(1)")
    start, _, name = reference.partition(":")
    assert (start[: len("python@")], len(start), name) == ("python@", 19, "my net-1")
    assert registry.lookup("models", reference) is build
    assert reference not in registry.names("models")
    assert by_value.named("models", build, "my net(1)") == reference


def test_an_object_that_changes_later_keeps_its_content_under_the_name() -> None:
    forest = RandomForestClassifier(max_depth=2)
    reference = by_value.named("models", forest)
    forest.max_depth = 3
    assert registry.lookup("models", reference).max_depth == 2
    assert by_value.named("models", forest) != reference


def test_an_object_of_another_session_must_be_passed_again() -> None:
    with pytest.raises(ConfigError, match=r"^model 'net' is an object of ano"):
        registry.lookup("models", "python@0123456789ab:net")


def test_what_cannot_be_sent_is_refused_in_one_line() -> None:
    lock = threading.Lock()

    def locked(shape: tuple[int, ...], classes: int) -> nn.Module:
        with lock:
            return build(shape, classes)

    carried = by_value.carried([("models", by_value.named("models", locked))])
    with pytest.raises(ConfigError, match=r"^locked cannot be sent to workers: TypeError: .*lock"):
        pickle.dumps(carried)


@register
@dataclass(frozen=True)
class Gentle(Term):
    """A term with a field that has no default."""

    factor: float
    power: float = 2.0

    def __call__(self, outputs: Any, batch: Any, knowledge: Any) -> Any:
        return self.factor * doubled(outputs) ** self.power


def doubled(x: float) -> float:
    return 2 * x


READER = """
import pickle, sys
from dataclasses import fields, MISSING
from fedkt import registry
carried = pickle.loads(sys.stdin.buffer.read())
term = registry.lookup("objectives", "gentle")
assert [f.name for f in fields(term) if f.default is MISSING] == ["factor"]
assert term(3.0)(2.0, None, None) == 48.0
assert registry.known("models", carried.parts[0][1])((2,), 3).out_features == 3
"""


def test_parts_are_registered_where_they_arrive() -> None:
    def travelling(shape: tuple[int, ...], classes: int) -> nn.Module:
        return build(shape, classes)

    reference = by_value.named("models", travelling)
    carried = by_value.carried([("models", reference), ("objectives", "gentle"), ("models", "mlp")])
    assert [part[:2] for part in carried.parts] == [("models", reference), ("objectives", "gentle")]
    done = subprocess.run(
        [sys.executable, "-c", READER], input=pickle.dumps(carried), capture_output=True
    )
    assert done.stderr.decode() == ""
    assert [f.name for f in fields(Gentle)] == ["factor", "power"]


def test_in_their_own_process_they_stay_as_they_are() -> None:
    carried = by_value.carried([("objectives", "gentle")])
    assert pickle.loads(pickle.dumps(carried)) == carried
    assert registry.lookup("objectives", "gentle") is Gentle


@pytest.mark.parametrize("installed", [True, False])
def test_modules_of_an_installer_go_by_name(
    tmp_path: Path, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by ``pip install --target``: what it wrote down lies beside the modules."""
    name = f"a_package_{installed}".lower()
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(WRITTEN), encoding="utf-8")
    if installed:
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    function: Callable[..., Any] = __import__(name).build
    assert by_value.travels(function) is not installed


WRITTEN = """
def build(shape, classes):
    return None
"""
