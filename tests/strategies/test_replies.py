"""Replies that fail, are damaged, lie or belong to another message: one client less, no more."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message

from fedkt.clients import TorchLearner
from fedkt.machine import one_thread
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.strategies.answers.fedmd import FedMD
from fedkt.strategies.answers.knfu import KnFu
from fedkt.strategies.weights.fedavg import FedAvg

P = 64 * 10 + 10
QUICK = {"local_epochs": 1, "distil_epochs": 1}


def failing(client: int, at: int):
    """Make a client fail at its n-th message (1 hello, 2 learn, 3 absorb, 4 learn, ...)."""

    def adapt(one, message):
        if one.id == client and message == at:
            raise RuntimeError("out\nof memory")
        return one

    return adapt


@pytest.mark.parametrize(("at", "phase", "round_"), [(2, "learn", 1), (5, "absorb", 2)])
def test_a_failing_client_is_noted_and_the_round_goes_on(
    world, with_options, at, phase, round_
) -> None:
    run = world(adapt=failing(2, at))
    run.start(with_options(KnFu(**QUICK)), 3)
    for report in run.reports:
        if report.round == round_:
            (failure,) = report.failures
            assert (failure.client, failure.phase) == (2, phase)
            assert failure.reason == "RuntimeError: out of memory"
        else:
            assert report.failures == []
            assert report.participants == [0, 1, 2, 3]
    report = run.reports[round_ - 1]
    assert report.participants == ([0, 1, 3] if phase == "learn" else [0, 1, 2, 3])
    assert report.diagnostics["clients"] == report.participants
    assert (2 in report.metrics) is (phase == "learn")
    assert report.per_client("global-accuracy")[2] is None


def test_weights_lost_on_the_way_are_sent_again(world, with_options) -> None:
    run = world(adapt=failing(1, 3))
    run.start(with_options(FedAvg(1)), 2)
    # round 2: client 1 never got the average of round 1, the others hold it
    assert run.reports[1].traffic.down_broadcast == 4 * P * (1 + 4)


class Odd(TorchLearner):
    """A learner whose answers on the public set are wrong in some way."""

    def __init__(self, spoil: Any, *args: Any) -> None:
        super().__init__(*args)
        self._spoil = spoil

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return self._spoil(super().predict(x))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda z: z * float("nan"), "NaN or infinity"),
        (lambda z: z[:, :9], r"shape \[50, 9\], not \[50, 10\]"),
        (lambda z: z.double(), "float64"),
    ],
    ids=["nan", "shape", "dtype"],
)
def test_a_bad_upload_is_refused_with_its_reason(world, with_options, spoil, reason) -> None:
    def adapt(client, message):
        if client.id != 1 or message == 1:
            return client
        build = client.learner.build
        return replace(client, learner=Odd(spoil, build, 10, "linear"))

    run = world(adapt=adapt)
    run.start(with_options(KnFu(**QUICK)), 1)
    (report,) = run.reports
    assert report.participants == [0, 2, 3]
    (failure,) = [f for f in report.failures if f.phase == "share"]
    assert failure.client == 1
    assert re.search(reason, failure.reason)


class Tampering(InProcessGrid):
    """A grid on whose way back one client's training replies are changed."""

    def __init__(self, grid: InProcessGrid, tamper: Any) -> None:
        super().__init__(grid._app, grid.clients)
        self._tamper = tamper

    def _handle(self, messages: Any, timeout: float | None) -> list[Message]:
        replies = super()._handle(messages, timeout)
        for reply, message in zip(replies, messages, strict=True):
            if self.client_of(message) == 1 and message.metadata.message_type == "train":
                self._tamper(reply.content)
        return replies


def tampered(run, strategy: Any, tamper: Any):
    strategy.observers = [run.watch]
    with one_thread():
        strategy.start(Tampering(run.grid, tamper), num_rounds=1)
    return run.reports[0]


def rebuilt(content: Any, **changed: Any) -> None:
    """Change fields of the uploaded array."""
    old = content["knowledge.public"]["t.values"]
    fields = {k: getattr(old, k) for k in ("dtype", "shape", "stype", "data")}
    content["knowledge.public"] = ArrayRecord({"t.values": Array(**{**fields, **changed})})


TAMPER: dict[str, Any] = {
    "share missing": lambda c: c.__delitem__("knowledge.public"),
    "meta missing": lambda c: c.__delitem__("knowledge.public.meta"),
    "data missing": lambda c: rebuilt(c, data=b""),
    "no metrics": lambda c: c.__delitem__("metrics"),
    "no number of examples": lambda c: c.__setitem__("metrics", MetricRecord({"loss": 1.0})),
    "examples negative": lambda c: c.__setitem__("metrics", MetricRecord({"num-examples": -5})),
    "examples a list": lambda c: c.__setitem__("metrics", MetricRecord({"num-examples": [1, 2]})),
    "loss a list": lambda c: c.__setitem__(
        "metrics", MetricRecord({"num-examples": 4, "loss": [1.0, 2.0]})
    ),
}


def test_what_an_array_claims_about_itself_does_not_count(world, with_options) -> None:
    def claim(content: Any) -> None:
        rebuilt(content, dtype="no such type")

    report = tampered(world(), with_options(KnFu(**QUICK)), claim)
    assert report.failures == []
    assert report.traffic.up % 4 == 0


@pytest.mark.parametrize("how", list(TAMPER))
def test_a_damaged_reply_costs_one_client_and_not_the_run(world, with_options, how) -> None:
    report = tampered(world(), with_options(KnFu(**QUICK)), TAMPER[how])
    assert {0, 2, 3} <= set(report.participants)
    if how != "loss a list":  # the upload itself is good
        assert [(f.client, f.phase) for f in report.failures] == [(1, "share")]


def test_a_client_cannot_lie_about_its_bytes(world, with_options) -> None:
    report = tampered(world(), with_options(KnFu(**QUICK)), lambda c: rebuilt(c, shape=(1, 1)))
    assert report.traffic.up == 4 * 4 * 50 * 10


def test_a_client_cannot_make_the_server_run_a_file(world, with_options, tmp_path: Path) -> None:
    trace, file = tmp_path / "trace", tmp_path / "codec.py"
    file.write_text(
        f"open({str(trace)!r}, 'w').close()\n"
        "class C:\n    def decode(self, arrays): return dict(arrays)\n",
        encoding="utf-8",
    )

    def name_a_file(content: Any) -> None:
        meta = content["knowledge.public.meta"]
        content["knowledge.public.meta"] = ConfigRecord({**meta, "codec": f"{file}:C"})

    report = tampered(world(), with_options(KnFu(**QUICK)), name_a_file)
    assert not trace.exists()
    assert [f.client for f in report.failures] == [1]


def test_a_client_that_does_not_answer_in_time(world, with_options) -> None:
    class Losing(InProcessGrid):
        def _handle(self, messages: Any, timeout: float | None) -> list[Message]:
            replies = super()._handle(messages, timeout)
            lost = messages[0].metadata.message_type == "train"
            return [
                r for r, m in zip(replies, messages, strict=True) if not lost or self.client_of(m)
            ]

    run, strategy = world(), with_options(KnFu(**QUICK))
    strategy.observers = [run.watch]
    with one_thread():
        strategy.start(Losing(run.grid._app, 4), num_rounds=1)
    (report,) = run.reports
    assert [(f.client, f.phase, f.reason) for f in report.failures] == [
        (0, "learn", "no reply in time")
    ]
    assert report.participants == [1, 2, 3]


def test_replies_in_any_order_give_the_same_bits(world, with_options) -> None:
    class Shuffling(InProcessGrid):
        def _handle(self, messages: Any, timeout: float | None) -> list[Message]:
            return super()._handle(messages, timeout)[::-1]

    runs, results = [world(), world()], []
    grids = [runs[0].grid, Shuffling(runs[1].grid._app, 4)]
    for run, grid in zip(runs, grids, strict=True):
        with one_thread():
            strategy = with_options(FedAvg(1))
            results.append(strategy.start(grid, run.population.initial_arrays(3), num_rounds=2))
    for name in results[0].arrays:
        left, right = (r.arrays[name].numpy() for r in results)
        assert np.array_equal(left, right)


@pytest.mark.parametrize(
    ("at", "untrained"), [({2}, [(2,), ()]), ({2, 4}, [(2,), (2,)]), ({4}, [(), ()])]
)
def test_who_never_trained_has_no_figure(world, with_options, at, untrained) -> None:
    """Client 2 fails to learn in round 1 (its message 2), in round 2 (message 4), or in both."""

    def adapt(client, message):
        if client.id == 2 and message in at:
            raise RuntimeError("out of memory")
        return client

    run = world(adapt=adapt)
    run.start(with_options(KnFu(**QUICK)), 2)
    assert [report.untrained for report in run.reports] == untrained
    for report in run.reports:
        assert "personalised-accuracy" in report.metrics[2], "it was evaluated all the same"
        missing = report.per_client("personalised-accuracy")[2] is None
        assert missing is (2 in report.untrained)


def test_who_never_trained_is_known_after_a_resume(world, with_options) -> None:
    run = world(adapt=failing(2, 2))
    first, second = with_options(KnFu(**QUICK)), with_options(KnFu(**QUICK))
    run.start(first, 1)
    again = world(adapt=failing(2, 2))
    second.load_state_dict(first.state_dict())
    again.grid.restore(run.grid.snapshot())
    again.start(second, 2)
    assert [report.untrained for report in again.reports] == [(2,)]


# --- counts --------------------------------------------------------------------------------


def counted(counts: Any):
    """Return what adds counts to an upload."""

    def tamper(content: Any) -> None:
        arrays = {**content["knowledge.public"], "counts": Array(np.asarray(counts))}
        content["knowledge.public"] = ArrayRecord(arrays)

    return tamper


@pytest.mark.parametrize("strategy", [KnFu, FedMD])
@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([-5, 0, 10**9], r"counts of shape \[3\] for 50 rows"),
        ([1] * 49 + [-1], r"counts lie in \[-1, 1\], not in \[0, 1000000000\]"),
        ([1] * 49 + [10**12], "counts lie in"),
        ([1.0] * 50, "counts have dtype float64, not int64"),
    ],
)
def test_bad_counts_are_refused_with_their_reason(
    world, with_options, strategy, counts, reason
) -> None:
    report = tampered(world(), with_options(strategy(**QUICK)), counted(counts))
    assert report.participants == [0, 2, 3]
    (failure,) = report.failures
    assert (failure.client, failure.phase) == (1, "share")
    assert re.search(reason, failure.reason)


def test_a_strategy_that_needs_all_rows_refuses_an_upload_without(world, with_options) -> None:
    report = tampered(world(), with_options(KnFu(**QUICK)), counted([0] * 20 + [3] * 30))
    (failure,) = report.failures
    assert (failure.client, failure.phase) == (1, "share")
    said = "20 of 50 rows are absent (counts of 0), and whole uploads are asked for"
    assert failure.reason == said


@pytest.mark.parametrize("absent", [20, 50])
def test_one_that_averages_takes_what_is_there(world, with_options, absent: int) -> None:
    """Rows that client 1 lacks are the average of the others'."""
    partial, without = world(), world()
    ours, theirs = with_options(FedMD(**QUICK)), with_options(FedMD(**QUICK))
    report = tampered(partial, ours, counted([0] * absent + [3] * (50 - absent)))
    tampered(without, theirs, TAMPER["share missing"])
    assert report.participants == [0, 1, 2, 3]
    assert report.failures == []
    fused, rest = (s.exchange.latest.shared["public"] for s in (ours, theirs))
    assert torch.allclose(fused.values[:absent], rest.values[:absent], atol=1e-6)
    assert torch.allclose(fused.values, rest.values, atol=1e-3) is (absent == 50)
    assert (1 in report.mean_predictions) is (absent < 50)


@pytest.mark.parametrize("examples", [-1.0, 1e10, 1e30])
def test_a_number_of_examples_is_bounded(world, with_options, examples: float) -> None:
    def tamper(content: Any) -> None:
        content["metrics"] = MetricRecord({"num-examples": examples})

    report = tampered(world(), with_options(KnFu(**QUICK)), tamper)
    (failure,) = report.failures
    assert failure.reason.endswith("not a number in [0, 1e+09]")


@pytest.mark.parametrize(("at", "phase"), [(2, "learn"), (3, "absorb")])
def test_foreign_text_is_cleaned_before_it_reaches_the_report(
    world, with_options, at, phase
) -> None:
    def adapt(one, message):
        if one.id == 2 and message == at:
            raise RuntimeError("\x1b[2J\u202e\x00round 1:\nall well " + "x" * 10_000)
        return one

    run = world(adapt=adapt)
    run.start(with_options(KnFu(**QUICK)), 1)
    (failure,) = run.reports[0].failures
    assert (failure.client, failure.phase) == (2, phase)
    assert failure.reason.startswith("RuntimeError: [2Jround 1: all well xxx")
    assert len(failure.reason) == 500
    assert failure.reason.isprintable()


def test_names_of_tensors_and_codecs_are_foreign_text_too(world, with_options) -> None:
    def rename(content: Any) -> None:
        meta = content["knowledge.public.meta"]
        content["knowledge.public.meta"] = ConfigRecord({**meta, "kind": "\x1b\n" + "k" * 9999})

    report = tampered(world(), with_options(KnFu(**QUICK)), rename)
    (failure,) = report.failures
    assert failure.reason.startswith("kind is kkk")
    assert failure.reason.isprintable()
    assert len(failure.reason) == 500


# --- which reply belongs to which message ----------------------------------------------------


class Rearranging(InProcessGrid):
    """A grid on whose way back the replies to one type of message are changed as a whole."""

    def __init__(self, grid: InProcessGrid, kind: str, change: Any) -> None:
        super().__init__(grid._app, grid.clients)
        self._kind, self._change = kind, change

    def _handle(self, messages: Any, timeout: float | None) -> list[Message]:
        replies = super()._handle(messages, timeout)
        if messages[0].metadata.message_type != self._kind:
            return replies
        changed: list[Message] = self._change(messages, replies)
        return changed


def rearranged(run, strategy: Any, kind: str, change: Any):
    strategy.observers = [run.watch]
    with one_thread():
        strategy.start(Rearranging(run.grid, kind, change), num_rounds=1)
    return run.reports[0]


@pytest.mark.parametrize(("kind", "phase"), [("train", "learn"), ("evaluate", "absorb")])
@pytest.mark.parametrize("why", ["node_unavail", "msg_unavail"])
def test_flowers_own_errors_have_a_reason(world, with_options, kind, phase, why) -> None:
    """Flower answers for a node that is gone, from a node of its own."""

    def gone(messages: Any, replies: Any) -> list[Message]:
        asked = messages[1].metadata
        answer = create_message_error_unavailable_res_message(asked, why)
        assert answer.metadata.src_node_id != asked.dst_node_id
        return [replies[0], *replies[2:], answer]

    report = rearranged(world(), with_options(KnFu(**QUICK)), kind, gone)
    (failure,) = report.failures
    assert (failure.client, failure.phase) == (1, phase)
    says = {
        "node_unavail": "left: its node is not connected",
        "msg_unavail": "Reply Message Unavailable",
    }
    assert says[why] in failure.reason


def claiming(message: Message, **fields: Any) -> Message:
    """Change what a reply says of itself."""
    message.metadata.__dict__.update({f"_{name}": value for name, value in fields.items()})
    return message


def test_a_reply_belongs_to_the_message_that_it_answers(world, with_options) -> None:
    def mixed_up(messages: Any, replies: Any) -> list[Message]:
        nodes = [m.metadata.dst_node_id for m in messages][::-1]
        moved = [claiming(r, src_node_id=n) for r, n in zip(replies, nodes, strict=True)]
        stray = Message(RecordDict(), reply_to=messages[0])
        return [claiming(stray, reply_to_message_id="another"), *moved[::-1]]

    honest, mixed = world(), world()
    report = rearranged(honest, with_options(KnFu(**QUICK)), "train", lambda m, r: r)
    assert rearranged(mixed, with_options(KnFu(**QUICK)), "train", mixed_up).failures == []
    assert mixed.reports[0].metrics == report.metrics
    for client in range(4):
        for name, tensor in honest.model_of(client).items():
            assert torch.equal(tensor, mixed.model_of(client)[name])


def test_of_two_replies_to_a_message_the_first_counts(world, with_options) -> None:
    def twice(messages: Any, replies: Any) -> list[Message]:
        return [*replies, Message(RecordDict(), reply_to=messages[1])]

    report = rearranged(world(), with_options(KnFu(**QUICK)), "train", twice)
    assert report.failures == []
