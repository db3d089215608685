"""One look-up for every kind of part: by name, entry point or file.

A part is a class or function with a name. Built-in parts register themselves when
their module is imported, and look-up imports every module of the part's package, so a
new part is one new file. Other distributions add parts through entry points
(``fedkt.strategies``, ``fedkt.objectives``, ...), and ``path/to/file.py:Class`` names a
part in a file of the user's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, overload

from fedkt.errors import PYTHON, ConfigError, unknown
from fedkt.listing import described, part_name
from fedkt.options import checked, class_name
from fedkt.siblings import importable, siblings_of

T = TypeVar("T")

METHODS = "fedkt.strategies"  # a method's file may hold parts of its own beside it

# part -> (singular for messages, the packages whose modules hold the built-in ones)
PARTS: dict[str, tuple[str, ...]] = {
    "strategies": ("strategy", METHODS),
    "objectives": ("objective", "fedkt.objectives", "fedkt.adaptation", METHODS),
    "transforms": ("transform", "fedkt.adaptation"),
    "schedules": ("schedule", "fedkt.schedules"),
    "heads": ("head", "fedkt.objectives", METHODS),
    "steps": ("step", "fedkt.steps", METHODS),
    "shares": ("share", "fedkt.shares", "fedkt.readouts", METHODS),
    "readouts": ("read-out", "fedkt.readouts", METHODS),
    "fusions": ("fusion", "fedkt.fusion"),
    "trust-rules": ("trust rule", "fedkt.fusion"),
    "codecs": ("codec", "fedkt.codecs"),
    "models": ("model", "fedkt.models"),
    "datasets": ("data set", "fedkt.data"),
    "readers": ("reader", "fedkt.data"),
    "partitions": ("partition", "fedkt.data"),
    "optimisers": ("optimiser", "fedkt.optimisers"),
    "augmentations": ("augmentation", "fedkt.augmentations"),
    "metrics": ("metric", "fedkt.metrics"),
    "learners": ("learner", "fedkt.clients.learners"),
    "engines": ("engine", "fedkt.simulations.engines.kinds"),
    "attacks": ("attack", "fedkt.simulations.attacks"),
}

# The attribute of a module loaded from a path that holds the prefix of its parts' names.
PREFIX = "__fedkt_prefix__"

_known: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
_discovered: set[str] = set()
_files: dict[Path, ModuleType] = {}  # the user's, as loaded last
_version = 0


@overload
def register(obj: T) -> T: ...


@overload
def register(
    *, part: str | None = None, name: str | None = None, replace: bool = False
) -> Callable[[T], T]: ...


def register(
    obj: Any = None, *, part: str | None = None, name: str | None = None, replace: bool = False
) -> Any:
    """Register a class or function as a named part; a decorator, with or without arguments.

    Parameters
    ----------
    obj : class or function
        The part.
    part : str, optional
        The kind of part, a key of ``PARTS``. A class may name it in its
        ``part`` attribute (all strategies and objectives do).
    name : str, optional
        The name; by default the class variable ``name``, else the name of the object in
        kebab case (``ClassCounts``: ``class-counts``). Parts of a file that is named by its path
        (:func:`load_file`) have ``stem@digest:`` of the file before it.
    replace : bool
        Whether the part takes the place of one of the same name from another module. One of
        the same module is replaced in any case, as when a notebook's cell runs again.

    Returns
    -------
    class or function
        The same object.

    Raises
    ------
    ConfigError
        If another module has a part of this name, or there is no such kind of part.
    """
    if obj is None:
        return lambda o: register_as(o, part, name, replace)
    return register_as(obj, part, name, replace)


def register_as(obj: T, part: str | None, name: str | None, replace: bool = False) -> T:
    """Register ``obj``; the plain form of :func:`register`."""
    kind = part or getattr(obj, "part", None)
    if kind not in PARTS:
        raise ConfigError(f"Cannot register {obj!r}: part must be one of {', '.join(PARTS)}.")
    prefix, short = _prefix_of(obj), name or name_of(obj)
    before, module = _known[kind].get(prefix + short), getattr(obj, "__module__", None)
    rival = getattr(before, "__module__", None)
    # Two equal files in two places have one prefix, and their parts are the same.
    if not (before is None or before is obj or prefix or replace or rival == module):
        raise ConfigError(
            f"Cannot register {module}.{getattr(obj, '__name__', obj)}: there is a "
            f"{PARTS[kind][0]} called {short!r} in {rival}. "
            "Choose another name, or write replace=True."
        )
    global _version
    _version += 1
    _known[kind][prefix + short] = obj
    return checked(obj) if isinstance(obj, type) and dataclasses.is_dataclass(obj) else obj


def _prefix_of(obj: Any) -> str:
    """Return the prefix of the names of a file's parts; empty for all other parts."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    return "" if module is None else str(vars(module).get(PREFIX, ""))


def name_of(obj: Any) -> str:
    """Return the plain name of a part: the attribute ``name``, else the identifier in kebab case.

    A field ``name`` of a dataclass belongs to its objects, as of shares, and names no part.
    """
    name = class_name(obj) if isinstance(obj, type) else getattr(obj, "name", None)
    return name if isinstance(name, str) else part_name(obj.__name__)


def file_of(obj: Any) -> Path | None:
    """Return the user's file in which a class or function was loaded; None for all others."""
    return next((f for f, module in _files.items() if module.__name__ == obj.__module__), None)


def registered_name(part: str, obj: Any) -> str:
    """Return the name that ``obj`` is registered under, or would be."""
    return name_in(part, obj) or _prefix_of(obj) + name_of(obj)


def name_in(part: str, obj: Any) -> str | None:
    """Return the name that ``obj`` is registered under; None if it is not."""
    return next((name for name, known in _known[part].items() if known is obj), None)


def names_in(part: str, obj: Any) -> list[str]:
    """Return all names that ``obj`` is registered under."""
    return [name for name, known in _known[part].items() if known is obj]


def short_name(part: str, obj: Any) -> str:
    """Return the name of a part for people: without the file that it comes from."""
    return plain_name(registered_name(part, obj))


def plain_name(name: str) -> str:
    """Return a registered name without the file, or the content, that stands before it."""
    return name.rpartition(":")[2]


def keep(part: str, name: str, obj: Any) -> None:
    """Register an object under exactly this name, instead of what had it."""
    global _version
    if _known[part].get(name) is not obj:
        _version += 1
        _known[part][name] = obj


def known(part: str, name: str) -> Any | None:
    """Return what is registered under a name in this process so far; None for nothing."""
    return _known[part].get(name)


def names(part: str) -> list[str]:
    """Return the sorted names of all registered parts of one kind, objects of Python left out."""
    _discover(part)
    return sorted(name for name in _known[part] if not name.startswith(PYTHON))


def summaries(part: str) -> dict[str, str]:
    """Return the first docstring line of every part of one kind, by name, sorted.

    Built-in parts that nothing has imported yet are read from their source. Parts of other
    distributions, if there are any, have to be imported, and the built-in ones with them.
    """
    if importlib.metadata.entry_points(group=f"fedkt.{part}"):
        _discover(part)
    lines = {} if part in _discovered else described(part, PARTS[part][1:])
    for name, obj in _known[part].items():
        if name.startswith(PYTHON):
            continue
        lines[name] = (inspect.getdoc(obj) or "").partition("\n")[0]
    return dict(sorted(lines.items()))


def lookup(part: str, reference: str, files: bool = True) -> Any:
    """Return the part called ``reference``.

    Parameters
    ----------
    part : str
        The kind of part, a key of ``PARTS``.
    reference : str
        A registered name or ``path/to/file.py:Attribute``. The name of a loaded file's part
        will do without the file's prefix where no other part has it.
    files : bool
        Whether files may be named: never in what came over the wire, since a file is
        executed.

    Returns
    -------
    class or function
        The part.

    Raises
    ------
    ConfigError
        If there is no such name, file or attribute.
    """
    if files and (".py:" in reference or reference.endswith(".py")):
        return _from_file(PARTS[part][0], reference)
    if reference not in _known[part]:
        _discover(part)
    if reference in _known[part]:
        return _known[part][reference]
    if reference.startswith(PYTHON):
        raise ConfigError(
            f"{PARTS[part][0]} {reference!r} is an object of another Python session: pass the "
            "object to an Experiment again."
        )
    parts = [name for name in _known[part] if not name.startswith(PYTHON)]
    in_files = [name for name in parts if plain_name(name) == reference]
    if len(in_files) > 1:
        raise ConfigError(f"{PARTS[part][0]} {reference!r}: which of {', '.join(in_files)}?")
    if not in_files:
        raise unknown(PARTS[part][0], reference, parts)
    return _known[part][in_files[0]]


def split_argument(reference: str) -> tuple[str, str]:
    """Return name and argument of ``NAME:ARGUMENT``, also of names with colons of their own."""
    home, colon, rest = reference.rpartition(".py:")
    if not colon and reference.startswith(PYTHON):
        home, colon, rest = reference.partition(":")
    name, _, argument = rest.partition(":")
    return f"{home}{colon}{name}", argument.strip()


def load_file(path: str | Path, digest: str | None = None) -> ModuleType:
    """Import a Python file under a private name; its parts register themselves.

    A file is imported once for each content: after an edit it is imported anew, and its parts
    replace those it had before. It may import modules that lie next to it, as a script does; they
    belong to its content. torch's random numbers that it draws are the same in every process.

    Parameters
    ----------
    path : str or Path
        The file.
    digest : str, optional
        The :func:`file_digest` when the run was planned, here or on another machine.

    Raises
    ------
    ConfigError
        If there is no such file, it cannot be imported, or its content is another.
    """
    from fedkt.rng import global_torch_stream  # torch, which look-up by name does without

    file = Path(path).resolve()
    if not file.is_file():
        raise ConfigError(f"No such file: {path}.")
    source, siblings = file.read_bytes(), siblings_of(file)
    content = _content(source, siblings)
    if digest not in (None, content):
        raise ConfigError(f"{path} has another content than when this run was planned.")
    # The path as well: each of two equal files knows where it lies.
    place = hashlib.sha256(str(file).encode()).hexdigest()
    module_name = f"fedkt_user_{place[:12]}_{content[:12]}"
    before = _files.pop(file, None)
    if before is not None and before.__name__ == module_name:
        return _files.setdefault(file, before)
    if before is not None:
        _forget(before)
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None:
        raise ConfigError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    vars(module)[PREFIX] = f"{file.stem}@{content[:12]}:"
    with importable(file, siblings), global_torch_stream(0, "file"):
        sys.modules[module_name] = module  # before execution: dataclasses look their module up
        try:
            # Not by the spec's loader: its cached bytecode knows a file by size and second.
            exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
        except Exception as error:
            del sys.modules[module_name]
            _forget(module)
            what = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{path} cannot be imported: {what}") from error
    return _files.setdefault(file, module)


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal; ConfigError if there is none.

    To the content of a Python file belong the modules next to it that it imports.
    """
    try:
        return _content(Path(path).read_bytes(), siblings_of(Path(path).resolve()))
    except OSError as error:
        raise ConfigError(f"No such file: {path}.") from error


def _content(source: bytes, siblings: Mapping[str, str]) -> str:
    digest = hashlib.sha256(source)
    if siblings:
        digest.update(repr(siblings).encode())
    return digest.hexdigest()


def version() -> int:
    """Return a number that changes with every registered part, for caches of look-ups."""
    return _version


def forget(part: str, name: str) -> None:
    """Remove a part that was registered under a name for a while."""
    global _version
    _version += 1
    _known[part].pop(name, None)


def _forget(module: ModuleType) -> None:
    """Remove the parts that a file has registered."""
    global _version
    _version += 1
    for parts in _known.values():
        stale = [n for n, o in parts.items() if getattr(o, "__module__", "") == module.__name__]
        for name in stale:
            del parts[name]


def _from_file(what: str, reference: str) -> Any:
    path, _, attribute = reference.rpartition(":")
    if not path.endswith(".py") or not attribute:
        raise ConfigError(f"{reference!r} names no {what}: write path/to/file.py:Class.")
    module = load_file(path)
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise unknown(f"{what} in {path}", attribute, public)
    return getattr(module, attribute)


def _discover(part: str) -> None:
    if part in _discovered:
        return
    _discovered.add(part)
    for name in PARTS[part][1:]:
        package = importlib.import_module(name)
        for info in pkgutil.walk_packages(package.__path__, f"{name}."):
            importlib.import_module(info.name)
    for entry in importlib.metadata.entry_points(group=f"fedkt.{part}"):
        try:
            register_as(entry.load(), part, entry.name)
        except Exception as error:
            _discovered.discard(part)  # so that the next look-up raises again
            raise ConfigError(
                f"Entry point {entry.name!r} of group fedkt.{part} cannot be loaded: {error}"
            ) from error
