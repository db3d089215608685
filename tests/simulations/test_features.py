"""Features by domain: the points, the samples, and the command on real runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkt.data import FederationSpec, build_federation
from fedkt.errors import ConfigError
from fedkt.simulations.report import features
from fedkt.simulations.report.features import Panel, domain_samples, feature_points, features_figure
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute

pytest.importorskip("matplotlib")
DOMAINS = ["digits-plain", "digits-inverted"]
FEDAVG = {"name": "fedavg", "local_epochs": 1}


def test_pca_is_the_rotation_with_the_largest_variances() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 5)) * [1, 9, 2, 5, 0.1] + 7
    points = feature_points(x)
    assert points.shape == (80, 2)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-9)
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    np.testing.assert_allclose(points.var(axis=0, ddof=1), values[:2])
    assert abs(np.corrcoef(points.T)[0, 1]) < 1e-9
    assert np.corrcoef(points[:, 0], x[:, 1])[0, 1] > 0.9, "the largest loading is positive"
    turned = feature_points(-x)
    np.testing.assert_allclose(turned, -points, atol=1e-9)


def test_few_dimensions_and_samples() -> None:
    line = feature_points(np.array([[1.0], [3.0]]))
    np.testing.assert_allclose(line, [[-1, 0], [1, 0]])
    assert feature_points(np.zeros((4, 3))).tolist() == [[0, 0]] * 4
    with pytest.raises(ConfigError, match="two samples"):
        feature_points(np.zeros((1, 3)))
    with pytest.raises(ConfigError, match="umap"):
        feature_points(np.zeros((4, 3)), "umap")


def test_tsne_is_the_same_for_the_same_seed() -> None:
    x = np.random.default_rng(0).normal(size=(30, 6))
    one = feature_points(x, "tsne", seed=3)
    assert one.shape == (30, 2)
    np.testing.assert_array_equal(one, feature_points(x, "tsne", seed=3))


def test_samples_are_the_held_out_ones_of_every_domain() -> None:
    spec = FederationSpec(domains=tuple(DOMAINS), clients=4, samples_per_client=60, seed=2)
    federation = build_federation(spec)
    chosen = domain_samples(federation, 20, seed=2)
    assert {name: len(x) for name, x in chosen.items()} == dict.fromkeys(DOMAINS, 20)
    own = torch.cat([federation.client(i).test.x for i in (0, 2)])
    known = {x.numpy().tobytes() for x in own}
    assert {x.numpy().tobytes() for x in chosen["digits-plain"]} <= known
    again = domain_samples(federation, 20, seed=2)
    assert all(torch.equal(chosen[name], again[name]) for name in chosen)
    every = domain_samples(federation, 10**6, seed=2)
    assert len(every["digits-plain"]) == len(own)


def test_the_target_is_the_common_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    federation = build_federation(FederationSpec(clients=2, samples_per_client=40, seed=1))
    about = {**federation.describe(), "target": "aim", "domains": ["a", "b"]}
    monkeypatch.setattr(type(federation), "describe", lambda _: about)
    chosen = domain_samples(federation, 30, seed=1)
    assert list(chosen) == ["a", "b", "aim"]
    common = federation.client(0).common_test
    assert common is not None
    assert {x.numpy().tobytes() for x in chosen["aim"]} <= {x.numpy().tobytes() for x in common.x}


def test_without_held_out_samples_there_is_nothing_to_draw() -> None:
    spec = FederationSpec(clients=2, samples_per_client=40, test_fraction=0)
    with pytest.raises(ConfigError, match="test_fraction"):
        domain_samples(build_federation(spec), 30, seed=0)


def test_features_are_the_input_of_the_last_layer_in_order(tiny: Any) -> None:
    plan = prepare(tiny(models=["mlp"]))
    learner = features.Population(plan.population, plan.federation).learner("mlp")
    learner.reset(0, 0)
    x = plan.federation.client(0).common_test.x
    found = features.features_of(learner, x[:60])
    twice = features.features_of(learner, torch.cat([x[:60], x[:60]]))  # more than one batch
    assert twice.shape == (120, found.shape[1])
    np.testing.assert_allclose(twice[60:], found, rtol=1e-5, atol=1e-6)
    last = [m for m in learner.model.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        logits = last(torch.from_numpy(found).float())
    torch.testing.assert_close(logits, learner.predict(x[:60]))


def test_the_figure_tells_the_target_from_the_sources(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = {name: rng.normal(place, 1, (40, 2)) for place, name in enumerate("abc")}
    panels = Panel("before", points), Panel("after", points)
    path = features_figure(*panels, tmp_path / "figures" / "f.png", domain="c")
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("section", "models", "whose"),
    [(FEDAVG, ["mlp"], "Server's model"), ({"name": "knfu"}, ["mlp", "forest"], "client 0")],
)
def test_the_command_draws_before_and_after(
    tmp_path: Path,
    tiny: Any,
    fedkt: Any,
    monkeypatch: pytest.MonkeyPatch,
    section: dict[str, Any],
    models: list[str],
    whose: str,
) -> None:
    drawn: list[Any] = []

    def keep(before: Panel, after: Panel, target: Path, **more: Any) -> Path:
        drawn.extend([before, after])
        return features_figure(before, after, target, **more)

    monkeypatch.setattr(features, "features_figure", keep)
    experiment = tiny(strategy=section, models=models, data__domains=DOMAINS, data__clients=4)
    execute(prepare(experiment), tmp_path / "run", label="run")
    answer = fedkt("features", tmp_path / "run", "--samples", 9)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.strip().endswith("features.png")
    before, after = drawn
    assert whose in before.title
    assert after.title.endswith("after round 2")
    assert list(before.points) == list(after.points) == DOMAINS
    assert not np.allclose(before.points["digits-plain"], after.points["digits-plain"])
    assert fedkt("report", tmp_path / "run").code == 0
    assert "Features of test samples" in (tmp_path / "run" / "report.html").read_text(
        encoding="utf-8"
    )


def test_what_has_no_features_is_said_in_a_line(tmp_path: Path, tiny: Any, fedkt: Any) -> None:
    answer = fedkt("features", tmp_path)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "no config.toml" in answer.err
    execute(prepare(tiny(models=["forest"])), tmp_path / "run", label="run")
    answer = fedkt("features", tmp_path / "run")
    assert (answer.code, "'forest' of client 0 is no network" in answer.err) == (2, True)
    answer = fedkt("features", tmp_path / "run", "--method", "umap")
    assert (answer.code, "'umap'" in answer.err) == (2, True)
    for file in (tmp_path / "run" / "checkpoints").iterdir():
        file.unlink()
    answer = fedkt("features", tmp_path / "run")
    assert (answer.code, "no checkpoint" in answer.err) == (2, True)
