"""What strategies are called in tables and folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.experiment.cells import slug
from fedkt.simulations.runs.comparison import entries_of

NAMED = """
from fedkt.registry import register
from fedkt.strategies.answers.knfu import KnFu
from fedkt.strategies.baselines.local import Local

class QRFL(KnFu):
    name = "qr-fl"

class Mine(KnFu):
    pass

@register(name="third")
class Other(KnFu):
    pass

class Disguised(KnFu):
    name = "local-plus"

class KnFuToo(KnFu):
    name = "knfu"

class Unwritable(KnFu):
    name = "Ω"

class OwnLocal(Local):
    name = "local"
"""


@pytest.mark.parametrize(
    ("strategies", "labels"),
    [
        (["a.py:QRFL", "a.py:QRFL(beta=2)"], ["qr-fl", "qr-fl(beta=2)"]),
        (["a.py:Other", "a.py:Mine"], ["third", "mine"]),
        (["a.py:Mine", "b.py:Mine", "knfu"], ["a:mine", "b:mine", "knfu"]),
        (["a.py:Mine(beta=1)", "b.py:Mine(beta=2)"], ["a:mine(beta=1)", "b:mine(beta=2)"]),
        (["a.py:QRFL", "b.py:Mine", "a.py:Mine"], ["qr-fl", "b:mine", "a:mine"]),
        (["a.py:Mine", "./a.py:Mine(beta=2)"], ["mine", "mine(beta=2)"]),
        (["a.py:Mine", "sub/a.py:Mine"], ["a:mine", "sub/a:mine"]),
        (["x = a.py:Mine", "b.py:Mine"], ["x", "mine"]),
        (["a.py:KnFuToo"], ["a:knfu"]),  # a table of knfu would be of another method
        (["a.py:Disguised", "a.py:OwnLocal"], ["a:local-plus", "a:local"]),
        (["a.py:Unwritable"], ["a:Ω"]),
    ],
)
def test_strategies_of_files_go_by_their_own_names(
    here: Path, tiny: Any, strategies: list[str], labels: list[str]
) -> None:
    (here / "sub").mkdir()
    for place in ("a.py", "b.py", "sub/a.py"):
        (here / place).write_text(NAMED, encoding="utf-8")
    entries = entries_of(tiny(strategy={}, compare={"strategies": strategies}))
    assert [e.label for e in entries] == labels
    assert len({slug(label) for label in labels}) == len(labels)


def test_two_classes_of_one_name_in_one_file_need_labels(here: Path, tiny: Any) -> None:
    (here / "a.py").write_text(NAMED + "class Twin(QRFL):\n    name = 'qr-fl'\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"qr-fl is named twice; write LABEL = a\.py:Twin"):
        entries_of(tiny(strategy={}, compare={"strategies": ["a.py:QRFL", "a.py:Twin"]}))


def test_a_run_goes_by_the_name_of_its_strategy(
    here: Path, fedkt: Any, write_toml: Any, no_report: None
) -> None:
    (here / "a.py").write_text(NAMED, encoding="utf-8")
    for strategy, name in (("Other", "third"), ("KnFuToo", "a:knfu"), ("OwnLocal", "a:local")):
        toml = write_toml(here, rounds=1, strategy={"name": f"a.py:{strategy}", "local_epochs": 1})
        answer = fedkt("simulate", toml, "--out", here / strategy)
        assert answer.code == 0, answer.err
        assert (
            json.loads((here / strategy / "summary.json").read_text(encoding="utf-8"))["label"]
            == name
        )
