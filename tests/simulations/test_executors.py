"""The plan: which executor runs which model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedkt import registry
from fedkt.errors import ConfigError
from fedkt.simulations.engines.population import PopulationSpec
from fedkt.simulations.experiment import config
from fedkt.simulations.runs import executors
from fedkt.simulations.runs.executors import cohort_size, size_of
from fedkt.simulations.runs.plan import prepare


def plan_of(tiny: Any, models: list[str], clients: int, **run: Any) -> dict[str, str]:
    sections = {f"run__{key}": value for key, value in run.items()}
    plan = prepare(tiny(models=models, data__clients=clients, **sections))
    return dict(plan.experiment.run.plan)


def test_small_dense_networks_run_in_cohorts(tiny: Any) -> None:
    found = plan_of(tiny, ["mlp", "cnn", "forest"], 9)
    assert found == {"mlp": "cohort:3", "cnn": "loop", "forest": "loop"}


@pytest.mark.parametrize(
    ("clients", "entry"), [(1, "loop"), (2, "cohort:2"), (20, "cohort:16"), (60, "cohort:30")]
)
def test_cohorts_are_neither_too_large_nor_too_few(tiny: Any, clients: int, entry: str) -> None:
    plan = prepare(tiny(models=["linear"], data__clients=clients, data__samples_per_client=8))
    assert plan.experiment.run.plan == {"linear": entry}


@pytest.mark.parametrize(("clients", "size"), [(300, 100), (1000, 125), (3000, 250)])
def test_many_clients_form_larger_cohorts(clients: int, size: int) -> None:
    assert cohort_size(clients) == size


def test_the_user_decides(tiny: Any) -> None:
    assert plan_of(tiny, ["mlp"], 4, executor="loop") == {"mlp": "loop"}
    assert plan_of(tiny, ["cnn"], 4, executor="cohort") == {"cnn": "cohort:4"}
    assert plan_of(tiny, ["mlp"], 4, plan={"mlp": "cohort:2"}) == {"mlp": "cohort:2"}
    assert plan_of(tiny, ["mlp"], 4, grid="flower") == {"mlp": "loop"}


def test_bfloat16_runs_in_the_loop(tiny: Any) -> None:
    half = {"models": ["mlp"], "training__precision": "bfloat16"}
    assert prepare(tiny(**half)).experiment.run.plan == {"mlp": "loop"}
    for run in ({"run__executor": "cohort"}, {"run__plan": {"mlp": "cohort:2"}}):
        with pytest.raises(ConfigError, match="bfloat16 needs the loop"):
            prepare(tiny(**half, **run))


def test_a_resolved_plan_is_a_plan_again(tiny: Any, tmp_path: Path) -> None:
    plan = prepare(tiny(models=["mlp", "cnn"], data__clients=6))
    config.save(tmp_path / "config.toml", plan.experiment)
    values = config.load(tmp_path / "config.toml")
    values.pop("command", None)
    assert prepare(config.parse(values)).population == plan.population


@pytest.mark.parametrize("entry", ["cohort", "cohort:0", "cohort:-1", "loops", "cohort:2:3"])
def test_a_bad_entry_is_one_line(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.plan: .* is neither 'loop' nor 'cohort:N'"):
        size_of(entry)


def test_a_plan_for_a_model_that_is_not_there(tiny: Any) -> None:
    with pytest.raises(ConfigError, match=r"run\.plan names 'cnn'; the models are mlp"):
        plan_of(tiny, ["mlp"], 4, plan={"cnn": "loop"})


def test_a_cohort_is_known_by_its_clients_numbers() -> None:
    spec = PopulationSpec(("mlp", "cnn", "linear"), cohorts=(2, 0, 3))
    found = [spec.cohort_of(client) for client in range(15)]
    assert found == [0, None, 2, 0, None, 2, 3, None, 2, 3, None, 5, 6, None, 5]
    seats = [spec.seat_of(client, 4) for client in range(15)]
    assert seats == [0, 1, 2, 0, 0, 2, 3, 3, 2, 3, 2, 1, 2, 1, 1]


def test_a_tuned_plan_is_measured_once_and_written_down(tiny: Any, tmp_path: Path) -> None:
    plan = prepare(tiny(models=["linear"], data__clients=40, data__samples_per_client=8,
                        run__executor="tune"))  # fmt: skip
    entry = plan.experiment.run.plan["linear"]
    assert size_of(entry) in (0, 16, 40)
    other = "loop" if entry != "loop" else "cohort:5"
    settled = plan.experiment.run.model_copy(update={"plan": {"linear": other}})
    again = prepare(plan.experiment.with_values(run=settled.model_dump()))
    assert again.experiment.run.plan == {"linear": other}, "nothing is measured again"


def test_what_cannot_be_in_a_cohort_is_tuned_to_the_loop(tiny: Any) -> None:
    file = Path(__file__).parent / "dropping.py"
    assert set(plan_of(tiny, [f"{file}:dropping"], 3, executor="tune").values()) == {"loop"}


def test_a_comparison_is_not_tuned(tiny: Any) -> None:
    from fedkt.simulations.runs.comparison import plan_parts

    with pytest.raises(ConfigError, match=r"tune one run and copy its run\.plan"):
        plan_parts(tiny(run__executor="tune", compare__strategies=["local"]))


def odd(name: str) -> str:
    return f"{Path(__file__).parents[1] / 'clients' / 'odd_networks.py'}:of_{name}"


@pytest.mark.parametrize("executor", ["auto", "cohort"])
def test_what_a_cohort_would_do_otherwise_runs_in_the_loop(
    tiny: Any, executor: str, caplog: pytest.LogCaptureFixture
) -> None:
    executors._refusals.clear()
    executors._told.clear()
    model = odd("reassigned")
    assert plan_of(tiny, [model], 4, executor=executor) == {model: "loop"}
    assert plan_of(tiny, [model], 4, plan={model: "cohort:4"}) == {model: "loop"}
    (said,) = (r.message for r in caplog.records if "runs in the loop" in r.message)
    assert said.endswith("in step learn/0 a cohort changes mean differently from the loop")
    model = odd("in_place")
    assert plan_of(tiny, [model], 4, executor=executor) == {model: "cohort:4"}


@pytest.mark.parametrize("grid", ["in-process", "flower"])
def test_what_keeps_state_outside_its_state_dict_is_refused(tiny: Any, grid: str) -> None:
    with pytest.raises(ConfigError, match="counting' keeps 'steps' outside its state_dict"):
        plan_of(tiny, [odd("counting")], 4, grid=grid, executor="loop")


def test_all_strategies_but_those_of_random_terms_or_more_models_train_in_cohorts(
    tiny: Any,
) -> None:
    in_the_loop = set()
    for name in registry.names("strategies"):
        settings = {"models": ["mlp"], "strategy": {"name": name}, "run__executor": "cohort"}
        if prepare(tiny(**settings)).experiment.run.plan == {"mlp": "loop"}:
            in_the_loop.add(name)
    assert in_the_loop == {"fedsr", "pate-one-shot"}
