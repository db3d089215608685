from __future__ import annotations

import csv
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.experiment.cells import cells_of
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.runs.comparison import plan_parts

AXES = [
    [{"name": "few", "data": {"samples_per_client": 20}}, {"name": "more"}],
    [
        {"name": "1", "strategy": {"local_epochs": 1}},
        {"name": "2", "strategy": {"local_epochs": 2}},
    ],
]


def cells(tiny: Any, *entries: dict[str, Any], **compare: Any) -> Any:
    given = {"strategies": ["local", "fedmd"], "seeds": 2, "cells": list(entries), **compare}
    return tiny(strategy={"distil_epochs": 1, "local_epochs": 1}, compare=given)


def test_without_cells_there_is_one_in_the_folder_itself(tiny: Any, tmp_path: Path) -> None:
    experiment = tiny(compare={"strategies": ["local"]})
    (only,) = cells_of(experiment)
    assert (only.experiment, only.folder(tmp_path)) == (experiment, tmp_path)


def test_axes_are_multiplied_and_values_replaced_key_by_key(tiny: Any) -> None:
    experiment = cells(tiny, {"name": "a", "data": {"public_samples": 30}, "axes": AXES},
                       {"name": "b", "models": ["mlp"]})  # fmt: skip
    found = {cell.name: cell.experiment for cell in cells_of(experiment)}
    assert list(found) == ["a few 1", "a few 2", "a more 1", "a more 2", "b"]
    few = found["a few 2"]
    assert (few.data.samples_per_client, few.data.public_samples) == (20, 30)
    assert few.strategy["local_epochs"] == 2
    assert few.strategy["distil_epochs"] == 1, "the other keys of a section stay"
    assert few.data.clients == experiment.data.clients
    assert found["a more 1"].data.samples_per_client == experiment.data.samples_per_client
    assert found["b"].models == ("mlp",)
    assert not few.compare.cells


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ({"models": ["mlp"]}, "needs a name"),
        ({"name": "a", "dta": {}}, "'dta'"),
        ({"name": "a", "data": {"clients": 0}}, "'a': data.clients = 0"),
        ({"name": "a", "data": {"cliens": 3}}, "clients"),
        ({"name": "a", "axes": [{"name": "x"}]}, "list of lists"),
        ({"name": "a", "axes": [["x"]]}, "'x' is not a table"),
        ({"name": "a", "axes": [[{"name": "x"}, {"name": "x"}]]}, "there twice"),
    ],
)
def test_a_bad_cell_is_named(tiny: Any, entry: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as error:
        cells_of(cells(tiny, entry))
    assert part in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_cell_that_cannot_run_is_refused_before_the_first_run(tiny: Any) -> None:
    bad = {"name": "large", "data": {"samples_per_client": 5000}}
    with pytest.raises(ConfigError, match="large: "):
        plan_parts(cells(tiny, {"name": "fine"}, bad))


def test_every_cell_of_one_seed_comes_before_the_next_seed(tiny: Any) -> None:
    parts = plan_parts(cells(tiny, {"name": "x"}, {"name": "y", "rounds": 1}))
    assert [part.name for part in parts] == ["x, seed 0", "y, seed 0", "x, seed 1", "y, seed 1"]
    assert [job.label for job in parts[0].jobs] == ["local", "fedmd"]
    assert {job.experiment.rounds for job in parts[1].jobs} == {1}


TOML = {
    "strategy": {"local_epochs": 1, "distil_epochs": 1},
    "run": {"grid": "in-process", "group_effect": True},
    "compare": {
        "strategies": ["local", "fedmd(form=probabilities)", "ours = fedpf"],
        "seeds": 1,
        "cells": [{"name": "x"}, {"name": "y", "data": {"samples_per_client": 20}}],
        "verdict": {"subject": "ours", "personalised_bar": ["local"]},
    },
}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, fedkt: Any, write_toml: Any) -> Path:
    """A comparison of one cell and seed, then gone on with two of each in two processes."""
    here = tmp_path_factory.mktemp("cells")
    compare = TOML["compare"]
    first = write_toml(here, **{**TOML, "compare": {**compare, "cells": compare["cells"][:1]}})
    answer = fedkt("compare", first, "--out", here / "out")
    assert answer.code == 0, answer.err
    before = (here / "out/cells/x/runs/ours-seed0/rounds.jsonl").read_bytes()
    more = write_toml(here, **{**TOML, "compare": {**compare, "seeds": 2, "processes": 2}})
    answer = fedkt("compare", more, "--out", here / "out", "--resume")
    assert answer.code == 0, answer.err
    assert "y, seed 1: done" in answer.out
    assert (here / "out/cells/x/runs/ours-seed0/rounds.jsonl").read_bytes() == before
    assert_readable(answer.out)
    return here / "out"


def assert_readable(printed: str) -> None:
    """The terminal shows verdict and tables in 80 columns, and no Markdown."""
    tables = printed.partition("ours against the best rival")[2]
    assert "ours reaches the bar" in tables
    assert "Personalised accuracy after the last round (%)" in tables
    assert "Average" in tables
    assert "| ---" not in printed
    shown = [line for line in tables.splitlines() if not line.startswith(("As Mark", "Report:"))]
    assert max(map(len, shown)) <= 80


def test_a_comparison_of_cells_can_gain_cells_and_seeds(grown: Path) -> None:
    rows = rows_of(grown / "cells.csv")
    labels = ["local", "fedmd(form=probabilities)", "ours"]
    assert [(r["cell"], r["strategy"], r["seed"]) for r in rows] == [
        (cell, label, seed) for cell in "xy" for label in labels for seed in "01"
    ]
    own = rows_of(grown / "cells" / "y" / "comparison.csv")
    assert own == [{k: v for k, v in r.items() if k != "cell"} for r in rows if r["cell"] == "y"]


def test_several_processes_give_the_same_bits(grown: Path, fedkt: Any, write_toml: Any) -> None:
    here = grown.parent
    compare = {**TOML["compare"], "cells": TOML["compare"]["cells"][1:], "seeds": 2}
    alone = write_toml(here, **{**TOML, "compare": compare})
    assert fedkt("compare", alone, "--out", here / "alone").code == 0
    for row, other in zip(
        rows_of(grown / "cells/y/comparison.csv"),
        rows_of(here / "alone/cells/y/comparison.csv"),
        strict=True,
    ):
        assert {**row, "seconds": ""} == {**other, "seconds": ""}


def test_nothing_else_may_change(grown: Path, fedkt: Any, write_toml: Any) -> None:
    compare = {**TOML["compare"], "seeds": 2, "cells": [{"name": "x", "rounds": 3}, {"name": "y"}]}
    other = write_toml(grown.parent, **{**TOML, "compare": compare})
    answer = fedkt("compare", other, "--out", grown, "--resume")
    assert (answer.code, "begun with cell 'x' as it was" in answer.err) == (2, True)
    fewer = write_toml(grown.parent, **{**TOML, "compare": {**TOML["compare"], "seeds": 1}})
    answer = fedkt("compare", fewer, "--out", grown, "--resume")
    assert (answer.code, "begun with 2 seeds" in answer.err) == (2, True)
    options = ["--seeds", 2, "--strategies", "local,ours = fedpf", "--out", grown, "--resume"]
    answer = fedkt("compare", fewer, *options)
    assert (answer.code, "begun with strategy fedmd(form=probabilities)" in answer.err) == (2, True)


def test_the_report_holds_the_verdict(grown: Path, fedkt: Any) -> None:
    answer = fedkt("report", grown, "--markdown")
    assert answer.code == 0, answer.err
    page = (grown / "report.html").read_text(encoding="utf-8")
    assert "Verdict on ours" in page
    assert page.count("data:image/png;base64,") == 3, "verdict, cells, group effect"
    assert page.count("<tr>") >= 3 + 4 + 4, "the verdict, and two tables of three strategies"
    assert "<b>" in page, "the best of a cell"
    table = (grown / "cells_table.md").read_text(encoding="utf-8")
    assert "| Strategy | x | y | Average |" in table
    assert table in answer.out
    assert "| x |" in answer.out
    assert "of 2 cells" in answer.out
    for name in ("verdict", "targets", "group_effect"):
        assert (grown / "figures" / f"{name}.png").stat().st_size > 10_000
    assert fedkt("report", grown / "cells" / "x").code == 0
    assert "Group effect (FedKA" in (grown / "cells" / "x" / "report.html").read_text(
        encoding="utf-8"
    )


def test_several_processes_need_the_grid_in_process(tiny: Any) -> None:
    compare = {"strategies": ["local"], "processes": 2}
    with pytest.raises(ConfigError, match="in-process"):
        plan_parts(tiny(run__grid="ray", strategy={}, compare=compare))


def test_a_verdict_on_an_unknown_strategy_is_refused(
    grown: Path, fedkt: Any, write_toml: Any
) -> None:
    compare = {**TOML["compare"], "seeds": 2, "verdict": {"subject": "ourss"}}
    toml = write_toml(grown.parent, **{**TOML, "compare": compare})
    answer = fedkt("compare", toml, "--out", grown, "--resume")
    assert (answer.code, "Did you mean 'ours'" in answer.err) == (2, True)


def test_the_documented_comparison_is_valid() -> None:
    text = (Path(__file__).parents[2] / "docs" / "comparisons.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```toml")[1:]]
    both, verdict = (tomllib.loads(block)["compare"] for block in blocks)
    experiment = parse(
        {"strategy": {}, "run": {"grid": "in-process"}, "compare": {**both, **verdict}}
    )
    names = [part.name for part in plan_parts(experiment)]
    assert names[:5] == [
        *(
            f"digits {skew} {size}, seed 0"
            for skew in ("skewed", "even")
            for size in ("few", "many")
        ),
        "domains, seed 0",
    ]
    assert len(names) == 25
