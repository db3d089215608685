"""The built-in codecs in runs: bytes by their formulas, and delta coding that changes nothing."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute

CLIENTS, ROWS, CLASSES, ROUNDS = 3, 20, 10, 3
BYTES = ("seconds", "bytes_up", "bytes_down", "traffic")


def plan_of(codec: str, form: str, public: int = ROWS, **run: Any) -> Any:
    return prepare(parse({
        "rounds": ROUNDS,
        "models": ["linear"],
        "strategy": {"name": "fedmd", "form": form, "public_samples": public},
        "data": {
            "clients": CLIENTS, "samples_per_client": 24, "test_samples": 40, "public_samples": 30
        },
        "run": {"grid": "in-process", "workers": 1, "executor": "loop", "codec": codec, **run},
    }))  # fmt: skip


def rounds_of(folder: Path, codec: str, form: str = "probabilities", **run: Any) -> Any:
    execute(plan_of(codec, form, **run), folder, label="coded")
    return read_rounds(folder)


def figures(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rounds without times and bytes."""
    return [{k: v for k, v in row.items() if k not in BYTES} for row in rounds]


@pytest.mark.parametrize(
    ("codec", "form", "due"),
    [
        ("float16(centred=true)", "logits", 2 * ROWS * CLASSES),
        ("uint8", "logits", ROWS * (CLASSES + 8)),
        ("top-k(k=2)", "probabilities", ROWS * 2 * (4 + 1) + 4),
        ("top-k(k=2)", "logits", ROWS * (2 * (4 + 1) + 4) + 4),
        ("label-only", "logits", ROWS + 4),
        ("cfd", "probabilities", math.ceil(ROWS * 4 / 8) + 8),
        ("cfd(bits=4)", "probabilities", math.ceil(ROWS * (CLASSES - 1) * 4 / 8) + 8),
        ("svd(rank=2)", "logits", 4 * 2 * (ROWS + CLASSES)),
        ("uint8+float16", "logits", ROWS * (CLASSES + 4)),
    ],
)
def test_bytes_are_the_formula(tmp_path: Path, codec: str, form: str, due: int) -> None:
    for row in rounds_of(tmp_path, codec, form):
        assert row["failures"] == []
        traffic = row["traffic"]["up"], row["traffic"]["down_broadcast"]
        assert traffic == (CLIENTS * due, CLIENTS * due)


@pytest.mark.parametrize(
    ("codec", "form", "notes"),
    [
        ("cfd", "logits", ["codec cfd in 'cfd': logits it leaves as they are"]),
        (
            "delta+top-k",
            "logits",
            ["codec top-k in 'delta+top-k': differences it leaves as they are"],
        ),
        ("cfd", "probabilities", []),
        ("uint8+float16", "logits", []),
    ],
)
def test_a_codec_that_changes_nothing_is_noted(codec: str, form: str, notes: list[str]) -> None:
    assert [note for note in plan_of(codec, form).notes if note.startswith("codec")] == notes


@pytest.mark.parametrize("inner", ["cfd(bits=4)", "uint8"])
@pytest.mark.parametrize(
    "run", [{}, {"participation": 0.67}, {"executor": "cohort"}], ids=["all", "some", "cohort"]
)
def test_delta_of_a_codec_is_the_codec(tmp_path: Path, inner: str, run: dict[str, Any]) -> None:
    plain = rounds_of(tmp_path / "plain", inner, **run)
    coded = rounds_of(tmp_path / "coded", f"delta(codec={inner})", **run)
    assert figures(coded) == figures(plain)


def test_delta_saves_bytes_once_there_is_a_base(tmp_path: Path) -> None:
    rounds = rounds_of(tmp_path, "delta(codec=cfd)")
    up = [row["traffic"]["up"] for row in rounds]
    assert up[0] == CLIENTS * (math.ceil(ROWS * 4 / 8) + 8)
    assert max(up[1:]) < up[0]


def test_lost_replies_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client has handled the message and keeps its state; the server never hears of it."""
    deliver, calls = InProcessGrid.send_and_receive, itertools.count()

    def losing(self: Any, messages: Any, **options: Any) -> list[Any]:
        replies = list(deliver(self, messages, **options))
        if replies[0].metadata.message_type == "query":
            return replies
        lost = next(calls) % 4  # of three
        return [reply for place, reply in enumerate(replies) if place != lost]

    monkeypatch.setattr(InProcessGrid, "send_and_receive", losing)
    plain = rounds_of(tmp_path / "plain", "cfd(bits=4)")
    calls = itertools.count()
    coded = rounds_of(tmp_path / "coded", "delta(codec=cfd(bits=4))")
    assert sum(len(row["failures"]) for row in plain) > 3
    calls = itertools.count()
    cached = rounds_of(tmp_path / "cached", "cache(rounds=2)")
    for rounds in (coded, cached):
        assert {f["reason"] for row in rounds for f in row["failures"]} == {"no reply in time"}
    assert figures(coded) == figures(plain)


@pytest.mark.parametrize("codec", ["delta(codec=cfd(bits=4))", "delta+uint8", "cache(rounds=2)"])
def test_a_resumed_run_is_the_run(
    tmp_path: Path, codec: str, stop_after: Any, final_state: Any
) -> None:
    run: dict[str, Any] = {"participation": 0.67}
    whole = rounds_of(tmp_path / "whole", codec, **run)
    plan, folder = plan_of(codec, "probabilities", **run), tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        execute(plan, folder, label="coded", progress=stop_after(2))
    execute(plan, folder, label="coded")
    again = read_rounds(folder)
    assert figures(again) == figures(whole)
    assert [row["traffic"] for row in again] == [row["traffic"] for row in whole]
    assert final_state(folder) == final_state(tmp_path / "whole")


def test_cache_sends_nothing_until_rows_are_old(tmp_path: Path) -> None:
    """With all public samples every round, D = 2: each row in rounds 1 and 3."""
    rounds = rounds_of(tmp_path, "cache(rounds=2)", public=0)
    whole = CLIENTS * 4 * 30 * CLASSES
    assert [row["traffic"]["up"] for row in rounds] == [whole, 0, whole]
    assert [row["traffic"]["down_broadcast"] for row in rounds] == [whole, 0, whole]


def test_cache_of_one_round_is_none(tmp_path: Path) -> None:
    plain = rounds_of(tmp_path / "plain", "none", participation=0.67)
    coded = rounds_of(tmp_path / "coded", "cache(rounds=1)", participation=0.67)
    assert figures(coded) == figures(plain)
    assert [row["traffic"] for row in coded] == [row["traffic"] for row in plain]
