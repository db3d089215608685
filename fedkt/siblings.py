"""Modules next to a user's file that it imports, as they lie beside a script."""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path

from fedkt.errors import ConfigError

_loaded: dict[str, tuple[Path, str]] = {}  # folder and digest of siblings by name, as loaded last


def siblings_of(file: Path) -> dict[str, str]:
    """Return the modules next to a Python file that it imports, themselves or by others of them.

    Installed modules come first: a sibling is what is found nowhere else.

    Parameters
    ----------
    file : Path
        The file, an absolute path.

    Returns
    -------
    dict[str, str]
        The SHA-256 of the content of each by its name, sorted.
    """
    folder, found = file.parent, dict[str, str]()
    waiting = [file] if file.suffix == ".py" else []
    while waiting:
        for name in _imports(waiting.pop()):
            if name not in found and (sources := _sources(folder, name)):
                found[name] = _digest(sources)
                waiting += sources
    return dict(sorted(found.items()))


@contextmanager
def importable(file: Path, siblings: Mapping[str, str]) -> Iterator[None]:
    """Let a file import its siblings while inside, as they are now.

    Raises
    ------
    ConfigError
        If a module of the name of a sibling has been imported from another folder.
    """
    items = siblings.items()
    for name in siblings:
        before = sys.modules.get(name)
        if before is not None and not _lies_in(before, file.parent):
            where = getattr(before, "__file__", None) or "elsewhere"
            raise ConfigError(
                f"{file} imports {name!r}, which lies next to it, and {where} is imported under "
                "this name already: rename one of them."
            )
    # One that is unchanged may have taken names from one that is not.
    if any(_loaded.get(name, (file.parent, now)) != (file.parent, now) for name, now in items):
        for name in siblings:
            _forget(name)
    _loaded.update({name: (file.parent, now) for name, now in items})
    if not siblings:
        yield
        return
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # it knows files by second
    sys.path.append(str(file.parent))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(file.parent))
        sys.dont_write_bytecode = written


def _imports(file: Path) -> Iterator[str]:
    """Yield the first names of the modules that a file imports, at any depth."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # its import says so
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _sources(folder: Path, name: str) -> list[Path]:
    """Return the files of a module in a folder; none if there is no such or it is installed."""
    module = folder / f"{name}.py"
    sources = [module] if module.is_file() else sorted((folder / name).rglob("*.py"))
    return [] if not sources or _is_elsewhere(name, folder) else sources


def _is_elsewhere(name: str, folder: Path) -> bool:
    if name in sys.stdlib_module_names or name == "fedkt":
        return True
    others = [entry for entry in sys.path if Path(entry).resolve() != folder]
    return PathFinder.find_spec(name, others) is not None


def _digest(sources: list[Path]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        content = source.read_bytes()
        digest.update(f"{source.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _lies_in(module: object, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    places = [file] if file else list(getattr(module, "__path__", []))
    return any(folder in Path(place).resolve().parents for place in places)


def _forget(name: str) -> None:
    for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        del sys.modules[module]
