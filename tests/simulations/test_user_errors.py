"""Mistakes in the files of a user: one line that says what to do, and no traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

FILE = '''
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedkt.data import Dataset
from fedkt.fusion import mean
from fedkt.knowledge import Fused, Knowledge
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.recipe import Load, Predict, Recipe, Train, Weights
from fedkt.registry import register
from fedkt.strategies import KnowledgeStrategy


class Base(KnowledgeStrategy):
    """Right in itself."""

    terms = (CrossEntropy(),)

    def recipe(self):
        distil = Train(on="public", terms=[Distil(KL())])
        return Recipe(learn=[Train("private", self.terms)], share=[Predict()], absorb=[distil])

    def fuse(self, uploads):
        return mean(uploads["public"])


class ATensor(Base):
    def fuse(self, uploads):
        return uploads["public"].values.mean(0)


class Nothing(Base):
    def fuse(self, uploads):
        mean(uploads["public"])


class SharedTensor(Base):
    def fuse(self, uploads):
        return Fused(shared={"public": uploads["public"].values.mean(0)})


class PersonalTensor(Base):
    def fuse(self, uploads):
        return Fused(personal=dict(zip(uploads.clients, uploads["public"].values)))


class Misspelt(Base):
    def fuse(self, uploads):
        return mean(uploads["pubic"])


class ASet(Base):
    def fuse(self, uploads):
        self.memory.setdefault("seen", {"clients": set()})["clients"].update(uploads.clients)
        return super().fuse(uploads)


class PairsForKeys(Base):
    def fuse(self, uploads):
        self.memory["pairs"] = {(0, 1): 1.0}
        return super().fuse(uploads)


class NumpyNumber(Base):
    def fuse(self, uploads):
        self.memory["last"] = [1.0, np.float32(2)]
        return super().fuse(uploads)


class NoRecipe(Base):
    def recipe(self):
        return [Train("private", self.terms)]


class BrokenRecipe(Base):
    def recipe(self):
        return Recipe(learn=self.steps)


class BrokenStart(Base):
    def __init__(self):
        self.temperature = 1 / 0


@dataclass(frozen=True)
class Plain:
    """A term, and what is right of it."""

    part = "objectives"

    def needs(self):
        return ()

    def __call__(self, outputs, batch, knowledge):
        return outputs.logits.square().mean()


class Forgotten(Plain):
    pass


@register
@dataclass(frozen=True)
class Vector(Plain):
    def __call__(self, outputs, batch, knowledge):
        return outputs.logits.square().mean(-1)


@register
@dataclass(frozen=True)
class Number(Plain):
    def __call__(self, outputs, batch, knowledge):
        return 0.5


@register
@dataclass(frozen=True)
class Featureless(Plain):
    def __call__(self, outputs, batch, knowledge):
        return outputs.features.square().mean()


@register
@dataclass(frozen=True)
class Unpaired(Plain):
    def __call__(self, outputs, batch, knowledge):
        return (outputs.logits.mean() - outputs.beside.logits.mean()).square()


@register
@dataclass(frozen=True)
class Buggy(Plain):
    def __call__(self, outputs, batch, knowledge):
        return outputs.logits.reshape(7, -1).mean() + 1 / 0


@register
@dataclass(frozen=True)
class Unread(Plain):
    def __call__(self, outputs, batch, knowledge):
        return knowledge["public"].at(batch.ids).mean() * outputs.logits.mean()


@register
@dataclass(frozen=True)
class OneName(Plain):
    def needs(self):
        return "public"


@register
@dataclass(frozen=True)
class NoNames(Plain):
    def needs(self):
        pass


def using(*terms):
    return type("Using", (Base,), {"terms": terms})


UsingForgotten, UsingVector, UsingNumber = using(Forgotten()), using(Vector()), using(Number())
UsingFeatureless, UsingBuggy = using(CrossEntropy(), Featureless()), using(Buggy())
UsingUnpaired, UsingOneName, UsingUnread = using(Unpaired()), using(OneName()), using(Unread())
UsingNoNames, UsingAClass, UsingAFunction = using(NoNames()), using(CrossEntropy), using(len)


class OwnShare(Base):
    def recipe(self):
        return Recipe(share=[Plain()])


class ShareByName(Base):
    def recipe(self):
        return Recipe(share="public")


class StepAsShare(Base):
    def recipe(self):
        return Recipe(learn=[Weights()])


class Alone(Base):
    def recipe(self):
        return Recipe(learn=Train("private", self.terms))


def unreadable():
    raise OSError("no such\\nserver")


def misread():
    return np.zeros(3)["x"]


def needy(folder):
    return folder


def torn(labels, argument, clients, seed, samples_per_client):
    return labels.nothing


def nothing(labels, argument, clients, seed, samples_per_client):
    pass
'''


def strategy(name: str) -> dict[str, Any]:
    return {"strategy": {"name": f"mine.py:{name}"}}


SCALAR = "must return a scalar tensor"
CASES: list[tuple[dict[str, Any], int, list[str]]] = [
    (strategy("ATensor"), 2, ["a-tensor: fuse() must return Fused", "Knowledge", "not Tensor"]),
    (strategy("Nothing"), 2, ["nothing: fuse() must return Fused", "not NoneType"]),
    (strategy("SharedTensor"), 2, ["fuse() gave everyone", "'public'", "Knowledge", "Tensor"]),
    (strategy("PersonalTensor"), 2, ["fuse() gave client 0", "name", "Tensor"]),
    (strategy("Misspelt"), 1, ["'pubic'", "Did you mean 'public'?"]),
    (strategy("ASet"), 2, ["memory.seen.clients", "a set", "tensors", "lists"]),
    (strategy("PairsForKeys"), 2, ["memory.pairs", "keys", "text or whole numbers"]),
    (strategy("NumpyNumber"), 2, ["memory.last.1", "a float32"]),
    (strategy("NoRecipe"), 2, ["no-recipe: recipe() must return a Recipe, not list"]),
    (strategy("BrokenRecipe"), 2, ["recipe() raised AttributeError", "'steps'"]),
    (strategy("BrokenStart"), 2, ["mine.py:BrokenStart", "ZeroDivisionError"]),
    (strategy("UsingForgotten"), 2, ["Forgotten is not registered", "@register"]),
    (strategy("UsingVector"), 1, ["term vector", SCALAR, "weighted_mean", "shape ["]),
    (strategy("UsingNumber"), 1, ["term number", SCALAR, "not float"]),
    (strategy("UsingFeatureless"), 1, ["term featureless", "'NoneType'", "needs_features = True"]),
    (strategy("UsingUnpaired"), 1, ["term unpaired", "'NoneType'", "needs_beside = True"]),
    (strategy("UsingBuggy"), 1, ["term buggy", "RuntimeError", "shape '[7, -1]' is invalid"]),
    (strategy("UsingUnread"), 1, ["term unread", "KeyError: 'public'", "in its needs()"]),
    (strategy("UsingOneName"), 2, ["one-name: needs() must return a tuple", "('public',)"]),
    (strategy("UsingNoNames"), 2, ["no-names: needs() must return a tuple", "None"]),
    (strategy("UsingAClass"), 2, ["terms", "CrossEntropy()"]),
    (strategy("UsingAFunction"), 2, ["terms", "len"]),
    (strategy("OwnShare"), 2, ["share", "Plain", "a list of Share"]),
    (strategy("ShareByName"), 2, ["share", "'public'", "a list of Share"]),
    (strategy("StepAsShare"), 2, ["learn", "Weights", "a list of Step"]),
    (strategy("Alone"), 2, ["learn must be a list of Step"]),
    ({"data__dataset": "mine.py:unreadable"}, 2, ["mine.py:unreadable", "OSError: no such server"]),
    ({"data__dataset": "mine.py:misread"}, 2, ["mine.py:misread", "IndexError"]),
    ({"data__dataset": "mine.py:needy"}, 2, ["mine.py:needy", "TypeError", "'folder'"]),
    ({"data__partition": "mine.py:torn"}, 2, ["mine.py:torn", "AttributeError", "'nothing'"]),
    ({"data__partition": "mine.py:nothing"}, 2, ["mine.py:nothing", "row numbers"]),
]


def called(case: tuple[dict[str, Any], int, list[str]]) -> str:
    (value,) = case[0].values()
    return (
        str(value.get("name") if isinstance(value, dict) else value).rpartition(":")[2].strip("']")
    )


@pytest.mark.parametrize("case", CASES, ids=map(called, CASES))
def test_a_mistake_is_one_line(
    here: Path, fedkt: Any, write_toml: Any, no_report: None, case: Any
) -> None:
    (here / "mine.py").write_text(FILE, encoding="utf-8")
    changes, code, words = case
    toml = write_toml(here, rounds=1, **changes)
    answer = fedkt("simulate", toml, "--out", here / "out", "--set", "run.executor=loop")
    assert answer.code == code, answer.err
    (line,) = answer.err.splitlines()
    assert line.startswith("error: ")
    assert [word for word in words if word not in line] == [], line
    assert len(line.partition(" What is finished is kept")[0]) < 400
