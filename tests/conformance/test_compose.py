"""Random combinations of parts: what ``compose`` accepts runs, alike in both executors."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
from torch import Tensor

from fedkt import registry
from fedkt.clients import TrainingOptions
from fedkt.errors import ConfigError
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.experiment.references import read_strategy
from fedkt.simulations.runs.plan import Plan, prepare
from fedkt.strategies.construction import make_strategy
from fedkt.testing.kit import federate, leaves

TOLERANCE = 1e-5  # of float32 weights after a round
QUICK, FULL = 40, 200  # combinations
PLAIN = TrainingOptions("sgd", learning_rate=0.05, batch_size=8, public_batch_size=8)
DIVERGENCES = ("kl", "kl(temperature=2)", "mse", "mae")
CHOICES: dict[str, tuple[str, ...]] = {
    "objective": (
        *DIVERGENCES,
        *(f"distil(divergence={divergence})" for divergence in DIVERGENCES),
        *(f"supported(source=public, divergence={divergence})" for divergence in DIVERGENCES),
        "ramped(term=distil(divergence=mse))",
    ),
    "fusion": (
        "trimmed-mean(trim=0.34)",
        "personalised-mean(own=0)",
        "sample-weighted-mean(weighting=variance)",
        "trusted-mean(choice=off, weighting=entropy, form=probabilities)",
        "trusted-mean(choice=median)",
        "trusted-mean(choice=root, form=probabilities, root=5)",
        "semantic-neighbours(beta=2, divergence=js, nearest=2)",
        "knowledge-vote(gate=0.2)",
        "knowledge-vote(gate=0.2, unsupported=true)",
        *registry.names("fusions"),
    ),
    "codec": ("none", "float16"),
    "readout": tuple(registry.names("readouts")),
    "form": ("logits", "probabilities", "labels"),
    "private": ("cross-entropy", "adjusted-cross-entropy"),
    "rehearsal": ("0", "0.5"),
    "public_samples": ("0", "7"),
}


DATA = {"clients": 4, "samples_per_client": 12, "public_samples": 9, "test_samples": 6}


def combinations(seed: int) -> Iterator[str]:
    """Yield random references without end, each once; those that are refused are left out."""
    draw, seen = random.Random(seed), set()
    while True:
        options = ", ".join(f"{key}={draw.choice(values)}" for key, values in CHOICES.items())
        reference = f"compose({options}, local_epochs=1, distil_epochs=1)"
        if reference not in seen and not refused(reference):
            yield reference
        seen.add(reference)


def refused(reference: str) -> str | None:
    """Return the line in which a combination is refused; None if it is not."""
    try:
        make_strategy(read_strategy(reference))
    except ConfigError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    """Return a federation as tiny as can be, for the loop and for cohorts.

    Of an odd number of clients the median is one of their answers, and from it the absolute
    difference of that client is a rounding error, whose sign is its gradient.
    """
    made = [
        prepare(parse({
            "rounds": 1,
            "models": ("mlp",),
            "strategy": {"name": "compose"},
            "data": DATA,
            "run": {"grid": "in-process", "workers": 1, "executor": executor},
        }))
        for executor in ("loop", "cohort")
    ]  # fmt: skip
    return [replace(p, population=replace(p.population, training=PLAIN)) for p in made]


def check(reference: str, plans: list[Plan]) -> None:
    """Run a combination for one round in both executors; they agree within rounding."""
    strategy = make_strategy(read_strategy(reference))
    loop, cohort = (federate(replace(plan, strategy=strategy)) for plan in plans)
    assert [loop.rows[0]["failures"], cohort.rows[0]["failures"]] == [[], []], reference
    assert loop.rows[0]["traffic"] == cohort.rows[0]["traffic"], reference
    ours, theirs = leaves(cohort.states[0]), leaves(loop.states[0])
    assert ours.keys() == theirs.keys(), reference
    for path, value in ours.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            apart = float((value - theirs[path]).abs().max())
            assert apart < TOLERANCE, f"{reference}: {path} is {apart} apart"


def test_random_combinations(plans: list[Plan]) -> None:
    for reference in islice(combinations(4), QUICK):
        check(reference, plans)


@pytest.mark.full
def test_more_random_combinations(plans: list[Plan]) -> None:
    for reference in islice(combinations(4), QUICK, FULL):
        check(reference, plans)
