"""Built-in parts as their source describes them: names and first lines, without imports.

Importing all parts to list them costs seconds, most of them for torch. A built-in part stands at
the top of a module, with a decorator ``@register``, the class variables ``name`` and ``part``, and
a docstring.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

# Between a small letter or digit and a capital, and before the last capital of several.
WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

Definition = ast.ClassDef | ast.FunctionDef


def described(part: str, packages: Iterable[str]) -> dict[str, str]:
    """Return the first docstring line of every part of a kind that packages define, by name.

    Parameters
    ----------
    part : str
        The kind of part.
    packages : Iterable[str]
        Full names of the packages, read with all that lies inside. Their parents are imported.

    Returns
    -------
    dict[str, str]
        Empty lines for parts without a docstring.
    """
    nodes = [node for package in packages for node in _definitions(package)]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    lines = {}
    for node in nodes:
        options = _registration(node)
        if options is not None and (options.get("part") or _part_of(node, classes)) == part:
            name = options.get("name") or _variable(node, "name")
            line = (ast.get_docstring(node) or "").partition("\n")[0]
            lines[name or part_name(node.name)] = line
    return lines


def part_name(identifier: str) -> str:
    """Return the default name of a part: its identifier in kebab case."""
    return WORDS.sub("-", identifier).lower().replace("_", "-")


@lru_cache
def _definitions(package: str) -> tuple[Definition, ...]:
    """Return the classes and functions at the top of a package's modules, which are read once."""
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or ()
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.py"))]
    bodies = (ast.parse(file.read_text(encoding="utf-8")).body for file in files)
    return tuple(node for body in bodies for node in body if isinstance(node, Definition))


def _registration(node: Definition) -> dict[str, str] | None:
    """Return the arguments of ``@register`` that are text; None without that decorator."""
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        target = call.func if call else decorator
        if isinstance(target, ast.Name) and target.id == "register":
            keywords = call.keywords if call else ()
            return {k.arg: v for k in keywords if k.arg and (v := _text(k.value)) is not None}
    return None


def _part_of(node: Definition, classes: Mapping[str, ast.ClassDef]) -> str | None:
    """Return the kind of part that a class, or else a base of it, names."""
    if isinstance(node, ast.FunctionDef):
        return None
    bases = (classes[b.id] for b in node.bases if isinstance(b, ast.Name) and b.id in classes)
    inherited = (_part_of(base, classes) for base in bases)
    return _variable(node, "part") or next(filter(None, inherited), None)


def _variable(node: Definition, name: str) -> str | None:
    """Return the text that a class variable is set to."""
    for line in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(line, ast.AnnAssign) and "ClassVar" not in ast.unparse(line.annotation):
            continue  # a field, of each object
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return _text(getattr(line, "value", None))
    return None


def _text(value: ast.expr | None) -> str | None:
    constant = value.value if isinstance(value, ast.Constant) else None
    return constant if isinstance(constant, str) else None
