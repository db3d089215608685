"""Federations of domains through the command line: settings, report, figures."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.experiment import config, references
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare

FOUR = ["digits-plain", "digits-inverted", "digits-rotated", "digits-blurred"]
OWN = """
import numpy as np
from fedkt.data import Dataset

def bright():
    y = np.arange(80) % 10
    x = np.random.default_rng(0).integers(100, 256, (80, 8, 8), dtype=np.uint8)
    return Dataset("bright", x, y, x[:20], y[:20])
"""


def domains_of(*names: str) -> str:
    return f"data.domains={json.dumps(names)}"


def test_a_run_over_domains(fedkt: Any, here: Path, write_toml: Any, figures: Any) -> None:
    file = write_toml(here, data__clients=5, run__personalised="matched", strategy__name="fedmd")
    options = ["--set", domains_of(*FOUR), "--set", "data.input_shape=[1, 6, 6]"]
    answer = fedkt("simulate", file, *options, "--out", "run")
    assert answer.code == 0, answer.err

    written = tomllib.loads((here / "run" / "config.toml").read_text(encoding="utf-8"))
    assert written["data"]["domains"] == FOUR
    assert written["data"]["input_shape"] == [1, 6, 6]
    federation = json.loads((here / "run" / "federation.json").read_text(encoding="utf-8"))
    assert federation["domains"] == [*FOUR, FOUR[0]]
    assert federation["input_shape"] == [1, 6, 6]
    page = (here / "run" / "report.html").read_text(encoding="utf-8")
    assert "digits-plain × 2, digits-inverted × 1, digits-rotated × 1" in page
    assert "<dt>Dataset<" not in page

    again = fedkt("simulate", "run/config.toml", "--out", "again")
    assert again.code == 0, again.err
    assert figures(here / "again") == figures(here / "run")
    last = read_rounds(here / "run")[-1]
    own, common = (last[key]["per_client"] for key in ("personalised_accuracy", "global_accuracy"))
    assert not np.allclose(own, common)


def test_domains_in_a_file_of_the_users(tmp_path: Path, here: Path, tiny: Any) -> None:
    (here / "own.py").write_text(OWN, encoding="utf-8")
    plan = prepare(tiny(data__domains=["digits", "own.py:bright"], data__test_samples=40))
    assert plan.federation.domains == ("digits", "bright")
    assert plan.experiment.data.domains == ("digits", f"{here / 'own.py'}:bright")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.domains=digits", "data.domains"),
        ("data.domains=[3]", r"data.domains = \[3\]: must be"),
        ("data.input_shape=[1, 8.5, 8]", r"data.input_shape = \[1, 8.5, 8\]: must be"),
        ("data.input_shapes=[1, 8, 8]", "Did you mean 'input_shape'"),
    ],
)
def test_settings_of_a_wrong_kind(setting: str, words: str) -> None:
    values: dict[str, Any] = {}
    config.set_path(values, *references.read_assignment(setting))
    with pytest.raises(ConfigError, match=words):
        config.parse(values)


def test_domains_and_a_data_set_do_not_go_together(fedkt: Any, here: Path) -> None:
    (here / "own.py").write_text(OWN, encoding="utf-8")
    answer = fedkt("simulate", "--dataset", "own.py:bright", "--set", domains_of(*FOUR))
    assert answer.code == 2
    assert "give one or the other" in answer.err
    assert answer.err.count("\n") == 1
