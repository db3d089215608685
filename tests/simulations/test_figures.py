from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.simulations.report import charts as figures
from fedkt.simulations.report import drawing
from fedkt.simulations.results.run_folder import Run

pytest.importorskip("matplotlib")


def made_up_run(
    label: str, seed: int = 0, rounds: int = 6, sent: int = 1000, common: bool = True
) -> Run:
    rng = np.random.default_rng([seed, len(label)])

    def accuracy(level: float) -> dict[str, Any]:
        values = level + rng.normal(0, 0.05, 8)
        return {"mean": values.mean(), "std": values.std(), "per_client": values.tolist()}

    log = [
        {
            "round": number,
            "personalised_accuracy": accuracy(0.9 - 0.5 / number),
            "global_accuracy": accuracy(0.7 - 0.5 / number) if common else None,
            "bytes_up": sent,
            "bytes_down": 2 * sent,
        }
        for number in range(1, rounds + 1)
    ]
    return Run(Path(label), {}, log, {"strategy": label, "seed": seed}, {})


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(path))[..., :3]


def size(path: Path) -> tuple[int, int]:
    """Width and height; the picture must not be blank."""
    picture = pixels(path)
    assert picture.std() > 0.05
    return picture.shape[1], picture.shape[0]


def shows(path: Path, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return bool((np.abs(pixels(path) - wanted).max(axis=-1) < 0.02).any())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures as they were saved."""
    from matplotlib.figure import Figure

    kept: list[Any] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **kwargs: Any) -> None:
        kept.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


GROUPS = {
    "local": [made_up_run("local", seed, sent=0) for seed in range(3)],
    "fedavg": [made_up_run("fedavg", seed, sent=10**6) for seed in range(3)],
    "knfu": [made_up_run("knfu", seed) for seed in range(3)],
}


@pytest.mark.parametrize("band", ["clients", "seeds"])
def test_accuracy_has_two_panels_and_names_its_band(
    tmp_path: Path, drawn: list[Any], band: Any
) -> None:
    path = figures.accuracy_figure(GROUPS, tmp_path / "deep" / "a.png", band=band)
    assert size(path)[0] == 9 * drawing.DPI
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == [
        "Personalised accuracy",
        "Global accuracy",
    ]
    assert figure.axes[0].get_ylabel() == "Accuracy (%)"
    assert figure.axes[0].get_xlabel() == "Round"
    assert f"standard deviation over {band}" in figure.get_suptitle()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(GROUPS)
    lines = figure.axes[0].get_lines()
    expected = [run.series("personalised_accuracy")[1] for run in GROUPS["knfu"]]
    chosen = expected[0] if band == "clients" else np.mean(expected, axis=0)
    np.testing.assert_allclose(lines[2].get_ydata(), 100 * np.asarray(chosen))
    assert len(figure.axes[0].collections) == 3


def test_one_seed_has_no_band(tmp_path: Path, drawn: list[Any]) -> None:
    groups = {label: runs[:1] for label, runs in GROUPS.items()}
    figures.accuracy_figure(groups, tmp_path / "a.png", band="seeds")
    assert "no spread" in drawn[0].get_suptitle()


def test_an_accuracy_nobody_measured_has_no_panel(tmp_path: Path, drawn: list[Any]) -> None:
    runs = [made_up_run("knfu", common=False)]
    figures.accuracy_figure({"knfu": runs}, tmp_path / "a.png", band="clients")
    assert len(drawn[0].axes) == 1


def test_seeds_are_averaged_over_common_rounds_only(tmp_path: Path, drawn: list[Any]) -> None:
    runs = [made_up_run("knfu", 0, rounds=6), made_up_run("knfu", 1, rounds=4)]
    figures.accuracy_figure({"knfu": runs}, tmp_path / "a.png", band="seeds")
    assert drawn[0].axes[0].get_lines()[0].get_xdata().tolist() == [1, 2, 3, 4]


def test_colours_differ_and_stay_with_their_place() -> None:
    looks = [drawing.look_of(index, f"m{index}", 10) for index in range(24)]
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 24
    assert (
        drawing.look_of(1, "local", 10)["color"] == drawing.look_of(5, "local (cnn)", 10)["color"]
    )
    assert drawing.look_of(2, "localsgd", 10)["color"] == looks[2]["color"]


def test_traffic_is_cumulative_megabytes(tmp_path: Path, drawn: list[Any]) -> None:
    figures.traffic_figure(GROUPS, tmp_path / "t.png")
    axes = drawn[0].axes[0]
    silent, heavy, light = axes.get_lines()
    np.testing.assert_allclose(heavy.get_xdata(), 3.0 * np.arange(1, 7))
    np.testing.assert_allclose(light.get_xdata(), 0.003 * np.arange(1, 7))
    assert silent.get_ydata()[0] == silent.get_ydata()[1]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "Sent and received per client (MB)"
    assert "local (sends nothing)" in {t.get_text() for t in drawn[0].legends[0].get_texts()}


# --- leakage ---------------------------------------------------------------------------------


def leaking_run(label: str, seed: int = 0, correlation: float | None = 0.6) -> Run:
    """A made-up run whose clients share answers; ``None``: no correlation is defined."""
    run = made_up_run(label, seed)
    rng = np.random.default_rng([seed, len(label), 1])

    def over_clients(level: float) -> dict[str, Any]:
        values = np.clip(level + rng.normal(0, 0.1, 8), -1, 1)
        return {"mean": values.mean(), "std": values.std(), "per_client": values.tolist()}

    nothing = {"mean": None, "std": None, "per_client": [None] * 8}
    for row in run.rounds:
        row["leakage"] = {
            "correlation": nothing if correlation is None else over_clients(correlation),
            "total_variation": over_clients(0.3),
            "total_variation_uniform": 0.5 + 0.1 * seed,
        }
    return run


def silent_run(label: str, seed: int = 0) -> Run:
    run = made_up_run(label, seed)
    for row in run.rounds:
        row["leakage"] = None
    return run


LEAKING = {
    "local": [silent_run("local", seed) for seed in range(2)],
    "fedmd": [leaking_run("fedmd", seed) for seed in range(2)],
    "knfu": [leaking_run("knfu", seed, -0.4) for seed in range(2)],
}


@pytest.mark.parametrize("band", ["clients", "seeds"])
def test_leakage_of_those_who_share_answers(tmp_path: Path, drawn: list[Any], band: Any) -> None:
    path = figures.leakage_figure(LEAKING, tmp_path / "deep" / "l.png", band=band)
    assert size(path)[0] == 9 * drawing.DPI
    left, right = drawn[0].axes
    assert "Correlation" in left.get_title()
    assert "Total variation" in right.get_title()
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert names == ["fedmd", "knfu", "uniform guess"]
    assert f"standard deviation over {band}" in drawn[0].get_suptitle()
    series = [run.series("leakage.total_variation")[1] for run in LEAKING["knfu"]]
    chosen = series[0] if band == "clients" else np.mean(series, axis=0)
    fedmd, knfu, guess = right.get_lines()
    np.testing.assert_allclose(knfu.get_ydata(), chosen)
    assert fedmd.get_color() == drawing.look_of(1, "fedmd", 6)["color"], "the place in all figures"
    np.testing.assert_allclose(guess.get_ydata(), 0.55)  # the mean over seeds
    assert guess.get_linestyle() == "--"
    assert len(left.collections) == len(right.collections) == 2, "one band each"
    low, high = left.get_ylim()
    assert low < min(left.get_lines()[1].get_ydata()) < 1 < high
    assert right.get_ylim()[0] == 0


def test_leakage_bands_end_where_the_figures_do(tmp_path: Path, drawn: list[Any]) -> None:
    run = leaking_run("fedmd", correlation=1.0)
    figures.leakage_figure({"fedmd": [run]}, tmp_path / "l.png", band="clients")
    left, right = drawn[0].axes
    assert left.collections[0].get_paths()[0].vertices[:, 1].max() <= 1
    assert right.collections[0].get_paths()[0].vertices[:, 1].min() >= 0


@pytest.mark.parametrize("undefined", [(0,), (1,), (0, 1)])
def test_a_correlation_that_is_not_defined_leaves_the_distance(
    tmp_path: Path, drawn: list[Any], undefined: tuple[int, ...]
) -> None:
    runs = [leaking_run("fedmd", s, None if s in undefined else 0.6) for s in range(2)]
    figures.leakage_figure({"fedmd": runs}, tmp_path / "l.png", band="seeds")
    left, right = drawn[0].axes
    assert len(left.get_lines()) == 1, "only the axis at 0: there is no round that both have"
    assert len(right.get_lines()) == 2


def test_who_shares_answers() -> None:
    assert figures.shares_answers(leaking_run("fedmd", correlation=None))
    assert not figures.shares_answers(silent_run("local"))
    assert not figures.shares_answers(made_up_run("older")), "written before this was measured"


# --- what clients hold, gain and weigh ---------------------------------------------------------


@pytest.mark.parametrize(("clients", "classes"), [(10, 10), (100, 10), (100, 100), (1, 2)])
def test_labels_stay_readable(tmp_path: Path, drawn: list[Any], clients: int, classes: int) -> None:
    counts = np.random.default_rng(0).poisson(5, (clients, classes))
    path = tmp_path / "l.png"
    figures.labels_figure(counts.tolist(), [f"class {i}" for i in range(classes)], path)
    width, height = size(path)
    assert width == 9 * drawing.DPI
    assert height <= 9 * drawing.DPI
    heat = drawn[0].axes[0]
    assert max(len(heat.get_xticks()), len(heat.get_yticks())) <= 26
    assert len(heat.texts) == ((counts > 0).sum() if clients <= 10 else 0)


def test_gain_names_the_share_of_losers(tmp_path: Path, drawn: list[Any]) -> None:
    path = tmp_path / "g.png"
    figures.gain_figure({"knfu": [[0.1, -0.02, None, 0.03, 0.0]]}, path)
    axes = drawn[0].axes[0]
    assert axes.get_title() == "knfu\n25.0 % of clients worse"
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([-2, 0, 3, 10])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "4", "3", "0"]
    assert shows(path, figures._GAIN)
    assert shows(path, figures._LOSS)


def test_gain_of_seeds_is_averaged_by_rank(tmp_path: Path, drawn: list[Any]) -> None:
    gains: dict[str, list[list[float | None]]] = {
        "a": [[0.1, -0.1], [-0.3, 0.2]],
        "b": [[0.1, 0.1], [0.2, None]],
        "c": [[0.0, 0.1]],
    }
    figures.gain_figure(gains, tmp_path / "g.png")
    first, second, third = drawn[0].axes
    assert first.get_title() == "a\n50.0 % of clients worse"
    assert [bar.get_height() for bar in first.patches] == pytest.approx([-20, 15])
    assert [bar.get_height() for bar in second.patches] == pytest.approx([15, 15])
    assert third.get_title() == "c\n0.0 % of clients worse"


@pytest.mark.parametrize("clients", [3, 100])
def test_weights_show_ids_and_effective_neighbours(
    tmp_path: Path, drawn: list[Any], clients: int
) -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(clients), clients)
    ids = [7 + 2 * i for i in range(clients)]
    effective = (1 / (weights**2).sum(axis=1)).tolist()
    path = figures.weights_figure(weights.tolist(), ids, tmp_path / "w.png", effective=effective)
    assert size(path)[0] == 9 * drawing.DPI
    heat, bars, scale = drawn[0].axes
    assert heat.get_yticklabels()[0].get_text() == "7"
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(effective)
    assert "Weight" in scale.get_ylabel()
    figures.weights_figure(weights.tolist(), ids, path)
    assert len(drawn[1].axes) == 2


def test_dollar_signs_are_no_formulas(tmp_path: Path) -> None:
    label = r"cheap $\frac{$ method"
    runs = {label: [made_up_run("a")]}
    figures.accuracy_figure(runs, tmp_path / "a.png", band="seeds")
    figures.gain_figure({label: [[0.1]]}, tmp_path / "g.png")
    figures.labels_figure([[1, 2]], ["$a", r"$\b$"], tmp_path / "l.png")
    assert len(list(tmp_path.iterdir())) == 3


def test_equal_data_give_equal_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        figures.accuracy_figure(GROUPS, path, band="seeds")
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_importing_draws_on_no_matplotlib() -> None:
    code = "import sys, fedkt.simulations.report.pages; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
