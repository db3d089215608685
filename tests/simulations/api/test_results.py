"""Results in Python: what a folder holds, as frames, tests, tables, figures and trained clients."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from sklearn.metrics import accuracy_score

import fedkt
from fedkt.errors import ConfigError
from fedkt.simulations.api.comparison_result import ComparisonResult
from fedkt.simulations.api.run_result import RunResult
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.results.run_folder import CONFIG, read_settings
from fedkt.simulations.runs.comparison import compare, plan_parts
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.progress import Silent

OUTSIDE = Path(__file__).parents[2] / "conformance" / "outside"
EXPERIMENT = {
    "rounds": 2,
    "models": ["mlp", "forest"],
    "data": {"clients": 4, "test_samples": 120, "samples_per_client": 40},
    "run": {"grid": "in-process"},
    "compare": {"strategies": ["fedmd", "local"], "seeds": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("api") / "both"
    experiment = parse(EXPERIMENT)
    compare(experiment, plan_parts(experiment), out, Silent(), None)
    return out


@pytest.fixture(scope="module")
def both(folder: Path) -> ComparisonResult:
    result = fedkt.load(folder)
    assert isinstance(result, ComparisonResult)
    return result


def test_the_frame_is_tidy(both: ComparisonResult) -> None:
    frame = both.frame()
    assert list(frame.columns) == ["strategy", "seed", "round", "client", "metric", "value"]
    keys = ["strategy", "seed", "round", "metric", "client"]
    assert not frame.duplicated(keys).any()
    last = frame[(frame["round"] == 2) & (frame["metric"] == "personalised_accuracy")]
    assert len(last) == 2 * 3 * 4
    for (label, seed), values in last.groupby(["strategy", "seed"])["value"]:
        run = both.run(label, seed)
        assert values.mean() == pytest.approx(run.figures()["personalised_accuracy"])
    sums = frame[frame["metric"] == "bytes_up"].groupby(["strategy", "seed"])["value"].sum()
    assert sums["fedmd", 1] == both.run("fedmd", 1).figures()["bytes_up"]
    for name in ("bytes_up", "worst_decile", "personalised_std"):
        assert frame[frame["metric"] == name]["client"].isna().all()
    worst = last.groupby(["strategy", "seed"])["value"].min()
    by_round = frame[(frame["round"] == 2) & (frame["metric"] == "worst_decile")]
    assert by_round.set_index(["strategy", "seed"])["value"].equals(worst)
    assert "target_accuracy" not in set(frame["metric"])


def test_the_paired_test_is_scipy_s(both: ComparisonResult) -> None:
    result = both.test("fedmd", "local", "global_accuracy")
    values = [
        [both.run(label, seed).figures()["global_accuracy"] for seed in both.seeds]
        for label in ("fedmd", "local")
    ]
    expected = stats.ttest_rel(*values)
    interval = expected.confidence_interval(0.95)
    assert (result.n, result.p) == (3, pytest.approx(expected.pvalue))
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    assert "fedmd − local, Global accuracy" in repr(result)
    assert "n = 3" in repr(result)


def test_an_unknown_selection_is_refused(both: ComparisonResult) -> None:
    for asked in (
        both.run("fedmd").figures,
        partial(both.test, "fedmd", "local", "global_accuracy"),
    ):
        with pytest.raises(ConfigError, match=r"Unknown selection 'best'\..*validation_selected"):
            asked(selection="best")


def test_pictures_and_tables(both: ComparisonResult, tmp_path: Path) -> None:
    for metric in ("accuracy", "leakage.correlation", "bytes_up", "worst_decile"):
        both.plot(metric).savefig(tmp_path / "picture.pdf")
        assert (tmp_path / "picture.pdf").read_bytes().startswith(b"%PDF")
    assert both.table().startswith("| Strategy | Personalised accuracy (%) |")
    latex = both.table("latex")
    assert latex.count(r"\\") == 3
    assert r"Personalised accuracy (\%)" in latex
    assert "±" not in latex
    assert both.table("csv") == (both.folder / "comparison.csv").read_text(encoding="utf-8")
    assert "<td>fedmd</td>" in both._repr_html_()
    assert "2 strategies, 3 seeds, 6 runs" in repr(both)


def test_derived_figures_are_drawn_as_the_frame_has_them(both: ComparisonResult) -> None:
    drawn = both.plot("worst_decile").axes[0].lines
    rows = both.frame().query("metric == 'worst_decile'").groupby(["strategy", "round"])["value"]
    for line, label in zip(drawn, both.record.groups, strict=True):
        assert list(line.get_ydata()) == pytest.approx(list(100 * rows.mean()[label]))
    with pytest.raises(ConfigError, match="Unknown metric to plot 'target_accuracy'"):
        both.plot("target_accuracy")


def test_a_run(both: ComparisonResult) -> None:
    run = both.run("fedmd", 2)
    assert isinstance(fedkt.load(run.folder), RunResult)
    assert repr(run).startswith("<fedkt run fedmd, seed 2, round 2: personalised accuracy")
    assert set(run.frame()["strategy"]) == {"fedmd"}
    assert run.table("csv").splitlines()[0].startswith("strategy,seed,personalised_accuracy")
    assert "fedmd" in run.table("latex")
    assert "fedmd" in run._repr_html_()
    assert run.plot().axes


@pytest.mark.parametrize("client", [0, 1])
def test_a_client_answers_as_it_was_measured(both: ComparisonResult, client: int) -> None:
    run = both.run("fedmd", 0)
    data = prepare(read_settings(run.folder / CONFIG)[0]).federation.client(client)
    trained = run.client(client)
    assert trained.round == 2
    frame = run.frame()
    measured = frame[(frame["round"] == 2) & (frame["client"] == client)].set_index("metric")
    for samples, readout, metric in [
        (data.test, "personal", "personalised_accuracy"),
        (data.common_test, "global", "global_accuracy"),
    ]:
        assert samples is not None
        assert samples.y is not None
        labels = np.array(data.classes)[samples.y]
        answers = trained.classify(samples.x, readout, prepared=True)
        assert accuracy_score(labels, answers) == measured["value"][metric]


def test_global_answers_are_those_of_the_recipe_s_world(tmp_path: Path) -> None:
    study = parse({**EXPERIMENT, "models": ["mlp"], "rounds": 1, "compare": {}})
    run = fedkt.simulate(study, f"{OUTSIDE}/fml.py:FML", out=tmp_path / "run")
    client = run.client(0)
    common = prepare(study).federation.client(0).common_test
    assert common is not None
    assert common.y is not None
    net, model = (common.y == client.predict(common.x, on, prepared=True).argmax(-1)
                  for on in ("global", "personal"))  # fmt: skip
    assert net.float().mean() == pytest.approx(
        run.record.rounds[-1]["global_accuracy"]["per_client"][0]
    )
    assert net.float().mean() != model.float().mean()


def test_new_rows_are_prepared_as_those_of_training_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"age": rng.integers(20, 90, 240), "ward": rng.choice(["A", "B", "C"], 240)}
    ).assign(weight=rng.normal(70, 9, 240).round(2))
    table["ill"] = np.where(table["age"] + 20 * (table["ward"] == "B") > 60, "yes", "no")
    study = fedkt.Experiment(
        data=table, label="ill", clients=2, models=["mlp"], rounds=1, grid="in-process",
        test_samples=40, scale="standardise",
    )  # fmt: skip
    run = fedkt.simulate(study, "local", out=tmp_path / "run")
    client, data = run.client(1), prepare(study.with_values(strategy={"name": "local"})).federation
    kept = client.predict(data.client(1).test.x, prepared=True)
    answers = client.predict(table.sample(frac=1, random_state=1)[["ward", "weight", "age", "ill"]])
    nearest = torch.cdist(kept.double(), answers.double()).min(1)
    assert nearest.values.max() < 1e-6
    with pytest.raises(ConfigError, match="Unknown column of the input 'weight'"):
        client.predict(table.drop(columns="weight"))


def test_models_can_be_taken_away(both: ComparisonResult, tmp_path: Path) -> None:
    network, forest = both.run("fedmd", 0).client(0), both.run("fedmd", 0).client(1)
    module, x = network.model(), torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(module(x), network.predict(x, "global", prepared=True))
    saved = load_file(network.save(tmp_path / "new" / "model.safetensors"))
    assert saved.keys() == module.state_dict().keys()
    assert forest.save(tmp_path / "forest.joblib").is_file()
    assert forest.model().predict_proba(x.flatten(1).numpy()).shape[0] == 5


def test_mistakes_are_one_line(both: ComparisonResult, tmp_path: Path) -> None:
    run = both.run("fedmd", 0)
    with pytest.raises(ConfigError, match=r"Did you mean 'fedmd'\? Known: fedmd, local"):
        both.test("fedm", "local")
    with pytest.raises(ConfigError, match="Unknown metric 'acuracy'"):
        both.test("fedmd", "local", "acuracy")
    with pytest.raises(ConfigError, match="Unknown metric to plot"):
        both.plot("loss")
    with pytest.raises(ConfigError, match="latex"):
        both.table("html")  # type: ignore[arg-type]  # the mistake that is tried
    with pytest.raises(ConfigError, match="have seeds 0, 1, 2"):
        both.run("fedmd", 7)
    with pytest.raises(ConfigError, match="There is no client 4; there are 0 to 3"):
        run.client(4)
    with pytest.raises(ConfigError, match=r"shape \[8\]; the model was trained on \[1, 8, 8\]"):
        run.client(0).predict(np.zeros((2, 8)), prepared=True)
    with pytest.raises(ConfigError, match=r"is saved as \*\.joblib"):
        run.client(1).save(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="neither a run nor a comparison"):
        fedkt.load(tmp_path)
