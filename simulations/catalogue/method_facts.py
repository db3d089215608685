"""The facts of a method, asked of the method itself and read from its docstrings.

What travels, the architectures, the public set and the models at the server are those of the
strategy with its default options. Bytes and paper stand in the docstrings of class and module.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from fedkt import registry
from fedkt.clients import phases
from fedkt.clients.learners.making import learner_of, make_learner
from fedkt.data.samples import ClientData, Samples
from fedkt.descriptions import docstring_of
from fedkt.docstrings import plain, read_docstring
from fedkt.errors import ConfigError, FedktError
from fedkt.greeting import TOLD, told
from fedkt.recipe import Recipe
from fedkt.strategies.construction import make_strategy
from fedkt.strategies.server.strategy import KnowledgeStrategy
from fedkt.text import raised

INPUT, CLASSES = (1, 8, 8), 3  # of the client that is asked which models can follow a recipe
UNPUBLISHED = ("ours", "baseline")  # what stands in place of a citation
CITATION = re.compile(rf"\(([^()]*\b(?:19|20)\d\d\b[^()]*|{'|'.join(UNPUBLISHED)})\)")
REMARK = re.compile(r"\s\((?=[^()]*[a-z]{3})[^()]*\)")  # words in brackets, no factor of a formula
BOTH_WAYS = re.compile(r"\bup (.+?)[,;]? down (.+?)(?=[,;:]|\.\s|\.$| all |$)")


@dataclass(frozen=True)
class MethodFacts:
    """The facts of a method; sentences of docstrings as they are written.

    Parameters
    ----------
    name : str
        The registered name.
    family : str
        The folder of a built-in method; empty for all others.
    line : str
        What it does: the first line of the docstring.
    paper : str
        The first line of its module's docstring; empty where it cites nothing.
    bytes : str
        What the docstring says on bytes; empty without.
    up, down : tuple[str, ...]
        What travels to the server and to the clients: kinds of knowledge, and the names of what the
        server makes without declaring its kind.
    models : {"one", "equal features", "networks", "any"}
        One architecture; any networks with features of one width; any networks; any models.
    public : {"", "clients", "server", "both"}
        Where a public set is needed.
    server : {"", "weights", "model"}
        What the server holds: global weights of the clients' architecture; a model of its own.
    problem : str
        Why the facts from ``up`` on are not known; empty if they are.
    """

    name: str
    family: str
    line: str
    paper: str
    bytes: str
    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    models: str = ""
    public: str = ""
    server: str = ""
    problem: str = ""

    @property
    def formula(self) -> tuple[str, str] | None:
        """The bytes up and down as formulas; None where the docstring does not give them so."""
        _, _, said = plain(self.bytes).partition(": ")
        found = BOTH_WAYS.search(REMARK.sub("", said))
        return (found[1], found[2]) if found else None

    @property
    def citation(self) -> str:
        """Authors, year and place of the paper, or one of ``UNPUBLISHED``; empty without."""
        found = CITATION.search(self.paper)
        return found[1] if found else ""

    @property
    def short_citation(self) -> str:
        """The citation with one or two authors, and without an address."""
        parts = self.citation.split(", ")
        last = next((i for i, p in enumerate(parts) if " and " in p or "et al." in p), 0)
        year = next((p for p in parts[last + 1 :] if re.search(r"\b(?:19|20)\d\d\b", p)), "")
        authors = parts[0] if last == 0 else f"{parts[0]} et al."
        return ", ".join(filter(None, (authors, year)))


def facts_of(name: str) -> MethodFacts:
    """Return the facts of a strategy by its name or ``path/to/file.py:Class``."""
    cls = registry.lookup("strategies", name)
    text = docstring_of(cls)
    module = sys.modules.get(cls.__module__)
    paper = read_docstring(inspect.getdoc(module)).line if module else ""
    said = next((p for p in text.paragraphs if p.startswith("Bytes ")), "")
    written = MethodFacts(
        name=registry.short_name("strategies", cls),
        family=family_of(cls),
        line=text.line,
        paper=paper.rstrip(".") if CITATION.search(paper) else "",
        bytes=said,
    )
    try:
        return replace(written, **asked(make_strategy({"name": name})))
    except FedktError as error:
        return replace(written, problem=str(error))
    except Exception as error:  # a user's code may raise anything
        return replace(written, problem=raised(error))


def asked(strategy: KnowledgeStrategy) -> dict[str, Any]:
    """Return what a strategy says of itself: the facts from ``up`` on, by name."""
    recipe = strategy.settled_recipe
    places = {"clients": recipe.needs_public, "server": strategy.needs_samples}
    public = [place for place, needed in places.items() if needed]
    whole = any(share.whole(recipe.world) for share in recipe.share)
    return {
        "up": _each(share.kind for share in recipe.share),
        "down": _each(kinds_down(strategy).values()),
        "models": _models(recipe),
        "public": "both" if len(public) == 2 else "".join(public),
        "server": "model" if strategy.has_models else "weights" if whole else "",
    }


def kinds_down(strategy: KnowledgeStrategy) -> dict[str, str]:
    """Return the kinds of the knowledge that clients are sent, by name.

    What the server makes itself without declaring its kind stands under its name.
    """
    recipe = strategy.settled_recipe
    shared = {share.name: share.kind for share in recipe.share}
    kinds = {**shared, **strategy.fused_kinds}
    names = (*shared, *recipe.given)
    return {name: kinds.get(name, name) for name in names if name in recipe.comes}


def family_of(cls: type) -> str:
    """Return the folder below ``strategies/`` in which a built-in method stands."""
    above = f"{registry.METHODS}."
    folder, _, _ = cls.__module__.removeprefix(above).rpartition(".")
    return folder if cls.__module__.startswith(above) else ""


def about_family(family: str) -> str:
    """Return the docstring line of a family's folder."""
    return (sys.modules[f"{registry.METHODS}.{family}"].__doc__ or "").partition("\n")[0]


def _each(kinds: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kinds))


def _models(recipe: Recipe) -> str:
    """Return which models can follow a recipe together: asked of two models, and of its parts."""
    if recipe.needs_one_architecture:
        return "one"
    data = _example()
    classifier = learner_of(_Classifier, CLASSES, name="classifier")
    if phases.refuses(recipe, classifier, data) is None:
        return "any"
    network = make_learner("mlp", INPUT, CLASSES)
    try:
        network.follow(recipe)
        network.reset(0, 0)
        equal = told(recipe, network, data)
    except ConfigError:  # it is for other networks, with another kind of layer or of inputs
        return "networks"
    return "equal features" if f"{TOLD['']}feature width" in equal else "networks"


class _Classifier:
    """A classifier of scikit-learn's interface that nobody fits; importing a real one is slow."""

    def fit(self, x: Any, y: Any) -> None:
        """Take samples."""

    def predict_proba(self, x: Any) -> None:
        """Take inputs."""


@lru_cache
def _example() -> ClientData:
    """Return a client with a sample of each class, and as many public ones."""
    x, y = torch.zeros(CLASSES, *INPUT), torch.arange(CLASSES)
    samples = Samples(x, y, y)
    return ClientData(samples, samples, samples, samples, samples, CLASSES, INPUT)
