"""The packages ask parts for facts: few lines look at the class or the name of a part of ours."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import fedkt
from fedkt import registry
from fedkt.knowledge import Kind

ROOT = Path(fedkt.__file__).parents[1]
PACKAGES = ("fedkt", "strategies", "clients", "simulations")
FOREIGN = {"ast", "nn"}  # modules with classes that are called like some of ours
PART_NAMES = {name for part in registry.PARTS for name in registry.names(part)}
# File and class, with the reason. At most ten: a new line asks its part instead.
ALLOWED = {
    ("fedkt/knowledge/piece.py", "weights Knowledge"): "knowledge or a mapping, as data",
    ("fedkt/knowledge/piece.py", "value Knowledge"): "a client keeps knowledge beside other values",
    ("fedkt/snapshot.py", "value Knowledge"): "one of the types that a snapshot writes",
    ("fedkt/options.py", "hint Varying"): "a type hint is read, not a part",
    ("fedkt/options.py", "value Varying"): "a user's number or schedule; numbers cannot be asked",
    ("fedkt/schedules/schedule.py", "value Schedule"): "the same, anywhere inside a step",
    ("fedkt/steps/train.py", "t Weighted"): "a user's term, of any class, or a term with a factor",
    ("strategies/server/attendance.py", "answer Member"): "a result, or why there is none",
    ("simulations/api/keywords.py", "extra Flag"): "one of all sorts of annotations of an option",
    ("simulations/testing/kit.py", "value Knowledge"): "nested state of any types, flat",
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield the path of each module of the packages, and its source as a tree."""
    for package in PACKAGES:
        folder = ROOT / package
        assert folder.is_dir(), "a checkout"
        for file in sorted(folder.rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def class_tests(tree: ast.Module, classes: set[str]) -> Iterator[str]:
    """Yield what is tested to be of a class of ours, with the classes; errors do not count."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[value, of]):
                names = {n.id for n in ast.walk(of) if isinstance(n, ast.Name)}
                if not names & FOREIGN:
                    names |= {n.attr for n in ast.walk(of) if isinstance(n, ast.Attribute)}
                tested = sorted(n for n in names & classes if not n.endswith("Error"))
                if tested:
                    yield f"{ast.unparse(value)} {' '.join(tested)}"


def name_chains(tree: ast.Module) -> Iterator[str]:
    """Yield what a function compares with two or more names, in branches, or names of parts.

    The kinds of knowledge are no names of parts: they are a closed set.
    """
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        compared = defaultdict(set)
        for node in ast.walk(function):
            if isinstance(node, ast.If) and len(node.orelse) == 1:
                match node.orelse[0]:
                    case ast.If(test=ast.Compare(comparators=[ast.Constant(value=str(name))])):
                        yield f"elif {name!r}"
            match node:
                case ast.Compare(left=left, comparators=[ast.Constant(value=str(name))]):
                    if name in PART_NAMES - set(get_args(Kind)):
                        compared[ast.unparse(left)].add(name)
        yield from (what for what, names in compared.items() if len(names) > 1)


def test_few_lines_look_at_the_class_of_a_part() -> None:
    trees = dict(modules())
    classes = {n.name for t in trees.values() for n in ast.walk(t) if isinstance(n, ast.ClassDef)}
    lines = [(path, what) for path, tree in trees.items() for what in class_tests(tree, classes)]
    assert sorted(lines) == sorted((p.removeprefix(""), what) for p, what in ALLOWED)
    assert len(ALLOWED) <= 10


def test_no_branch_goes_by_the_name_of_a_part() -> None:
    lines = [(path, what) for path, tree in modules() for what in name_chains(tree)]
    assert lines == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("if isinstance(share, Share): pass", ["share Share"]),
        ("if issubclass(type(x), (int, fedkt.Share)): pass", ["type(x) Share"]),
        ("isinstance(node, ast.Constant) or isinstance(error, LostError)", []),
    ],
)
def test_a_test_of_a_class_is_noticed(source: str, says: list[str]) -> None:
    assert list(class_tests(ast.parse(source), {"Share", "Constant", "LostError"})) == says


@pytest.mark.parametrize(
    ("branch", "says"),
    [
        ("if a == 1:\n  pass\n elif name == 'mean':\n  pass", ["elif 'mean'"]),
        ("if name == 'mean': return 1\n return name == 'median'", ["name"]),
        ("return name == 'mean' or form == 'median' or name == 'other'", []),
    ],
)
def test_a_chain_of_names_is_noticed(branch: str, says: list[str]) -> None:
    assert list(name_chains(ast.parse(f"def f():\n {branch}"))) == says
