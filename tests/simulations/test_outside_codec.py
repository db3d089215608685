"""A codec in a file of a user's that sends what has changed since the receiver last decoded."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.results import checkpoints
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute

# Bits that differ from the base's, packed: exact, and shorter where there is a base.
FILE = '''
import zlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkt import KnowledgeStrategy, Codec, Fused, Predict, Recipe, Train, register
from fedkt.objectives import CrossEntropy, Distil, KL
from sklearn.naive_bayes import GaussianNB


@register(name="differences")
@dataclass(frozen=True)
class Differences(Codec):
    """The bits that differ from the base's, packed."""

    uses_base: ClassVar[bool] = True
    level: int = 1

    def encode(self, arrays, about):
        packed = {}
        for name, array in arrays.items():
            bits = array.view(np.int32)
            if about.base is not None:
                bits = bits ^ about.base[name].view(np.int32)
            data = zlib.compress(bits.tobytes(), self.level)
            packed[name] = np.frombuffer(data, np.uint8)
            packed[f"{name}.shape"] = np.array(array.shape)
        return packed

    def decode(self, arrays, about):
        unpacked = {}
        for name in (n for n in arrays if f"{n}.shape" in arrays):
            data = zlib.decompress(arrays[name].tobytes())
            bits = np.frombuffer(data, np.int32).reshape(arrays[f"{name}.shape"])
            if about.base is not None:
                bits = bits ^ about.base[name].view(np.int32)
            unpacked[name] = bits.view(np.float32)
        return unpacked


class Moody(GaussianNB):
    """A classifier that fails whenever its rows say so."""

    fits = 0

    def fit(self, x, y, sample_weight=None):
        if int(abs(np.asarray(x)).sum() * 1000) % 3 == 0:
            raise ValueError("not today")
        return super().fit(x, y, sample_weight)


def moody(input_shape, num_classes):
    return Moody()


@register
class Answers(KnowledgeStrategy):
    """FedMD with codecs of its shares' own."""

    name = "answers"

    def __init__(self, up: str = "none", down: str = "none", rows: int = 0):
        self.up, self.down, self.rows = up, down, rows

    def recipe(self):
        ways = {"codec_up": self.up, "codec_down": self.down}
        predict = Predict(form="logits", samples=self.rows, **ways)
        return Recipe(
            learn=[Train("private", [CrossEntropy()])],
            share=[predict],
            absorb=[Train("public", [Distil(KL())])],
        )

    def fuse(self, uploads):
        stack = uploads["public"]
        return Fused(shared={"public": uploads[0].knowledge["public"].with_tensors(
            {"values": stack.values.mean(0)})})
'''
ROUNDS = 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE, encoding="utf-8")
    return path


def experiment(
    strategy: dict[str, Any], models: Any = ("mlp",), rounds: int = ROUNDS, **run: Any
) -> Any:
    return parse({
        "rounds": rounds,
        "models": models,
        "strategy": strategy,
        "data": {
            "clients": 4, "samples_per_client": 24, "test_samples": 50, "public_samples": 30
        },
        "run": {"grid": "in-process", "workers": 1, "executor": "loop", **run},
    })  # fmt: skip


def run(folder: Path, *args: Any, **settings: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run an experiment; return its rounds and the last checkpoint."""
    execute(prepare(experiment(*args, **settings)), folder, label="coded")
    return result(folder)


def result(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    saved = checkpoints.newest(folder / "checkpoints", at_most=ROUNDS)
    assert saved is not None
    return read_rounds(folder), saved[1]


def figures(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rounds without times and bytes."""
    bytes_too = ("seconds", "bytes_up", "bytes_down", "traffic")
    return [{k: v for k, v in row.items() if k not in bytes_too} for row in rounds]


FEDMD = {"name": "fedmd", "form": "logits", "public_samples": 20}


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ({"name": "fedavg"}, {}),
        ({"name": "fedavg"}, {"participation": 0.5}),
        (FEDMD, {"participation": 0.5}),
        ({"name": "knfu", "public_samples": 20}, {"participation": 0.75}),
        (FEDMD, {"participation": 0.75, "executor": "cohort"}),
    ],
    ids=["weights", "weights of some", "answers on other samples", "personal answers", "cohorts"],
)
def test_decoded_knowledge_is_right(
    file: Path, tmp_path: Path, strategy: dict[str, Any], settings: dict[str, Any]
) -> None:
    plain, _ = run(tmp_path / "plain", strategy, **settings)
    coded, _ = run(tmp_path / "coded", strategy, codec=f"{file}:Differences(level=2)", **settings)
    assert figures(coded) == figures(plain), "the codec is exact"


def test_a_base_saves_bytes_from_the_second_round_on(file: Path, tmp_path: Path) -> None:
    rounds, saved = run(tmp_path / "run", {"name": "fedavg"}, codec=f"{file}:Differences")
    up = [row["traffic"]["up"] for row in rounds]
    down = [row["traffic"]["down_broadcast"] for row in rounds]
    assert max(up[1:]) < 0.97 * up[0]
    assert max(down[1:]) < down[0]
    bases = saved["strategy"]["exchange"]["bases"]
    assert len(bases["bases"]) == 1 + 4, "all clients hold one object of the server's"
    assert {base[0] for base in bases["bases"]} == {ROUNDS}


def test_clients_that_fail_begin_anew(file: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"models": (f"{file}:moody", "mlp"), "rounds": ROUNDS}
    plain, _ = run(tmp_path / "plain", FEDMD, **settings)
    coded, _ = run(tmp_path / "coded", FEDMD, codec=f"{file}:Differences", **settings)
    failed = [{f["client"] for f in row["failures"]} for row in plain]
    assert any(failed), "or the classifier must be moodier"
    assert figures(coded) == figures(plain)


@pytest.mark.parametrize("strategy", [{"name": "fedavg"}, FEDMD], ids=["fedavg", "fedmd"])
def test_lost_replies_do_no_harm(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: dict[str, Any]
) -> None:
    """The client has handled the message and keeps its state; the server never hears of it."""
    deliver, calls = InProcessGrid.send_and_receive, itertools.count()

    def losing(self: Any, messages: Any, **options: Any) -> list[Any]:
        replies = list(deliver(self, messages, **options))
        lost = next(calls) % 7  # of four; the greeting is the first call
        return (
            replies
            if replies[0].metadata.message_type == "query"
            else [reply for place, reply in enumerate(replies) if place != lost]
        )

    monkeypatch.setattr(InProcessGrid, "send_and_receive", losing)
    plain, _ = run(tmp_path / "plain", strategy)
    calls = itertools.count()
    coded, _ = run(tmp_path / "coded", strategy, codec=f"{file}:Differences")
    assert sum(len(row["failures"]) for row in plain) > 3
    assert {f["reason"] for row in coded for f in row["failures"]} == {"no reply in time"}
    assert figures(coded) == figures(plain)


def test_a_resumed_run_is_the_run(
    file: Path, tmp_path: Path, stop_after: Any, final_state: Any
) -> None:
    settings: dict[str, Any] = {"codec": f"{file}:Differences", "participation": 0.5}
    whole, _ = run(tmp_path / "whole", FEDMD, **settings)
    plan = prepare(experiment(FEDMD, **settings))
    folder = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        execute(plan, folder, label="coded", progress=stop_after(2))
    execute(plan, folder, label="coded")
    again, _ = result(folder)
    assert figures(again) == figures(whole)
    assert [row["traffic"] for row in again] == [row["traffic"] for row in whole]
    assert final_state(folder) == final_state(tmp_path / "whole")


@pytest.mark.ray
def test_workers_find_it_by_its_file(file: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"codec": f"{file}:Differences", "participation": 0.75}
    here, _ = run(tmp_path / "here", FEDMD, **settings)
    there, _ = run(tmp_path / "there", FEDMD, grid="ray", **settings)
    assert figures(there) == figures(here)
    assert [row["traffic"] for row in there] == [row["traffic"] for row in here]


@pytest.mark.flower
def test_flower_s_engine_finds_it_too(file: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"codec": f"{file}:Differences", "rounds": 2}
    here, _ = run(tmp_path / "here", FEDMD, **settings)
    there, _ = run(tmp_path / "there", FEDMD, grid="flower", **settings)
    assert figures(there) == figures(here)
    assert [row["traffic"] for row in there] == [row["traffic"] for row in here]


CODEC = """
from dataclasses import dataclass
from fedkt import Codec, register

@register(name="mirrored")
@dataclass(frozen=True)
class Mirrored(Codec):
    def encode(self, arrays, about):
        return {name: -array for name, array in arrays.items()}

    def decode(self, arrays, about):
        return {name: -array for name, array in arrays.items()}
"""


@pytest.mark.ray
def test_workers_find_a_share_s_codec_in_a_file_of_its_own(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "mirrored.py"
    other.write_text(CODEC, encoding="utf-8")
    strategy = {"name": f"{file}:Answers", "rows": 20}
    code = file.read_text(encoding="utf-8").replace("differences", "others")  # names of this test
    named = code.replace('up: str = "none"', f'up: str = "{other}:Mirrored"')
    file.write_text(named, encoding="utf-8")  # in the recipe, not in the experiment
    here, _ = run(tmp_path / "here", strategy, rounds=1)
    plan = prepare(experiment(strategy, rounds=1, grid="ray"))
    assert str(other) in plan.files
    execute(plan, tmp_path / "there", label="coded")
    there, _ = result(tmp_path / "there")
    assert there[0]["failures"] == []
    assert figures(there) == figures(here)


def test_a_share_has_codecs_of_its_own(file: Path, tmp_path: Path) -> None:
    size = 4 * 30 * 10 * 4  # float32, 30 samples, 10 classes, 4 clients
    for up, down, bytes_of in (
        ("none", "none", (size, size)),
        ("float16", "none", (size // 2, size)),
        ("none", "float16", (size, size // 2)),
    ):
        strategy = {"name": f"{file}:Answers", "up": up, "down": down}
        rounds, _ = run(tmp_path / f"{up}-{down}", strategy, rounds=1, codec="float16")
        traffic = rounds[0]["traffic"]
        assert (traffic["up"], traffic["down_broadcast"]) == bytes_of
    strategy = {"name": f"{file}:Answers", "up": "differences(level=3)", "rows": 20}
    coded, _ = run(tmp_path / "up", strategy)
    plain, _ = run(tmp_path / "plain", {**strategy, "up": "none"})
    assert [row["personalised_accuracy"] for row in coded] == [
        row["personalised_accuracy"] for row in plain
    ]


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        ("float16+{}:Differences", "must be the first, for it refers to what the receiver has"),
        ("{}:Differences(depth=1)", "'depth'"),
        ("{}:Difference", "'Difference'"),
        ("{}:Differences(level=high)", "codec.level = 'high'"),
    ],
)
def test_what_cannot_be_is_said_before_the_run(file: Path, codec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare(experiment({"name": "fedmd"}, codec=codec.format(file)))


def test_lies_cannot_be_put_into_differences(file: Path) -> None:
    values = experiment(FEDMD, codec=f"{file}:Differences").with_values(
        attack={"kind": "wrong", "clients": 1}
    )
    with pytest.raises(ConfigError, match="refers to what was sent before"):
        prepare(values)
