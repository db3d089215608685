"""Parts with options as text, ``topk(k=5)``: how configurations and strategies name them."""

from __future__ import annotations

import ast
import inspect
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast, get_args, get_type_hints

from fedkt import registry
from fedkt.errors import ConfigError, FedktError
from fedkt.options import given_options
from fedkt.text import raised


def made(part: str, reference: object, files: bool = True) -> Any:
    """Return the object that a text stands for; an object is returned as it is.

    Parameters
    ----------
    part : str
        The kind of part, a key of ``registry.PARTS``.
    reference : object
        ``NAME``, ``NAME(key=value, ...)`` or either with ``path/to/file.py:Class`` for the name;
        or an object of a registered class.
    files : bool
        Whether files may be named; see :func:`fedkt.registry.lookup`.

    Raises
    ------
    ConfigError
        If there is no such part, or an option or its value is not one of the part's.
    """
    what = registry.PARTS[part][0]
    if not isinstance(reference, str):
        if getattr(reference, "part", None) != part or isinstance(reference, type):
            raise ConfigError(f"{reference!r} is no {what}: give its name, or make an object.")
        return reference
    name, options = read_call(reference)
    cls = cast(Callable[..., Any], registry.lookup(part, name, files))
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cast(Any, cls).__abstractmethods__))
        raise ConfigError(f"{what} {name} is not complete: it does not define {missing}.")
    inner = _inner(cls, options, files)
    plain = {key: value for key, value in options.items() if key not in inner}
    values = {**given_options(what, name, plain, cls), **inner}
    try:
        built = cls(**values)
    except FedktError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(f"{what} {name} cannot be made: {raised(error)}.") from error
    if getattr(built, "part", None) != part:
        raise ConfigError(f"{name} is no {what}: it makes {type(built).__name__}.")
    return built


def _inner(cls: Callable[..., Any], options: Mapping[str, Any], files: bool) -> dict[str, Any]:
    """Return the options that are parts themselves, as in ``distil(divergence=kl)``."""
    try:
        hints = get_type_hints(cls) if isinstance(cls, type) else {}
    except NameError:  # a name for type checkers only
        hints = {}
    parts: dict[str, Any] = {}
    for key, value in options.items():
        hint = hints.get(key)
        kind = next((h.part for h in (hint, *get_args(hint)) if hasattr(h, "part")), None)
        if kind is not None and isinstance(value, str):
            parts[key] = made(kind, value, files)
    return parts


def read_call(reference: str) -> tuple[str, Mapping[str, Any]]:
    """Return name and options of ``knfu`` or ``knfu(beta=2, temperature=3)``.

    Raises
    ------
    ConfigError
        If the text has another form.
    """
    name, opening, rest = reference.strip().partition("(")
    if not opening:
        return name.strip(), {}
    if not rest.endswith(")"):
        raise ConfigError(f"{reference!r}: write name(key=value, ...).")
    return name.strip(), dict(read_option(text) for text in split(rest[:-1], ","))


def files_in(text: str) -> Iterator[str]:
    """Yield the ``file.py:Class`` in ``a.py:A(part=b.py:B)+c``, those in options too."""
    return (name for name in names_in(text) if ".py:" in name) if ".py:" in text else iter(())


def names_in(value: Any) -> Iterator[str]:
    """Yield the names in ``a(part=b)+c``, those in options too; in JSON, of all its texts."""
    inner = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | list | tuple):
        for item in inner:
            yield from names_in(item)
    for call in split(value, "+") if isinstance(value, str) else ():
        try:
            name, options = read_call(call)
        except ConfigError:  # a text of another kind
            continue
        yield name
        yield from names_in(options)


def read_option(text: str) -> tuple[str, Any]:
    """Return key and value of ``key=value``; see :func:`read_value`.

    Raises
    ------
    ConfigError
        If the text has another form.
    """
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{text!r}: write key=value.")
    return key.strip(), read_value(raw.strip())


def read_value(raw: str) -> Any:
    """Return a value in TOML, or a number or truth value in Python; all else is text as it is."""
    try:
        return tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        pass
    try:
        value = ast.literal_eval(raw)
    except (ValueError, SyntaxError):
        return raw
    return value if isinstance(value, bool | int | float) else raw


def split(text: str, separator: str) -> list[str]:
    """Return the parts of ``a,b(x=1,y=2),c`` between separators outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [p.strip() for p in parts if p.strip()]
