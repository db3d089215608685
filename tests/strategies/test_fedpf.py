"""FedPF: its limits, its invariances, and what leaves the client."""

from __future__ import annotations

import copy
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt.answers import softmax
from fedkt.errors import ConfigError
from fedkt.fusion.trust import correlations
from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.objectives import KL, AdjustedCrossEntropy, Distil
from fedkt.readouts import Mix
from fedkt.readouts.gate import as_knowledge
from fedkt.recipe import Recipe, Train, Weighted
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute
from fedkt.strategies.answers.fedmd import FedMD
from fedkt.strategies.answers.fedpf import FedPF
from fedkt.strategies.server.fusing import with_readout

PLAIN: dict[str, Any] = {
    "gamma": 0.0,
    "mu": 0.0,
    "prior": "off",
    "readout": "raw",
    "trust": "off",
}


def uploads(values: torch.Tensor, clients: list[int] | None = None) -> Uploads:
    clients = clients or list(range(len(values)))
    return Uploads(
        [
            Upload(c, 10, {"public": Knowledge.rows("logits", v)})
            for c, v in zip(clients, values, strict=True)
        ]
    )


def target(strategy: FedPF, values: torch.Tensor) -> torch.Tensor:
    return strategy.fuse(uploads(values)).shared["public"].values


def logits(clients: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    truth = 3 * torch.nn.functional.one_hot(torch.randint(6, (40,), generator=rng), 6).float()
    return truth + torch.randn(clients, 40, 6, generator=rng)


def test_without_its_parts_the_target_is_fedmds_bit_for_bit() -> None:
    z = logits(6)
    averaged = Uploads(
        [
            Upload(c, 10, {"public": Knowledge.rows("probabilities", softmax(v))})
            for c, v in enumerate(z)
        ]
    )
    fedmd = FedMD(form="probabilities").fuse(averaged).shared["public"].values
    assert torch.equal(target(FedPF(**PLAIN), z), fedmd)


def test_one_client_gives_its_own_and_identical_clients_the_average() -> None:
    z = logits(1)
    assert torch.allclose(target(FedPF(), z), z[0].softmax(-1), atol=1e-6)
    same = z.expand(7, -1, -1)
    assert torch.allclose(target(FedPF(), same), z[0].softmax(-1), atol=1e-5)


@pytest.mark.parametrize("trust", ["correlation", "per-class", "median", "off"])
def test_permuting_clients_changes_nothing(trust: Any) -> None:
    z = logits(7)
    z[3] = -z[3]
    order = [4, 2, 6, 0, 3, 1, 5]
    a, b = target(FedPF(trust=trust), z), target(FedPF(trust=trust), z[order])
    assert torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(a.sum(-1), torch.ones(40), atol=1e-5)


def test_a_liar_moves_the_target_less_with_trust() -> None:
    z = logits(8)
    lie = z.clone()
    lie[0] = 12 * torch.nn.functional.one_hot((z[0].argmax(-1) + 1) % 6, 6).float()
    shift = {}
    for trust in ("off", "correlation"):
        clean = target(FedPF(trust=trust), z[1:])
        shift[trust] = float((target(FedPF(trust=trust), lie) - clean).abs().mean())
    assert shift["correlation"] < 0.2 * shift["off"]


def test_trust_is_reported_and_remembered() -> None:
    strategy, z = FedPF(history=0.5), logits(6)
    first = strategy.fuse(uploads(z))
    assert first.diagnostics["trust"].tolist() == [1.0] * 6
    z[0] = -z[0]
    second = strategy.fuse(uploads(z))
    alone = FedPF(history=0.0).fuse(uploads(z))
    assert float(alone.diagnostics["trust"][0]) == 0
    remembered = strategy.memory["agreement"]["0/1"]
    assert remembered > float(correlations(z)[0, 1])
    assert float(second.diagnostics["trust"][0]) >= 0


def test_memory_is_kept_by_client_and_survives_absence() -> None:
    strategy, z = FedPF(), logits(6)
    strategy.fuse(uploads(z))
    before = copy.deepcopy(strategy.memory["agreement"])
    strategy.fuse(uploads(z[:5], [0, 1, 2, 3, 4]))
    assert strategy.memory["agreement"]["0/5"] == before["0/5"]


def test_recipe_travels_with_its_readout_and_rehearsal() -> None:
    recipe = FedPF(mu=0.5, readout="mix").recipe()
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.readout == Mix()
    assert again.absorb[0].rehearse[0].factor == 0.5
    assert FedPF(mu=0).recipe().absorb[0].rehearse == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": -1.0},
        {"mu": -0.1},
        {"history": 1.0},
        {"prior": "x"},
        {"trust": "x"},
        {"root": 0},
    ],
)
def test_bad_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FedPF(**wrong)


def test_the_gate_adds_the_mean_of_the_losses_and_changes_nothing_else() -> None:
    z, losses = logits(6), torch.rand(6, 75, generator=torch.Generator().manual_seed(0))
    losses[2] = -1  # a client without validation samples
    told = Uploads(
        [
            Upload(c, 10, {"public": Knowledge.rows("logits", v), "gate": as_knowledge(one)})
            for c, (v, one) in enumerate(zip(z, losses, strict=True))
        ]
    )
    strategy = FedPF(readout="gate")
    fused = with_readout(strategy.settled_recipe.personal, told, strategy.fuse(told))
    assert torch.equal(fused.shared["public"].values, target(FedPF(), z))
    expected = losses[[0, 1, 3, 4, 5]].double().mean(0).float()
    assert torch.allclose(fused.shared["gate"].tensors["losses"], expected, atol=1e-6)
    assert fused.diagnostics["clients"] == list(range(6))


def test_the_gate_costs_three_hundred_bytes_each_way(world, with_options) -> None:
    traffic = {}
    for readout in ("prior", "gate"):
        place = world(models=("linear", "logistic"))
        strategy = FedPF(readout=readout, local_epochs=1, distil_epochs=1)
        place.start(with_options(strategy), rounds=2)
        traffic[readout] = [r.traffic for r in place.reports]
        assert not any(r.failures for r in place.reports)
    for plain, gated in zip(traffic["prior"], traffic["gate"], strict=True):
        assert gated.up - plain.up == 4 * 300
        assert gated.down_broadcast - plain.down_broadcast == 4 * 300
        assert gated.down_unicast == 0


def test_unknown_readout() -> None:
    with pytest.raises(ConfigError, match="read-out 'loud'"):
        FedPF(readout="loud").recipe()


# --- whole runs ------------------------------------------------------------------------------


def test_a_run_without_its_parts_is_fedmds_bit_for_bit(world, with_options) -> None:
    runs = []
    for strategy in (FedPF(**PLAIN), FedMD(form="probabilities")):
        place = world(models=("mlp", "linear"))
        place.start(with_options(strategy), rounds=2)
        runs.append(place)
    ours, fedmds = runs
    for mine, theirs in zip(ours.reports, fedmds.reports, strict=True):
        assert mine.metrics == theirs.metrics
        assert mine.traffic == theirs.traffic
    for client in range(4):
        theirs_model = fedmds.model_of(client)
        for name, tensor in ours.model_of(client).items():
            assert torch.equal(tensor, theirs_model[name])


def test_counts_and_priors_never_leave_the_client(world, with_options, monkeypatch) -> None:
    place, replies = world(models=("mlp", "forest")), []
    deliver = place.grid._handle
    monkeypatch.setattr(
        place.grid, "_handle", lambda m, t: replies.append(answers := deliver(m, t)) or answers
    )
    place.start(with_options(FedPF()), rounds=2)
    contents = [reply.content for batch in replies for reply in batch]
    assert len(contents) == 4 + 2 * 2 * 4, "greeting, then two messages a client and round"
    secrets = [place.population.client(c).data for c in range(4)]
    for content in contents:
        said = {key for record in content.metric_records.values() for key in record}
        accuracies = {"personalised-accuracy", "global-accuracy", "validation-accuracy"}
        assert said <= {"num-examples", "loss"} | accuracies
        about = {key for record in content.config_records.values() for key in record}
        hello = {"client", "architecture", "num-classes", "public-size"}
        hello |= {"classes", "input-shape", "columns"}  # names, not counts
        hello |= {"training", "recipe-digest"}
        hello |= {"about: public set", "about: input shape"}
        assert about <= {"kind", "round", "codec"} | hello
        assert set(content.array_records) <= {"knowledge.public"}
        for record in content.array_records.values():
            for array in record.values():
                rows = torch.tensor(array.numpy()).view(-1, 10)
                for data in secrets:
                    for secret in (data.class_counts.float(), data.log_prior, data.log_prior.exp()):
                        assert not bool(torch.isclose(rows, secret).all(1).any())


def with_weights(values: torch.Tensor, kinds: dict[int, str], sizes: dict[int, int]) -> Uploads:
    return Uploads([
        Upload(
            c, sizes[c],
            {
                "public": Knowledge.rows("logits", values[c]),
                "weights": Knowledge("weights", {"w": torch.full((2,), float(c))}),
            },
            kind,
        )
        for c, kind in kinds.items()
    ])  # fmt: skip


def test_each_architecture_has_a_mean_of_its_own_by_examples(monkeypatch: Any) -> None:
    """θ̄ = Σ |D_n| θ_n / Σ |D_n|; a lone client of an architecture gets its own weights."""
    strategy = FedPF(pull=0.5)
    told = {c: {"architecture": "none"} for c in range(6)}
    about = types.SimpleNamespace(about=told, number=1)
    monkeypatch.setattr(FedPF, "round", property(lambda self: about))
    monkeypatch.setattr(FedPF, "model", property(lambda self: {}))
    kinds = {0: "mlp", 1: "mlp", 2: "cnn", 3: "cnn", 4: "deep"}
    sizes = {0: 30, 1: 10, 2: 20, 3: 20, 4: 7}
    fused = strategy.fuse(with_weights(logits(6), kinds, sizes))
    weights = {c: fused.for_client(c)["weights"].tensors["w"] for c in kinds}
    expected = {0: 0.25, 1: 0.25, 2: 2.5, 3: 2.5, 4: 4.0}
    for client, value in expected.items():
        assert torch.allclose(weights[client], torch.full((2,), value)), client
    assert fused.for_client(0)["weights"] is fused.for_client(1)["weights"]  # metered once
    plain = FedPF().fuse(uploads(logits(6)[:5]))
    assert torch.equal(fused.shared["public"].values, plain.shared["public"].values)


def test_without_a_pull_no_weights_travel() -> None:
    recipe = FedPF(pull=0).recipe()
    assert [share.kind for share in recipe.share] == ["logits"]
    assert (recipe.start, recipe.given) == ((), ())
    assert not FedPF().has_models


def test_the_first_edition_is_an_option() -> None:
    recipe = FedPF(floor=0, distil_steps=0).recipe()
    (learn,), (absorb,) = recipe.learn, recipe.absorb
    assert learn.as_train() == Train("private", [AdjustedCrossEntropy()], 5)
    distil = Train("public", [Distil(KL())], 3, rehearse=[Weighted(1.0, AdjustedCrossEntropy())])
    assert absorb == distil


def test_a_pull_runs_with_two_architectures_and_sends_what_is_said(tmp_path: Path) -> None:
    given = {
        "rounds": 2,
        "models": ["mlp", "linear"],
        "data": {"dataset": "digits", "clients": 4, "public_samples": 50},
        "strategy": {"name": "fedpf", "pull": 0.5, "local_epochs": 1},
        "run": {"grid": "in-process"},
    }
    execute(prepare(parse(given)), tmp_path / "run", label="pull")
    first, second = read_rounds(tmp_path / "run")
    weights = 4 * ((64 * 64 + 64 + 64 * 10 + 10) + (64 * 10 + 10)) / 2  # of mlp and linear
    answers = 4 * 50 * 10
    assert first["failures"] == second["failures"] == []
    assert second["bytes_up"] == answers + weights
    assert second["bytes_down"] == answers + weights
    assert first["bytes_down"] == answers + 2 * weights  # a common start
