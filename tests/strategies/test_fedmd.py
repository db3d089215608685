from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkt.errors import ConfigError
from fedkt.objectives import KL, MAE, MSE, Distil
from fedkt.recipe import Predict
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare, strategy_of
from fedkt.simulations.runs.run import execute
from fedkt.strategies import ServerOptions
from fedkt.strategies.answers.fedmd import FedMD


@pytest.mark.parametrize("form", ["logits", "probabilities"])
def test_fuse_is_the_plain_mean_for_all(uploads_of, form) -> None:
    generator = torch.Generator().manual_seed(0)
    answers = {c: torch.randn(6, 3, generator=generator).softmax(-1) for c in (4, 0, 2)}
    fused = FedMD(form=form).fuse(uploads_of(answers, form))
    by_hand = np.stack([a.double().numpy() for a in answers.values()]).mean(0)
    assert np.allclose(fused.shared["public"].values, by_hand, atol=1e-6)
    assert fused.shared["public"].kind == form
    assert fused.personal == {}


@pytest.mark.parametrize(
    ("options", "divergence"),
    [
        ({}, MAE()),
        ({"loss": "mse"}, MSE()),
        ({"loss": "kl", "temperature": 3}, KL(3)),
        ({"form": "probabilities"}, KL(1.0)),
        ({"form": "probabilities", "loss": "kl", "temperature": 2}, KL(2)),
    ],
)
def test_forms_and_losses(options, divergence) -> None:
    recipe = FedMD(**options).recipe()
    assert recipe.absorb[0].terms == (Distil(divergence),)
    share = recipe.share[0]
    assert isinstance(share, Predict)
    assert share.form == options.get("form", "logits")
    softened = share.form == "probabilities"
    assert share.temperature == (options.get("temperature", 1) if softened else 1)
    assert type(recipe).from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "labels"}, "form must be one of logits, probabilities, not 'labels'"),
        ({"form": "probabilities", "loss": "mae"}, "loss 'mae' does not fit form 'probabilities'"),
        ({"form": "probabilities", "loss": "mse"}, "'mse' does not fit"),
        ({"loss": "hinge"}, "loss must be one of mae, mse, kl or None, not 'hinge'"),
        ({"temperature": 0}, "temperature must be .* above 0"),
    ],
)
def test_options_are_checked(options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FedMD(**options)


def test_every_hyper_parameter_reaches_the_recipe() -> None:
    recipe = FedMD(local_epochs=7, distil_epochs=2, transfer_epochs=9, public_samples=5).recipe()
    assert recipe.learn[0].epochs == 7
    assert recipe.absorb[0].epochs == 2
    assert recipe.start[0].epochs == 9
    assert recipe.share[0].samples == 5
    assert FedMD().recipe().start == ()


def test_the_transfer_phase_runs_once_before_a_clients_first_round(world, with_options) -> None:
    # Without epochs in the rounds the models move only by the transfer phase.
    strategy = FedMD(local_epochs=0, distil_epochs=0, transfer_epochs=2)
    run = world()
    run.start(with_options(strategy), 1)
    first = {c: dict(run.model_of(c)) for c in range(4)}
    learner = run.population.learner("linear")
    learner.reset(3, 0)
    assert not torch.equal(first[0]["1.weight"], learner.weights().tensors["1.weight"])
    run.start(strategy, 3)
    assert [r.round for r in run.reports] == [1, 2, 3]
    for client, model in first.items():
        assert all(torch.equal(run.model_of(client)[n], t) for n, t in model.items())


def test_the_transfer_phase_waits_for_the_client_to_take_part(world, with_options) -> None:
    strategy = with_options(
        FedMD(local_epochs=0, distil_epochs=0, transfer_epochs=1), participation=0.5
    )
    run = world()
    run.start(strategy, 4)
    took_part = {c for r in run.reports for c in r.participants}
    assert set(run.grid.snapshot()) == took_part


def test_bytes_are_those_of_the_docstring(world, with_options) -> None:
    run = world()
    run.start(with_options(FedMD(local_epochs=1, distil_epochs=1, public_samples=20)), 2)
    for report in run.reports:
        assert report.traffic.up == 4 * (4 * 20 * 10)
        assert report.traffic.down_broadcast == 4 * (4 * 20 * 10)
        assert report.traffic.down_unicast == 0


def test_the_codec_halves_both_ways(world, with_options) -> None:
    run = world()
    strategy = FedMD(form="probabilities", local_epochs=1, distil_epochs=1)
    run.start(with_options(strategy, codec="float16"), 1)
    assert run.reports[0].traffic.up == 4 * (2 * 50 * 10)
    assert run.reports[0].traffic.down == 4 * (2 * 50 * 10)
    assert run.reports[0].failures == []


# --- trust ---------------------------------------------------------------------------------


def truth() -> torch.Tensor:
    return torch.arange(40) % 5


def lied_to(clients: int, liars: int, seed: int = 0) -> dict[int, torch.Tensor]:
    """Logits of clients that agree about the truth, and of liars that agree on the next class."""
    rng = torch.Generator().manual_seed(seed)
    answers = 4 * torch.eye(5)[truth()] + torch.randn(clients, 40, 5, generator=rng)
    answers[:liars] = 12 * torch.eye(5)[(truth() + 1) % 5]
    return dict(enumerate(answers))


def test_without_trust_nothing_is_judged_or_remembered(uploads_of) -> None:
    strategy = FedMD()
    fused = strategy.fuse(uploads_of(lied_to(6, 2), "logits"))
    assert fused.diagnostics == {}
    assert strategy.memory == {}


@pytest.mark.parametrize("form", ["logits", "probabilities"])
@pytest.mark.parametrize("trust", ["correlation", "per-class", "median", "root"])
def test_trust_keeps_liars_out(uploads_of, form, trust) -> None:
    if (form, trust) == ("logits", "root"):
        with pytest.raises(ConfigError, match=r"root.*probabilities"):
            FedMD(form=form, trust=trust)
        return
    answers = lied_to(8, 3)
    if form == "probabilities":
        answers = {c: z.softmax(-1) for c, z in answers.items()}
    uploads = uploads_of(answers, form)
    lie, rows = (truth() + 1) % 5, torch.arange(40)
    believed = {}
    for choice in ("off", trust):
        strategy = FedMD(form=form, trust=choice)
        strategy.options = ServerOptions(public_labels=truth())
        told = strategy.fuse(uploads)
        target = told.shared["public"]
        assert target.kind == form
        p = target.values.softmax(-1) if form == "logits" else target.values
        believed[choice] = float(p[rows, lie].mean())
    assert believed["off"] > 0.3
    assert believed[trust] < 0.15
    assert told.diagnostics["clients"] == list(range(8))
    if trust != "median":
        assert told.diagnostics["trust"].tolist() == [0.0] * 3 + [1.0] * 5


def test_a_root_without_labels_stops_the_run_in_one_line(world, with_options) -> None:
    strategy = FedMD(form="probabilities", trust="root", local_epochs=0)
    with pytest.raises(ConfigError, match=r"root.*labels"):
        world().start(with_options(strategy), 1)


def test_a_simulated_server_knows_the_labels_of_the_public_set(tmp_path) -> None:
    section = {"name": "fedmd", "form": "probabilities", "trust": "root", "root": 7}
    plan = prepare(parse({
        "rounds": 1,
        "models": ("linear",),
        "strategy": section,
        "data": {"clients": 2, "samples_per_client": 20, "public_samples": 30},
        "run": {"grid": "in-process", "workers": 1},
    }))  # fmt: skip
    labels = strategy_of(plan).options.public_labels
    assert labels.tolist() == plan.federation.public_y.tolist()
    execute(plan, tmp_path / "run", label="root")
    (row,) = read_rounds(tmp_path / "run")
    assert row["strategy"]["root_rows"] == 7
    assert len(row["strategy"]["trust"]) == 2
    other = replace(plan.federation, public_y=None, token="")
    assert strategy_of(replace(plan, federation=other)).options.public_labels is None
