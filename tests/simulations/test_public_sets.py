"""Whether a run, its baseline and a comparison have a public set: where a method needs one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.runs.comparison import plan_jobs, plan_parts
from fedkt.simulations.runs.local_baseline import local_twin
from fedkt.simulations.runs.plan import federation_of, federation_spec, prepare

DATA = {"data__samples_per_client": 0, "data__public_samples": 40}
AVERAGE = {"strategy": {"name": "fedavg", "local_epochs": 1}, "models": ["mlp"], **DATA}
DIGITS = 1438  # training samples


@pytest.mark.parametrize("name", ["fedavg", "local", "ccst"])
def test_a_method_that_needs_no_public_set_gets_none(tiny: Any, name: str) -> None:
    plan = prepare(tiny(**{**AVERAGE, "strategy": {"name": name}}))
    assert plan.experiment.data.public is False
    assert len(plan.federation.public_x) == 0
    assert len(plan.federation.pool_x) == DIGITS


@pytest.mark.parametrize("name", ["knfu", "fada"])
def test_a_method_that_needs_one_gets_it(tiny: Any, name: str) -> None:
    plan = prepare(tiny(**{**AVERAGE, "strategy": {"name": name}}))
    assert plan.experiment.data.public is True
    assert len(plan.federation.public_x) == 40
    assert len(plan.federation.pool_x) == DIGITS - 40


def test_the_local_baseline_follows_the_run(tiny: Any) -> None:
    for values in (DATA, AVERAGE):
        plan = prepare(tiny(**values))
        twin = prepare(local_twin(plan))
        assert twin.federation.fingerprint() == plan.federation.fingerprint()


def test_the_user_decides(tiny: Any) -> None:
    assert len(prepare(tiny(**AVERAGE, data__public=True)).federation.public_x) == 40
    named = prepare(tiny(**AVERAGE, data__public_dataset="digits-inverted"))
    assert named.experiment.data.public is True
    assert len(named.federation.public_x) == 40
    for name in ("knfu", "fada"):
        values = {**AVERAGE, "strategy": {"name": name}, "data__public": False}
        with pytest.raises(ConfigError, match=f"{name} needs a public set and data.public is fa"):
            prepare(tiny(**values))


def test_the_target_is_the_public_set_all_the_same(tiny: Any) -> None:
    domains = ["digits-plain", "digits-inverted", "digits-rotated"]
    plan = prepare(tiny(**AVERAGE, data__domains=domains, data__target="digits-rotated"))
    assert plan.experiment.data.public is None
    assert plan.federation.public_name == "digits-rotated"
    assert len(plan.federation.public_x) == 40


@pytest.mark.parametrize(("strategies", "public"), [("local,fedavg", 0), ("local,fedavg,knfu", 40)])
def test_a_comparison_decides_over_all_its_strategies(
    tiny: Any, strategies: str, public: int
) -> None:
    compare = {"strategies": strategies.split(","), "seeds": 1}
    experiment = tiny(compare=compare, **{**AVERAGE, "strategy": {"name": "local"}})
    jobs = plan_jobs(experiment)
    assert {job.experiment.data.public for job in jobs} == {bool(public)}
    built = [federation_of(federation_spec(job.experiment)) for job in jobs]
    assert {len(federation.public_x) for federation in built} == {public}
    assert all(part.notes == built[0].notes for part in plan_parts(experiment))


def test_each_cell_of_a_comparison_decides_for_itself(tiny: Any) -> None:
    cells = [{"name": "a"}, {"name": "b", "data": {"public": True}}]
    compare = {"strategies": ["local", "fedavg"], "seeds": 1, "cells": cells}
    parts = plan_parts(tiny(compare=compare, **AVERAGE))
    taken = {part.cell.name: {job.experiment.data.public for job in part.jobs} for part in parts}
    assert taken == {"a": {False}, "b": {True}}


def test_a_comparison_refuses_methods_that_need_what_is_switched_off(tiny: Any) -> None:
    compare = {"strategies": ["local", "knfu"], "seeds": 1}
    with pytest.raises(ConfigError, match=r"knfu needs a public set and data\.public is false"):
        plan_jobs(tiny(compare=compare, data__public=False))


def test_a_run_without_a_public_set_resumes_and_says_so(
    here: Path, write_toml: Any, fedkt: Any
) -> None:
    write_toml(here, **AVERAGE, rounds=1)
    assert fedkt("simulate", "tiny.toml", "--out", "run").code == 0
    facts = json.loads((here / "run" / "federation.json").read_text(encoding="utf-8"))
    assert (facts["public"], facts["public_dataset"], facts["notes"]) == (0, None, [])
    alone = json.loads((here / "run/baseline/federation.json").read_text(encoding="utf-8"))
    assert alone["content"]["data"] == facts["content"]["data"]
    page = (here / "run" / "report.html").read_text(encoding="utf-8")
    assert "<dt>Public examples</dt><dd>0</dd>" in page
    answer = fedkt("simulate", "tiny.toml", "--out", "run", "--resume", "--set", "rounds=2")
    assert (answer.code, answer.err) == (0, "")
    # What is written runs again as it is, with the same data.
    assert fedkt("simulate", "run/config.toml", "--out", "again").code == 0
    again = json.loads((here / "again" / "federation.json").read_text(encoding="utf-8"))
    assert again["content"]["data"] == facts["content"]["data"]
