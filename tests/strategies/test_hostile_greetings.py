"""Hostile greetings end no run: who sends one is left out by name, as if it did not exist.

All messages go through Flower's own serialisation, in this process. What a client sends after a
greeting of which nothing is wrong is another matter: an architecture that a method does not need
may be a lie, and nobody finds out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedkt.errors import ConfigError, RunFailedError
from fedkt.simulations.engines import _flwr_shim as shim
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.strategies.answers.knfu import KnFu
from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.text import LONGEST

HOSTILE, NODE = 3, 5  # the client and its node; of four, so the last one
Greeting = dict[str, Any]
Answer = RecordDict | Error | None
Change = Callable[[Greeting], Answer]  # of the true greeting into what is sent


def over_the_wire(message: Message) -> Message:
    """Return a message as it arrives over a network: as Flower's objects, each in bytes."""
    objects = get_all_nested_objects(message)
    contents = {name: one.deflate() for name, one in objects.items()}
    arrived = inflate_object_from_contents(message.object_id, contents)
    assert isinstance(arrived, Message)
    shim.number(arrived, message.metadata.message_id)
    return arrived


class Wire(InProcessGrid):
    """A grid that serialises all messages, without the hostile node or with its greeting."""

    def __init__(self, grid: InProcessGrid, change: Change | None) -> None:
        super().__init__(grid._app, grid.clients)
        self._change = change

    def get_node_ids(self) -> list[int]:
        return [n for n in super().get_node_ids() if n != NODE or self._change is not None]

    def _handle(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        arrived = [over_the_wire(m) for m in messages]
        replies = super()._handle(arrived, timeout)
        return [
            over_the_wire(reply)
            for message, honest in zip(arrived, replies, strict=True)
            if (reply := self._sent(message, honest)) is not None
        ]

    def _sent(self, message: Message, honest: Message) -> Message | None:
        to = message.metadata.message_type, message.metadata.dst_node_id
        if self._change is None or to != ("query", NODE):
            return honest
        answer = self._change(dict(honest.content["config"]))
        return None if answer is None else Message(answer, reply_to=message)


def bits(value: Any) -> Any:
    """Return what can be compared bit for bit."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if is_dataclass(value) and not isinstance(value, type):
        skipped = ("seconds", "notes")
        return {
            f.name: bits(getattr(value, f.name)) for f in fields(value) if f.name not in skipped
        }
    if isinstance(value, Mapping):
        return {k: bits(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [bits(v) for v in value]
    return "nan" if isinstance(value, float) and math.isnan(value) else value


@pytest.fixture
def outcome(world: Any, with_options: Any) -> Callable[..., tuple[Any, list[str]]]:
    """Return a function that runs a method and returns all that came out, and the notes."""

    def run(
        change: Change | None, method: str = "knfu", rounds: int = 1, **options: Any
    ) -> tuple[Any, list[str]]:
        strategy = KnFu(local_epochs=1, distil_epochs=1) if method == "knfu" else FedAvg(1)
        surroundings = world()
        surroundings.grid = grid = Wire(surroundings.grid, change)
        options = {"clients": 3, "participation": 0.7, "quorum": 3, **options}
        surroundings.start(with_options(strategy, **options), rounds)
        notes = [note for report in surroundings.reports for note in report.notes]
        return (bits(surroundings.reports), bits(grid.snapshot())), notes

    return run


_without: dict[tuple[str, int], Any] = {}  # what comes out where the client does not exist


def left_out(outcome: Any, change: Change, method: str = "knfu", rounds: int = 1) -> str:
    """Check that a run is that without the client, bit for bit; return how it is named, and why."""
    if (method, rounds) not in _without:
        _without[method, rounds], notes = outcome(None, method, rounds)
        assert notes == []
    result, (note,) = outcome(change, method, rounds)
    assert result == _without[method, rounds]
    who, colon, reason = note.removeprefix("left out of the run: ").partition(": ")
    assert who in (f"client {HOSTILE}", f"node {NODE}")
    assert colon
    assert 0 < len(reason) <= LONGEST
    assert reason.isprintable()
    return f"{who}: {reason}"


def said(**changes: Any) -> Change:
    """Return a greeting with other values; None leaves the fact out."""

    def change(honest: Greeting) -> Answer:
        told = {**honest, **{key.replace("_", "-"): value for key, value in changes.items()}}
        return RecordDict(
            {"config": ConfigRecord({k: v for k, v in told.items() if v is not None})}
        )

    return change


def beside(**records: Any) -> Change:
    """Send other records along."""
    return lambda honest: RecordDict({"config": ConfigRecord(honest), **records})


def answered(answer: Answer) -> Change:
    return lambda honest: answer


FACTS = (
    "client", "num-classes", "classes", "input-shape", "columns", "public-size", "architecture",
    "training",
)  # fmt: skip
NUMBERS, TEXTS = ("client", "num-classes", "public-size"), ("architecture",)
PUBLIC, INPUTS = "about: public set", "about: input shape"  # which parts of the recipe tell
MODEL, DONE = "about: architecture", "about: preprocessing"

FIXED: list[tuple[Change, str]] = [
    *((said(**{fact: None}), f"its greeting does not say {fact}") for fact in FACTS),
    *((said(**{fact: 1.0}), f"its {fact} is 1.0, not ") for fact in FACTS),
    *((said(**{fact: True}), f"its {fact} is True, not ") for fact in FACTS),
    *((said(**{fact: b"1"}), f"its {fact} is b'1', not ") for fact in FACTS),
    *((said(**{fact: "1"}), f"its {fact} is '1', not ") for fact in FACTS if fact not in TEXTS),
    *((said(**{fact: 7}), f"its {fact} is 7, not ") for fact in FACTS if fact not in NUMBERS),
    *((said(**{fact: [1.5]}), f"its {fact} is [1.5], not ") for fact in FACTS),
    *((said(**{fact: math.nan}), f"its {fact} is nan, not ") for fact in NUMBERS),
    *((said(**{fact: math.inf}), f"its {fact} is inf, not ") for fact in NUMBERS),
    *((said(**{fact: -1}), f"its {fact} is -1, not ") for fact in NUMBERS),
    *((said(**{fact: 2**64 - 1}), f"its {fact} is 18446744073709551615, not ") for fact in NUMBERS),
    *((said(client=taken), f"it says it is client {taken}, as node ") for taken in (0, 1, 2)),
    (said(client=2**63), "its client is 9223372036854775808, not "),
    (said(num_classes=0), "its num-classes is 0, not "),
    (said(num_classes=9), "num-classes is 9 where the others have 10"),
    (said(num_classes=10**6), "num-classes is 1000000 where the others have 10"),
    (said(classes=[*"1023456789"]), "classes is ['1', '0', '2', "),
    (said(classes=[*"012345678"]), "classes is ['0', '1', '2', "),
    (said(classes=[]), "classes is [] where the others have ['0', "),
    (said(classes=["benign", "malignant"]), "classes is ['benign', 'malignant'] where"),
    (said(classes=["0"] * 10**5), "classes[1] is '0' where the others have '1'"),
    (said(classes=["\x1b[2J\n0" * 99] * 10), "classes[0] is '\\x1b[2J\\n0"),
    (said(input_shape=[]), "its input-shape is [], not "),
    (said(input_shape=[1, 0, 8]), "its input-shape is [1, 0, 8], not "),
    (said(input_shape=[-1]), "its input-shape is [-1], not "),
    (said(**{INPUTS: "[64]"}), "input shape is '[64]' where the others have '[1, 8, 8]'"),
    (said(**{INPUTS: None}), "input shape is nothing where the others have '[1, 8, 8]'"),
    (said(**{"about: \x1b[2J moon": "new"}), "[2J moon is 'new' where the others have nothing"),
    (said(input_shape=[2**63] * 9), "its input-shape is [9223372036854775808, "),
    (said(columns=["age: float32"]), "columns is ['age: float32'] where the others have []"),
    (said(public_size=0), "public-size is 0 where the others have 50"),
    (said(public_size=10**8), "public-size is 100000000 where the others have 50"),
    (said(**{PUBLIC: ""}), "public set is '' where the others have '"),
    (said(**{PUBLIC: "0123456789abcdef"}), "public set is '0123456789abcdef' where"),
    (said(**{PUBLIC: "x" * 10**6}), "public set is 'xxxxxxxxx"),
    (said(**{PUBLIC: "x\n" * 10**4}), "public set is ['x', 'x', "),
    (said(**{PUBLIC: 7}), "its about: public set is 7, not a text"),
    (said(**{PUBLIC: [1.5]}), "its about: public set is [1.5], not a text"),
    (said(recipe_digest=None), "its greeting does not say recipe-digest"),
    (said(recipe_digest=7), "its recipe-digest is 7, and the server's is '"),
    (said(recipe_digest="0123456789abcdef"), "its recipe-digest is '0123456789abcdef', and the"),
    (said(**{f"more {n}": n for n in range(2_000)}), "2,011 values in 'config', and at"),
    (said(**{"x" * 10**6: 1}), "1,000,000 characters in a name, and at most 500 are allowed"),
    (said(classes=["0" * 9_999] * 1_100), "10,99"),
    (said(columns=["0"] * 10**5), "columns[0] is '0' where the others have nothing"),
    (beside(more=ArrayRecord()), "arrays called 'more' were not asked for"),
    (beside(**{f"r{n}": MetricRecord() for n in range(1_000)}), "1,001 records in the message"),
    (said(refusal="no"), "no"),
    (said(refusal=""), "no reason given"),
    (said(refusal="\x1b[31m\nROUND 1: all well\u202e" * 99), "[31m ROUND 1: all well"),
    (said(refusal=[1, 2]), "[1, 2]"),
    (answered(None), "no reply in time"),
    (answered(RecordDict()), "its greeting has no config record"),
    (answered(RecordDict({"config": MetricRecord({"client": 3})})), "its greeting has no config"),
    (answered(RecordDict({"config": ArrayRecord()})), "its greeting has no config record"),
    (answered(RecordDict({"Config": ConfigRecord({"client": 3})})), "its greeting has no config"),
    (answered(RecordDict({"config": ConfigRecord()})), "its greeting does not say client"),
    (answered(Error(2, "Traceback:\n  line 1\nKeyError: 'recipe'\n")), "KeyError: 'recipe'"),
    (answered(Error(4)), "no reason given"),
    (answered(Error(5)), "left: its node is not connected"),
    (answered(Error(0, "\x00\r\n")), "no reason given"),
    (answered(Error(1, "x" * 10**6)), "xxxxxxxxx"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), FIXED, ids=[reason[:40] for _, reason in FIXED])
def test_a_hostile_greeting_is_left_out_with_its_reason(outcome, change, reason) -> None:
    assert left_out(outcome, change).partition(": ")[2].startswith(reason)


def test_both_digests_are_said(outcome) -> None:
    honest: Greeting = {}

    def change(greeting: Greeting) -> Answer:
        honest.update(greeting)
        return said(**{PUBLIC: "0123456789abcdef"})(greeting)

    line = left_out(outcome, change)
    assert line == (
        f"client {HOSTILE}: public set is '0123456789abcdef' where the others have "
        f"{honest[PUBLIC]!r} (the method needs one public set)"
    )


@pytest.mark.parametrize(
    "change",
    [
        said(**{MODEL: "linear#0000"}),
        said(**{DONE: "age: mean 50.0, deviation 9.1"}),
        said(**{MODEL: "", DONE: "\n"}),
    ],
)
def test_what_shares_weights_needs_equal_models_and_preprocessing(outcome, change) -> None:
    line = left_out(outcome, change, "fedavg", rounds=3)
    assert line.startswith(f"client {HOSTILE}: ")
    assert "(the method needs one " in line


@pytest.mark.parametrize("change", [said(public_size=0), said(architecture="linear#0000")])
def test_a_public_set_is_nothing_to_what_needs_none(outcome, change) -> None:
    assert outcome(change, "fedavg") == outcome(said(), "fedavg")


def test_what_shares_weights_needs_equal_training(outcome) -> None:
    def change(honest: Greeting) -> Answer:
        assert honest["training"][1] == "learning_rate: 0.001"
        other = [honest["training"][0], "learning_rate: 0.1", *honest["training"][2:]]
        return said(training=other)(honest)

    assert left_out(outcome, change, "fedavg", rounds=3) == (
        f"client {HOSTILE}: training[1] is 'learning_rate: 0.1' where the others have "
        "'learning_rate: 0.001'"
    )
    assert outcome(change) == outcome(said()), "answers may come from any training"


def test_over_several_rounds(outcome) -> None:
    assert left_out(outcome, said(client="3"), rounds=4).startswith(f"node {NODE}: ")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (said(num_classes=9), ConfigError, "knfu cannot run on client 3: num-classes is 9"),
        (said(client="3"), ConfigError, "knfu cannot run on node 5: its client is '3'"),
        (answered(None), RunFailedError, "knfu cannot run on node 5: no reply in time"),
        (answered(Error(2, "gone")), RunFailedError, "knfu cannot run on node 5: gone"),
    ],
)
def test_a_strict_run_does_not_start(outcome, change, error, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        outcome(change, quorum="strict")
    assert "\n" not in str(caught.value)
    with pytest.raises(error, match="3 of 4 clients are left and 4 are needed"):
        outcome(change, quorum=4)


# --- generated -----------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)  # no halves of pairs: UTF-8
whole = st.integers(-(2**63), 2**64 - 1)
# Flower keeps floats, texts, bytes and switches, and lists of each; whole numbers from 0 apart.
plain = (st.booleans(), st.floats(), texts, st.binary(max_size=9), whole)
lists = [st.lists(values, min_size=1, max_size=5) for values in (*plain[:4], st.integers(-9, -1))]
anything = st.one_of(*plain, *lists)


def fitting(fact: str, value: Any) -> bool:
    """Return whether a value is of the type that a fact has."""
    several = isinstance(value, list)
    kind = str if fact not in (*NUMBERS, "input-shape") else int
    if several is (fact in (*NUMBERS, *TEXTS)):
        return False
    return all(type(v) is kind for v in (value if several else [value]))


@st.composite
def hostile(draw: Any) -> dict[str, Any]:
    """Draw changes of a greeting of which at least one is wrong whatever else is said."""
    free = st.dictionaries(st.sampled_from(FACTS[1:]), st.none() | anything, max_size=3)
    fact = draw(st.sampled_from(FACTS))
    wrong = draw(st.none() | anything.filter(lambda value: not fitting(fact, value)))
    return {**draw(free), **draw(st.dictionaries(texts, anything, max_size=2)), fact: wrong}


@settings(
    derandomize=True, deadline=None, max_examples=100, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(changes=hostile())
def test_generated_greetings_are_left_out(outcome, changes: dict[str, Any]) -> None:
    assert left_out(outcome, said(**changes)).startswith(("client ", "node "))
