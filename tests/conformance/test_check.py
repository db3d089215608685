"""The quick level itself: it is one call, and finds what breaks a law in the one recorded run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord

from fedkt import registry
from fedkt.errors import ConfigError
from fedkt.knowledge import Fused, Uploads
from fedkt.strategies.answers.fedmd import FedMD
from fedkt.testing.kit import Method, Outcome
from fedkt.testing.laws import test_recorded as laws
from fedkt.testing.recorded import recorded
from fedkt.testing.strategy_laws import Strategy, check_strategy, reference_of

from .example_strategy import Median

Law = Callable[[Method, Outcome], None]


def added(fused: Fused, value: float) -> Fused:
    """Return the fused answers with a number added to each."""
    mean = fused.shared["public"]
    return Fused(shared={"public": mean.with_tensors({"values": mean.values + value})})


class Noisy(FedMD):
    """Draws from torch's global generator."""

    def fuse(self, uploads: Uploads) -> Fused:
        return added(super().fuse(uploads), float(torch.randn(1)))


class Forgetful(FedMD):
    """Counts rounds outside its memory."""

    rounds = 0

    def fuse(self, uploads: Uploads) -> Fused:
        self.rounds += 1
        return added(super().fuse(uploads), self.rounds)


class Hasty(FedMD):
    """Listens to who answers first."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrived = list(replies)
        self.first_node = arrived[0].metadata.src_node_id
        return super().aggregate_train(server_round, arrived)

    def fuse(self, uploads: Uploads) -> Fused:
        return added(super().fuse(uploads), self.first_node % 7)


class Selfish(FedMD):
    """Returns everyone's own answers."""

    def fuse(self, uploads: Uploads) -> Fused:
        return Fused(personal={u.client: u.knowledge for u in uploads})


@pytest.fixture(autouse=True)
def _registered_here_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    known = {
        part: {n: registry.lookup(part, n) for n in registry.names(part)} for part in registry.PARTS
    }
    monkeypatch.setattr(registry, "_known", known)
    yield
    recorded.cache_clear()  # of names that will mean nothing


@pytest.mark.parametrize(
    ("lawless", "law"),
    [
        (Noisy, laws.test_the_seed_alone_decides),
        (Hasty, laws.test_the_seed_alone_decides),
        (Forgetful, laws.test_it_goes_on_from_a_checkpoint),
    ],
)
def test_a_broken_law_is_found(lawless: type[FedMD], law: Law) -> None:
    method = Method(reference_of(lawless))
    with pytest.raises(AssertionError, match=f"{lawless.__name__}: .*; but"):
        law(method, recorded(method))


def test_who_ignores_the_others_is_found() -> None:
    with pytest.raises(pytest.fail.Exception, match="Selfish: what the others know changes"):
        laws.test_others_change_a_client(Method(reference_of(Selfish)))


def test_a_law_that_a_strategy_says_it_cannot_keep_is_left_out() -> None:
    class Frank(Selfish):
        """Returns everyone's own answers, and says so."""

        exempt: ClassVar[Mapping[str, str]] = {"others_change_a_client": "nobody is told anything"}

    check_strategy(Frank, models=["mlp"])


@pytest.mark.parametrize("strategy", [Median, Median(distil_epochs=1)])
def test_a_class_or_an_object_that_keeps_the_laws(strategy: Strategy) -> None:
    assert (
        Method(reference_of(strategy)).make().recipe()
        == (strategy() if isinstance(strategy, type) else strategy).recipe()
    )
    check_strategy(strategy)


def test_every_broken_law_is_named() -> None:
    with pytest.raises(AssertionError) as broken:
        check_strategy(Noisy(local_epochs=1))
    assert "neither global random numbers nor the order of messages" in str(broken.value)


def test_an_edited_file_is_checked_anew(tmp_path: Path) -> None:
    file = tmp_path / "edited.py"
    sound = Path(__file__).with_name("example_strategy.py").read_text(encoding="utf-8")
    file.write_text(sound, encoding="utf-8")
    check_strategy(f"{file}:Median", models=["mlp"])
    lawless = sound.replace("median(0).values", "median(0).values + torch.rand(())")
    assert lawless != sound
    file.write_text(
        lawless.replace("\nfrom fedkt", "\nimport torch\nfrom fedkt", 1), encoding="utf-8"
    )
    with pytest.raises(AssertionError, match="neither global random numbers nor the order"):
        check_strategy(f"{file}:Median", models=["mlp"])


def test_nothing_stays_registered() -> None:
    before = registry.names("strategies")
    check_strategy(Median, models=["mlp"])
    assert registry.names("strategies") == before


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"level 'slow': must be one of quick, full"):
        check_strategy("knfu", level="slow")


class InTurn(FedMD):
    """Asks two clients, others in every round."""

    def choose(self, clients: Sequence[int]) -> Sequence[int]:
        first = self.round.number % len(clients)
        return [clients[first], clients[(first + 1) % len(clients)]]


def test_a_method_may_choose_its_clients() -> None:
    check_strategy(InTurn(local_epochs=1, distil_epochs=1), models=["mlp"], level="quick")
