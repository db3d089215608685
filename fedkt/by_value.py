"""Objects of Python in place of text: named by their content, and sent to workers by value.

Configurations stay text. An object that is given in Python is registered under
``python@DIGEST:NAME``, and the text stands for it. Classes and functions of a script, a notebook's
cell or a module that is not installed do not exist in another process under their names, so what a
run needs of them travels with their code.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import os
import pickle
import re
import site
import sys
import sysconfig
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle

from fedkt import registry
from fedkt.digests import digest_of
from fedkt.errors import PYTHON, ConfigError
from fedkt.text import raised

MAIN = ("__main__", "__mp_main__")  # the script, or the notebook; under spawn also the second
_ORIGIN = uuid.uuid4().hex  # of this process: here everything is registered already


def named(part: str, thing: Any, name: str = "") -> str:
    """Return a reference that stands for an object, which is registered under it.

    Parameters
    ----------
    part : str
        The kind of part, a key of ``registry.PARTS``.
    thing : object
        A class or a function; another object is copied, so that the name goes on to say what it is.
    name : str
        The name for people; by default that of the class or function, or the object's class.

    Returns
    -------
    str
        The name of the registry or of a file for what is found by it in every process, else
        ``python@DIGEST:NAME``, with 12 digits of the content's SHA-256.

    Raises
    ------
    ConfigError
        If the object cannot be copied.
    """
    is_code = _is_code(thing)
    if is_code and not travels(thing) and "<" not in thing.__qualname__:
        file, known = registry.file_of(thing), registry.name_in(part, thing)
        if file is not None:
            return f"{file}:{thing.__qualname__}"
        if known is not None:
            return known
    own = getattr(thing, "__name__", None) or type(thing).__name__
    label = re.sub(r"[^\w.\- ]+", "-", name or str(own)).strip("-. ") or type(thing).__name__
    reference = f"{PYTHON}{digest(thing)[:12]}:{label}"
    try:
        registry.keep(part, reference, thing if is_code else copy.deepcopy(thing))
    except ConfigError:
        raise
    except Exception as error:  # of a user's class
        raise ConfigError(f"{label} cannot be copied: {raised(error)}.") from error
    return reference


def digest(thing: Any) -> str:
    """Return the SHA-256 of an object's content; see :func:`fedkt.digests.digest_of`."""
    return digest_of(thing, _is_by_value)


def code_digest(thing: Any) -> str:
    """Return the digest of a function or class that exists in this session only, else nothing."""
    return digest(thing) if _is_code(thing) and travels(thing) else ""


def travels(thing: Any) -> bool:
    """Return whether a part exists in this process only, as those of scripts and cells."""
    return _is_by_value((thing if _is_code(thing) else type(thing)).__module__)


def contents(references: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the digests of the objects of this session among parts, each by part and name."""
    digests: dict[str, list[str]] = {}
    for part, name, thing in _of_session(references):
        title = f"{registry.PARTS[part][0]} {registry.plain_name(name)}"
        digests.setdefault(title, []).append(digest(thing))
    return {title: " ".join(sorted(set(found))) for title, found in digests.items()}


@dataclasses.dataclass(frozen=True)
class Carried:
    """Parts that go wherever they are pickled to, by value, and are registered there.

    Parameters
    ----------
    parts : tuple[tuple[str, str, str], ...]
        Kind, name and digest of each.
    """

    parts: tuple[tuple[str, str, str], ...] = ()

    def __reduce__(self) -> tuple[Callable[..., Carried], tuple[Any, ...]]:
        """Return how it is made anew: with the parts as bytes, if there are any."""
        return _arrived, (_ORIGIN, self.parts, _packed(self.parts) if self.parts else b"")


def carried(references: Iterable[tuple[str, str]]) -> Carried:
    """Return the objects of this session among parts, given by kind and name, for travel."""
    found = {(part, name): digest(thing) for part, name, thing in _of_session(references)}
    return Carried(tuple((*key, found[key]) for key in sorted(found)))


def _is_code(thing: Any) -> bool:
    return inspect.isclass(thing) or inspect.isfunction(thing)


def _of_session(references: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, Any]]:
    """Yield the parts that exist in this session only, under every name that they have."""
    for part, reference in dict.fromkeys(references):
        thing = registry.known(part, reference)
        if thing is not None and (travels(thing) or reference.startswith(PYTHON)):
            yield from ((part, name, thing) for name in registry.names_in(part, thing))


@functools.lru_cache(maxsize=4)
def _packed(parts: tuple[tuple[str, str, str], ...]) -> bytes:
    """Return parts as bytes, each class once; their digests belong to the key of the cache."""
    things = {(part, name): registry.known(part, name) for part, name, _ in parts}
    try:
        with _whole_modules():
            return _dumped(things)
    except Exception as error:  # of a user's class, or something that no pickle can hold
        names = ", ".join(dict.fromkeys(registry.plain_name(name) for _, name in things))
        raise ConfigError(f"{names} cannot be sent to workers: {raised(error)}.") from error


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # its package has no types
    """cloudpickle's, which would give fields without a default one that is called MISSING."""

    def reducer_override(self, thing: Any) -> Any:
        return "MISSING" if thing is dataclasses.MISSING else super().reducer_override(thing)


def _dumped(things: Mapping[tuple[str, str], Any]) -> bytes:
    import io

    file = io.BytesIO()
    _Pickler(file).dump(things)
    return file.getvalue()


@functools.lru_cache(maxsize=4)
def _opened(parts: tuple[tuple[str, str, str], ...], blob: bytes) -> dict[tuple[str, str], Any]:
    things: dict[tuple[str, str], Any] = pickle.loads(blob)
    return things


def _arrived(origin: str, parts: tuple[tuple[str, str, str], ...], blob: bytes) -> Carried:
    """Register the parts that have come with a pickle, if it is from another process."""
    if parts and origin != _ORIGIN:
        for (part, name), thing in _opened(parts, blob).items():
            registry.keep(part, name, thing)
    return Carried(parts)


@contextmanager
def _whole_modules() -> Iterator[None]:
    """Let pickles hold the code of all modules that other processes may not find."""
    before = cloudpickle.list_registry_pickle_by_value()
    modules = {name: m for name, m in list(sys.modules.items()) if m and _is_by_value(name)}
    added = [
        module
        for name, module in modules.items()
        if getattr(module, "__name__", None) == name and name not in before
    ]
    for module in added:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in added:
            cloudpickle.unregister_pickle_by_value(module)


def _is_by_value(module: str | None) -> bool:
    """Return whether classes and functions of a module travel with their code.

    Those of installed packages, of Python, of fedkt and of files that workers load themselves
    (:func:`fedkt.registry.load_file`) are found there by their names.
    """
    if module is None or module in MAIN:
        return True
    if module == "fedkt" or module.startswith("fedkt."):
        return False
    found = sys.modules.get(module)
    if found is None:
        return True
    file = getattr(found, "__file__", None)
    if registry.PREFIX in vars(found) or not file:
        return False
    return not _is_installed(os.path.dirname(file), module)


@functools.lru_cache(maxsize=4096)
def _is_installed(folder: str, module: str) -> bool:
    """Return whether a module's folder is one of Python's or of an installer."""
    place = Path(folder).resolve()
    if any(place.is_relative_to(root) for root in _installations()):
        return True
    # Where an installer was given a folder: what it wrote down about packages lies beside them.
    depth = module.count(".")
    tops = [place, *place.parents][max(0, depth - 1) : depth + 2]
    return any(any(top.glob("*.dist-info")) for top in tops)


@functools.cache
def _installations() -> frozenset[Path]:
    paths = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [*site.getsitepackages(), site.getusersitepackages()]
    return frozenset(Path(path).resolve() for path in paths if path)
