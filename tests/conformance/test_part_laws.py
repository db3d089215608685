"""What a part must keep: the built-in parts keep it, and a part that breaks a law is found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from fedkt import registry
from fedkt.calls import made
from fedkt.clients.learners.base import Work
from fedkt.clients.learners.torch import TorchLearner
from fedkt.codecs import Codec
from fedkt.codecs.codec import About
from fedkt.errors import KnowledgeError
from fedkt.fusion import Fusion, FusionRound, Mean
from fedkt.knowledge import Knowledge, Stack
from fedkt.models import build_model
from fedkt.objectives import (
    KL,
    MSE,
    Batch,
    CrossEntropy,
    Distil,
    Outputs,
    Term,
    weighted_mean,
)
from fedkt.recipe import Train
from fedkt.shares import Share
from fedkt.shares.share import Asked
from fedkt.testing import check_codec, check_fusion, check_learner, check_share, check_term
from fedkt.upload_check import Expected

# Shares that belong to a recipe of their own.
ELSEWHERE = {
    "cached-labels",
    "control",
    "gate",
    "prediction-sets",
    "private-rows",
    "sample-hashes",
    "sample-labels",
    "sample-logits",
    "unanimous-labels",
    "update",
    "validation",
}


def built_in(kind: str) -> list[str]:
    """Return the names of a kind's parts, without those that other tests register."""
    names = registry.names(kind)
    return [n for n in names if registry.lookup(kind, n).__module__.startswith("fedkt.")]


@pytest.mark.parametrize("name", sorted({*built_in("shares")} - ELSEWHERE))
def test_shares(name: str) -> None:
    check_share(registry.lookup("shares", name)())


LOSSY = {
    "cache(rounds=3)": 0.0,
    "cfd": math.inf,
    "label-only": math.inf,
    "svd": math.inf,
    "top-k": math.inf,
    "uint8": 0.03,
    "delta(codec=uint8)": 0.03,
    "delta(then=svd)": math.inf,
    "delta(then=uint8)": 0.03,
    "svd(energy=1)": 1e-5,
}


@pytest.mark.parametrize("name", sorted({*built_in("codecs"), *LOSSY}))
def test_codecs(name: str) -> None:
    check_codec(made("codecs", name), LOSSY.get(name, 1e-2))


@pytest.mark.parametrize("model", ["mlp", "resnet8-bn", "logistic"])
def test_learners(model: str) -> None:
    check_learner(model)


@pytest.mark.parametrize(
    ("term", "on"),
    [(CrossEntropy(), "private"), (Distil(KL(2.0)), "public")],
    ids=["cross-entropy", "kl"],
)
def test_terms(term: Term, on: str) -> None:
    check_term(term, on=on)


def test_a_term_that_reads_knowledge_of_its_own() -> None:
    logits = torch.randn(40, 10, generator=torch.Generator().manual_seed(0))
    check_term(Distil(MSE()), {"public": Knowledge.rows("logits", logits)}, on="public")


# --- what breaks a law is found ------------------------------------------------------------------


@dataclass(frozen=True)
class Broken(Mean):
    """A mean that is spoilt in one way."""

    how: str = ""

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        if self.how == "changes":
            next(iter(stack.tensors.values())).zero_()
        mean = super().__call__(stack, round)
        name, tensor = next(iter(mean.tensors.items()))
        extra = {
            "draws": lambda: torch.rand(()),
            "first": lambda: next(iter(stack.tensors.values()))[0].double().mean(),
            "nan": lambda: torch.tensor(float("nan")),
            "sums": lambda: torch.tensor(0.0) if mean.kind == "probabilities" else torch.tensor(1),
        }.get(self.how, lambda: torch.tensor(0.0))()
        return mean.with_tensors({**mean.tensors, name: (tensor + extra).to(tensor.dtype)})

    def sums(self, knowledge: Knowledge, num_examples: int) -> Mapping[str, Tensor]:
        known = replace(knowledge, counts=None) if self.how == "absent" else knowledge
        return super().sums(known, num_examples)


@pytest.mark.parametrize(
    ("how", "law"),
    [
        ("changes", "it changes the uploads"),
        ("draws", "the same uploads, another result"),
        ("first", "the order of the clients changes the result"),
        ("nan", "its result is not finite"),
        ("sums", "the sums give another result"),
        ("absent", "the sums give another result"),
    ],
)
def test_a_broken_fusion_is_found(how: str, law: str) -> None:
    with pytest.raises(AssertionError, match=f"Broken of .*: {law}"):
        check_fusion(Broken(how=how))


@dataclass(frozen=True)
class Careless(Fusion):
    """Takes absent rows for zeros."""

    partial = True
    single: ClassVar[str] = "of the test"

    def __call__(self, stack: Stack, round: FusionRound) -> Knowledge:
        if stack.kind != "logits":
            raise KnowledgeError("logits only")
        return Knowledge.rows("logits", stack.values.mean(0), stack.ids)


def test_absent_rows_that_count_are_found() -> None:
    with pytest.raises(AssertionError, match="absent rows change the result"):
        check_fusion(Careless())


@registry.register(name="unweighted-test-term")
@dataclass(frozen=True)
class Unweighted:
    """Counts padding, or draws from the global generator."""

    part: ClassVar[str] = "objectives"
    draws: bool = False

    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        assert batch.y is not None
        losses = -outputs.logits.log_softmax(-1).gather(-1, batch.y[:, None]).squeeze(-1)
        if self.draws:
            return weighted_mean(losses * next(NUMBERS), batch.weight)
        return losses.mean()


NUMBERS = iter(range(1, 10**9))


def test_a_term_that_counts_padding_is_found() -> None:
    with pytest.raises(AssertionError, match="Unweighted: a cohort does what the loop does; but"):
        check_term(Unweighted())


def test_a_term_that_remembers_is_found() -> None:
    with pytest.raises(AssertionError, match="the same batches give the same steps; but"):
        check_term(Unweighted(draws=True))


@registry.register(name="random-test-share")
@dataclass(frozen=True)
class Random(Share):
    """Shares random numbers, or another kind than it says."""

    name: str = "random"
    kind: ClassVar[Any] = "statistics"
    wrong: bool = False

    def make(self, model: Any, work: Any) -> Knowledge:
        if self.wrong:
            return Knowledge("weights", {"x": torch.zeros(2)})
        return Knowledge("statistics", {"x": torch.randn(2)})

    def expected(self, asked: Asked) -> Expected:
        return Expected("statistics", None, {"x": (2,)})


def test_a_share_that_draws_is_found() -> None:
    with pytest.raises(AssertionError, match="Random: made twice it is the same; but"):
        check_share(Random())
    with pytest.raises(AssertionError, match="its kind is statistics; but it made weights"):
        check_share(Random(wrong=True))


class Halved(Codec):
    """Forgets the factor on the way back, or changes its input."""

    def __init__(self, how: str) -> None:
        self.how = how

    def encode(self, arrays: Mapping[str, np.ndarray], about: About) -> dict[str, np.ndarray]:
        if self.how == "changes":
            for array in arrays.values():
                array *= 0
        return {k: a / 2 if a.dtype.kind == "f" else a for k, a in arrays.items()}

    def decode(self, arrays: Mapping[str, np.ndarray], about: About) -> dict[str, np.ndarray]:
        return dict(arrays)


@pytest.mark.parametrize(
    ("how", "law"),
    [
        ("changes", "it changes what it is given"),
        ("forgets", "values comes back .* apart, more than 0.01"),
    ],
)
def test_a_broken_codec_is_found(how: str, law: str) -> None:
    with pytest.raises(AssertionError, match=f"Halved of .*: {law}"):
        check_codec(Halved(how))


class Noisy(TorchLearner):
    """Trains by global random numbers."""

    def train(self, step: Train, work: Work, stream: str) -> float | None:
        loss = super().train(replace(step, rate=1 + float(torch.rand(()))), work, stream)
        return loss


class Forgetful(TorchLearner):
    """Keeps something outside its state."""

    calls = 0

    def train(self, step: Train, work: Work, stream: str) -> float | None:
        self.calls += 1
        return super().train(replace(step, rate=1 + 0.1 * self.calls), work, stream)


@pytest.mark.parametrize(
    ("learner", "law"),
    [
        (Noisy, "seed, round, client, step and data decide what training does"),
        (Forgetful, "from its state a client goes on the same"),
    ],
)
def test_a_broken_learner_is_found(learner: type[TorchLearner], law: str) -> None:
    with pytest.raises(AssertionError, match=f"mine#.*: {law}; but"):
        check_learner(lambda: learner(lambda: build_model("mlp", (1, 8, 8), 10), 10, "mine"))
