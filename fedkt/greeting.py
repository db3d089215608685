"""The greeting: what a client tells of itself, and what clients must agree on.

Every client tells the facts of ``FACTS``. The parts of the recipe add texts of their own
(``about``), which are equal among all clients, or, of parts with a group, among those of one
architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest

from fedkt.about import Model
from fedkt.data.samples import ClientData
from fedkt.errors import KnowledgeError
from fedkt.recipe import Recipe
from fedkt.text import foreign

Value = str | int | tuple[str, ...] | tuple[int, ...]
Facts = Mapping[str, Value]

LARGEST_ID = 2**63 - 1
MOST_CLASSES, MOST_SAMPLES = 10**6, 10**8  # more than any data set has; fits in memory
WHOLE = 60  # characters up to which a list is shown whole; else its first difference
SHOWN = 100  # characters of a value in a message


@dataclass(frozen=True)
class Fact:
    """A named fact of the greeting.

    Parameters
    ----------
    read : callable
        Returns the value of what arrived, lists as tuples; None if it is not of that type.
    allowed : str
        The type, for messages.
    binds : callable
        Whether the clients of a recipe must agree on it.
    """

    read: Callable[[object], Value | None]
    allowed: str
    binds: Callable[[Recipe], bool] = lambda recipe: True


def text(value: object) -> str | None:
    """Return a text; None if it is none."""
    return value if isinstance(value, str) else None


def texts(value: object) -> tuple[str, ...] | None:
    """Return a list of texts; None if it is none."""
    strings = [v for v in value if isinstance(v, str)] if isinstance(value, list) else None
    return tuple(strings) if strings == value and strings is not None else None


def number(value: object, least: int, most: int) -> int | None:
    """Return a whole number within bounds; None if it is none. True is no number."""
    return value if type(value) is int and least <= value <= most else None


def shape(value: object) -> tuple[int, ...] | None:
    """Return the shape of a sample, at least one axis; None if it is none."""
    if not isinstance(value, list) or not value:
        return None
    axes = [n for n in value if number(n, 1, MOST_SAMPLES)]
    return tuple(axes) if len(axes) == len(value) else None


def _never(recipe: Recipe) -> bool:
    return False


# What a client is asked for beside its id. A further fact is a further entry.
FACTS: Mapping[str, Fact] = {
    "num-classes": Fact(
        lambda value: number(value, 1, MOST_CLASSES), f"a whole number from 1 to {MOST_CLASSES}"
    ),
    "classes": Fact(texts, "a list of names"),
    "columns": Fact(texts, "a list of texts"),
    "input-shape": Fact(shape, "a list of positive whole numbers", _never),
    "architecture": Fact(text, "a text", _never),
    "public-size": Fact(
        lambda value: number(value, 0, MOST_SAMPLES),
        f"a whole number from 0 to {MOST_SAMPLES}",
        lambda recipe: recipe.needs_public,
    ),
    # Weights that are averaged were trained alike.
    "training": Fact(texts, "a list of texts", lambda recipe: recipe.needs_one_architecture),
}
DIGEST = "recipe-digest"  # of the recipe as a client reads it
# What comes before the keys of ``about`` in a greeting: of parts without and with a group.
TOLD = {"": "about: ", "architecture": "about the architecture: "}


def read_client(greeting: Mapping[str, object]) -> int:
    """Return the id of the client that greets.

    Raises
    ------
    KnowledgeError
        If it is missing or no whole number from 0.
    """
    client = number(greeting.get("client"), 0, LARGEST_ID)
    if client is None:
        raise _unreadable(greeting, "client", "a whole number from 0")
    return client


def read_facts(greeting: Mapping[str, object]) -> Facts:
    """Return the facts of a greeting.

    Raises
    ------
    KnowledgeError
        Naming the first fact that is missing or of another type.
    """
    facts = {}
    for name, fact in FACTS.items():
        value = fact.read(greeting.get(name))
        if value is None:
            raise _unreadable(greeting, name, fact.allowed)
        facts[name] = value
    return facts


def check_digest(greeting: Mapping[str, object], recipe: Recipe) -> None:
    """Check that a client reads the recipe as the server has written it.

    Raises
    ------
    KnowledgeError
        If it says another digest or none.
    """
    if (digest := greeting.get(DIGEST)) != recipe.digest:
        shown = _shown(recipe.digest)
        if digest is None:
            raise _unreadable(greeting, DIGEST, shown)
        raise KnowledgeError(f"its {DIGEST} is {_shown(digest)}, and the server's is {shown}")


def told(recipe: Recipe, model: Model, data: ClientData) -> dict[str, str]:
    """Return what the parts of a recipe tell of a client, by its keys in the greeting."""
    texts = {}
    for part in recipe.telling:
        for key, value in part.about(model, data).items():
            texts[f"{TOLD[part.group]}{key}"] = value
    return texts


def read_told(greeting: Mapping[str, object], group: str) -> dict[str, str]:
    """Return what the parts of a group tell, in a greeting, by key.

    Raises
    ------
    KnowledgeError
        If any of it is no text.
    """
    prefix, texts = TOLD[group], {}
    for name, value in greeting.items():
        if not name.startswith(prefix):
            continue
        if not isinstance(value, str):
            raise _unreadable(greeting, name, "a text")
        texts[name.removeprefix(prefix)] = value
    return texts


def binding(facts: Facts, recipe: Recipe) -> dict[str, Value]:
    """Return the facts that the clients of a recipe must agree on."""
    return {name: facts[name] for name, fact in FACTS.items() if fact.binds(recipe)}


def differences(
    facts: Facts, usual: Facts, told: Mapping[str, str], usually: Mapping[str, str]
) -> str:
    """Return the differences of a client from the others, in one line; empty without any.

    Parameters
    ----------
    facts, usual : Mapping
        The facts that bind, of the client and of the others.
    told, usually : Mapping[str, str]
        What their parts tell.
    """
    names = [name for name in facts if facts[name] != usual[name]]
    lines = [_difference(name, facts[name], usual[name]) for name in names]
    keys = [key for key in {**usually, **told} if told.get(key) != usually.get(key)]
    for key in keys:
        pair = _lines(told.get(key)), _lines(usually.get(key))
        lines.append(_difference(foreign(key), *pair))
    needed = " and ".join(f"one {foreign(key)}" for key in keys)
    return "; ".join(lines) + (f" (the method needs {needed})" if needed else "")


def _lines(text: str | None) -> Value | None:
    """Return a text of several lines as a tuple, of which the first difference is shown."""
    return tuple(text.split("\n")) if text is not None and "\n" in text else text


def _unreadable(greeting: Mapping[str, object], name: str, allowed: str) -> KnowledgeError:
    if name not in greeting:
        return KnowledgeError(f"its greeting does not say {name}")
    return KnowledgeError(f"its {name} is {_shown(greeting[name])}, not {allowed}")


def _difference(name: str, value: Value | None, usual: Value | None) -> str:
    shown = _shown(value), _shown(usual)
    if isinstance(value, tuple) and isinstance(usual, tuple) and max(map(len, shown)) > WHOLE:
        pairs = enumerate(zip_longest(value, usual))
        place, pair = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
        name, shown = f"{name}[{place}]", (_shown(pair[0]), _shown(pair[1]))
    return f"{name} is {shown[0]} where the others have {shown[1]}"


def _shown(value: object) -> str:
    """Return a value that came from outside, for a message."""
    if value is None:
        return "nothing"
    shown = foreign(repr(list(value) if isinstance(value, tuple) else value))
    return shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 1]}…"
