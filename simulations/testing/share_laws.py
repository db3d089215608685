"""The laws of shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from fedkt import wire
from fedkt.knowledge import Fused, Knowledge, Upload, Uploads
from fedkt.objectives import HeadPart
from fedkt.recipe import Recipe
from fedkt.shares import Share
from fedkt.simulations.engines.population import learner_for
from fedkt.strategies import KnowledgeStrategy
from fedkt.testing.kit import Method, difference, federate, leaves, plan_for
from fedkt.testing.learner_laws import CLIENT, PRIVATE, SEED, small_federation, train, work_of
from fedkt.testing.strategy_laws import registered

ROUNDS = 2
TOLERANCE = 1e-4


def check_share(
    share: Share, models: Sequence[str] = ("mlp",), heads: Sequence[HeadPart] = ()
) -> None:
    """Require that a share keeps the laws, in two rounds of four clients with digits.

    It travels as plain data; making it changes nothing and gives the same each time; the server
    accepts what arrives, and it is what was made; the seed decides it; a cohort makes what the loop
    makes, up to rounding.

    Parameters
    ----------
    share : Share
        With its options.
    models : Sequence[str]
        The models, by name or ``file.py:Class``; inputs are ``[1, 8, 8]``, with ten classes.
    heads : Sequence[HeadPart]
        Networks beside the model that it reads.

    Raises
    ------
    AssertionError
        Naming the first law that is broken.
    """
    name = type(share).__name__
    recipe = Recipe(learn=[PRIVATE], share=[share], heads=tuple(heads))
    assert Recipe.from_json(recipe.to_json()) == recipe, f"{name}: it travels as plain data"
    for model in models:
        _is_made_without_a_trace(share, recipe, model, name)
    once, again = (_uploads(recipe, models, "loop") for _ in range(2))
    apart = difference(leaves(_plain(once)), leaves(_plain(again)))
    assert apart is None, f"{name}: the seed decides what is shared; but {apart}"
    _agree(once, _uploads(recipe, models, "cohort"), name)


def _is_made_without_a_trace(share: Share, recipe: Recipe, model: str, name: str) -> None:
    data, learner = small_federation().client(CLIENT), learner_for(model, small_federation())
    learner.follow(recipe)
    learner.reset(SEED, CLIENT)
    reason = share.refuses(learner, data)
    assert reason is None, f"{name}: it refuses {model}: {reason}"
    train(learner, recipe, CLIENT)
    before = leaves(learner.state())
    first, second = (share.make(learner, work_of(CLIENT, recipe)) for _ in range(2))
    changed = difference(before, leaves(learner.state()))
    assert changed is None, f"{name}: making it changes nothing; but {changed}"
    apart = difference(leaves(first), leaves(second))
    assert apart is None, f"{name}: made twice it is the same; but {apart}"
    assert first.kind == share.kind, f"{name}: its kind is {share.kind}; but it made {first.kind}"
    arrived = wire.decode(wire.encode(first, 1, None), lambda round_: None)
    apart = difference(leaves(first), leaves(arrived))
    assert apart is None, f"{name}: what arrives is what was made; but {apart}"


class Sharing(KnowledgeStrategy):
    """Let clients learn and share; nothing comes back."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe, self.seen = recipe, list[Upload]()

    def recipe(self) -> Recipe:
        """Return the recipe."""
        return self._recipe

    def fuse(self, uploads: Uploads) -> Fused:
        """Keep the uploads."""
        self.seen += list(uploads)
        return Fused()


def _uploads(recipe: Recipe, models: Sequence[str], executor: str) -> list[Upload]:
    """Return what the server accepts in a run."""
    with registered(Sharing(recipe)) as reference:
        outcome = federate(plan_for(Method(reference, executor), models=models, rounds=ROUNDS))
    failures = [f"{f['reason']}" for row in outcome.rows for f in row["failures"]]
    assert not failures, f"the server refuses what was shared: {failures[0]}"
    return cast(Sharing, outcome.strategy).seen


def _plain(uploads: Sequence[Upload]) -> list[tuple[int, int, dict[str, Knowledge]]]:
    return [(u.client, u.num_examples, dict(u.knowledge)) for u in uploads]


def _agree(looped: Sequence[Upload], stacked: Sequence[Upload], name: str) -> None:
    for one, other in zip(looped, stacked, strict=True):
        for share, knowledge in one.knowledge.items():
            for key, tensor in knowledge.tensors.items():
                apart = (tensor.double() - other.knowledge[share].tensors[key].double()).abs()
                gap = float(apart.max()) if apart.numel() else 0.0
                law = "a cohort makes what the loop makes"
                assert gap < TOLERANCE, f"{name}: {law}; but {key} is {gap:g} apart"
        assert one.num_examples == other.num_examples, f"{name}: executors count alike"
