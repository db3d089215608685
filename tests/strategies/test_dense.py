"""DENSE: its losses in numbers, what it generates and teaches, its limits and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedkt.clients import LearnerModels, TrainingOptions
from fedkt.context import Round, ServerNet
from fedkt.errors import ConfigError
from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.strategies import ServerOptions
from fedkt.strategies.oneshot.dense_one_shot import (
    Dense,
    boundary_support,
    divergence,
    norm_distance,
)
from fedkt.strategies.oneshot.sample_generator import SampleGenerator, fresh
from fedkt.strategies.weights.feddf import FedDF

B, C = 6, 4
SMALL = {"local_epochs": 2, "batches": 2, "generator_steps": 3, "batch_size": 16, "width": 4}


def softened(z: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    powers = np.exp(z / temperature)
    return powers / powers.sum(-1, keepdims=True)


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits of teacher and student, which agree about two of six samples, and labels."""
    rng = np.random.default_rng(0)
    teacher, student = 2 * rng.normal(size=(2, B, C))
    teacher[:, 0] += 5
    student[:2, 0] += 9
    student[2:, 1] += 9
    return teacher, student, rng.integers(C, size=B)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(array) for array in arrays]


def kl(teacher: np.ndarray, student: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    t, s = softened(teacher, temperature), softened(student, temperature)
    return temperature**2 * (t * np.log(t / s)).sum(1)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_divergence_by_numpy(answers, temperature) -> None:
    teacher, student, _ = answers
    ours = divergence(*tensors(teacher, student), temperature).numpy()
    assert np.allclose(ours, kl(teacher, student, temperature))


def test_the_generators_loss_by_numpy(answers) -> None:
    """CE(D(x), y) - λ₂ ω KL(D(x) ‖ f(x)), mean over all samples, ω where they disagree."""
    teacher, student, y = answers
    apart = teacher.argmax(1) != student.argmax(1)
    assert apart.tolist() == [False, False, True, True, True, True]
    support = -(apart * kl(teacher, student)).sum() / B
    assert float(boundary_support(*tensors(teacher, student))) == pytest.approx(support)
    crossed = -np.log(softened(teacher)[np.arange(B), y]).mean()
    ours = Dense(boundary=0.7).sample_loss(*tensors(teacher, student, y))
    assert float(ours) == pytest.approx(crossed + 0.7 * support)


def test_samples_are_drawn_to_where_the_server_errs(answers) -> None:
    """Both answers take part in the gradient: it is the numerical slope."""
    teacher, student, y = tensors(*answers)
    loss = Dense(boundary=0.7).sample_loss
    teacher.requires_grad_()
    student.requires_grad_()
    slopes = torch.autograd.grad(loss(teacher, student, y), (teacher, student))
    for place, slope in enumerate(slopes):
        step = torch.zeros(B, C, dtype=torch.float64)
        step[3, 2] = 1e-6
        ends = [[teacher.detach(), student.detach()] for _ in range(2)]
        ends[0][place], ends[1][place] = ends[0][place] + step, ends[1][place] - step
        numeric = (loss(*ends[0], y) - loss(*ends[1], y)) / 2e-6
        assert float(slope[3, 2]) == pytest.approx(float(numeric), rel=1e-5)


def test_the_distance_of_normalisation_by_numpy() -> None:
    """Σ_l |μ_l(x) - μ_l|₂ + |σ²_l(x) - σ²_l|₂; a layer without statistics of its own counts 0."""
    rng = np.random.default_rng(1)
    seen = {name: tuple(tensors(*rng.random((2, 5)))) for name in ("1", "4", "free")}
    moments = ("running_mean", "running_var")
    weights = {f"{n}.{m}": torch.tensor(rng.random(5)) for n in ("1", "4") for m in moments}
    expected = 0.0
    for name in ("1", "4"):
        for got, moment in zip(seen[name], moments, strict=True):
            expected += np.sqrt(((got - weights[f"{name}.{moment}"]).numpy() ** 2).sum())
    assert float(norm_distance(seen, weights)) == pytest.approx(expected)
    assert float(norm_distance({}, weights)) == 0


# --- what it generates ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10), (5,), (4, 3)])
def test_samples_have_the_shape_of_inputs(shape) -> None:
    torch.manual_seed(0)
    generator = SampleGenerator(shape, 6, noise=3, width=2).train()
    made = generator(torch.arange(6))
    assert made.shape == (6, *shape)
    if len(shape) == 3:
        assert made.min() >= 0
        assert made.max() <= 1
    else:
        assert torch.allclose(made.mean(0), torch.zeros(shape), atol=1e-5)
    made.square().sum().backward()
    assert generator.noise.grad.abs().sum() > 0


def test_a_generator_begins_anew() -> None:
    generator = SampleGenerator((3, 8, 8), 64, noise=16, width=8)
    named = dict(generator.state_dict())
    floats = {n: torch.full_like(t, 7.0) for n, t in named.items() if t.is_floating_point()}
    lots = torch.Generator().manual_seed(0)
    told = fresh(Knowledge("weights", floats), lots).tensors
    assert told.keys() == floats.keys()
    layers = {"0": nn.Linear, "2": nn.BatchNorm2d, "4": nn.Conv2d}
    for name, kind in layers.items():
        layer = generator.body[int(name)]
        assert isinstance(layer, kind)
        middle = 1.0 if kind is nn.BatchNorm2d else 0.0
        assert float(told[f"body.{name}.weight"].mean()) == pytest.approx(middle, abs=0.01)
        assert float(told[f"body.{name}.weight"].std()) == pytest.approx(0.02, rel=0.3)
    assert float(told["noise"].std()) == pytest.approx(1.0, rel=0.1)
    assert not told["body.0.bias"].any()
    assert told["body.2.running_var"].eq(1).all()
    assert not told["body.2.running_mean"].any()


class Watched(Dense):
    """DENSE that keeps what it sees."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: dict[str, Any] = {"totals": [], "batches": [], "lessons": []}

    def fuse(self, uploads: Uploads) -> Fused:
        self.seen["members"] = self.members(uploads)
        return super().fuse(uploads)

    def generated(self, members: Any, weights: Any, number: int) -> Any:
        minimise = self.model["generator"].minimise
        totals: list[float] = []

        def watched(loss: Any, steps: int, stream: str) -> Any:
            def keeping() -> torch.Tensor:
                totals.append(loss())
                return totals[-1]

            return minimise(keeping, steps, stream)

        self.model["generator"].minimise = watched
        self.seen["server"] = self.model[self.serves].weights().tensors
        batch, mean = super().generated(members, weights, number)
        self.model["generator"].minimise = minimise
        self.seen["totals"].append([float(t.detach()) for t in totals])
        self.seen["batches"].append((batch, self.seen["server"]))
        return batch, mean

    def distilled(self, x: torch.Tensor, teacher: torch.Tensor, number: int) -> Any:
        self.seen["lessons"].append((x, teacher))
        return super().distilled(x, teacher, number)


def started(world: Any, with_options: Any, strategy: Any, *models: str, **options: Any) -> Any:
    run = world(models=models, learning_rate=0.01)
    run.start(with_options(strategy, **options), 1)
    assert not run.reports[0].failures
    return run


def test_the_batch_of_lowest_loss_is_kept(world, with_options) -> None:
    """Its loss by NumPy, from answers of the clients' models and of the server's."""
    method = Watched(**{**SMALL, "generator_steps": 6, "boundary": 2.0})
    started(world, with_options, method, "linear", "mlp")
    members = method.seen["members"]
    for totals, (batch, weights) in zip(method.seen["totals"], method.seen["batches"], strict=True):
        z = np.stack([m.ask(w, batch.x, grad=False).logits.double().numpy() for m, w in members])
        assert np.allclose(batch.logits, z, atol=1e-5)
        teacher = z.mean(0)
        server = method.model[method.serves].ask(weights, batch.x, grad=False).logits
        student = server.double().numpy()
        apart = teacher.argmax(1) != student.argmax(1)
        crossed = -np.log(softened(teacher)[np.arange(16), batch.y.numpy()]).mean()
        total = crossed - 2 * (apart * kl(teacher, student)).mean()
        assert min(totals) == pytest.approx(total, rel=1e-4)
        assert totals[-1] < totals[0]
    first, second = (batch for batch, _ in method.seen["batches"])
    assert not torch.equal(first.x, second.x)


class Normed(nn.Module):
    """Batch normalisation of the inputs, and a layer on it."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(64), nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(x.flatten(1)))


@pytest.mark.parametrize("norms", [0.0, 0.5])
def test_statistics_of_normalisation_count(world, with_options, federation, norms) -> None:
    """λ₁ times the mean over clients; the first of a client's layers sees the samples as such."""
    file = f"{__file__}:Normed"
    method = Watched(**{**SMALL, "generator_steps": 1, "norms": norms, "boundary": 0.0})
    maker = LearnerModels(file, trusted=(file,))
    started(world, with_options, method, file, models=maker)
    (total,), (batch, _) = method.seen["totals"][0], method.seen["batches"][0]
    flat, gaps = batch.x.flatten(1).double().numpy(), []
    for _, weights in method.seen["members"]:
        mean, var = (weights[f"norm.running_{n}"].double().numpy() for n in ("mean", "var"))
        gaps.append(np.linalg.norm(flat.mean(0) - mean) + np.linalg.norm(flat.var(0) - var))
    teacher = batch.logits.double().numpy().mean(0)
    crossed = -np.log(softened(teacher)[np.arange(16), batch.y.numpy()]).mean()
    assert total == pytest.approx(crossed + norms * np.mean(gaps), rel=1e-4)


# --- what it teaches ------------------------------------------------------------------------


def test_every_architecture_learns_the_mean_of_all_on_all_batches(world, with_options) -> None:
    method = Watched(**{**SMALL, "batches": 3})
    run = started(world, with_options, method, "linear", "mlp")
    batches = [batch for batch, _ in method.seen["batches"]]
    assert [len(x) for x, _ in method.seen["lessons"]] == [16, 32, 48]
    for number, (x, teacher) in enumerate(method.seen["lessons"], 1):
        assert torch.equal(x, torch.cat([batch.x for batch in batches[:number]]))
        expected = np.concatenate([batch.logits.mean(0) for batch in batches[:number]])
        assert np.allclose(teacher, expected, atol=1e-5)
    about = method.round.about
    for client in range(4):
        student = method.model[about[client]["architecture"]].weights().tensors
        assert all(torch.equal(t, student[n]) for n, t in run.model_of(client).items())
    assert method.serves.startswith("linear#")
    assert method.server_weights().tensors.keys() == {"1.weight", "1.bias"}


def test_the_server_comes_near_the_ensemble(world, with_options, federation) -> None:
    gaps = []
    for batches in (1, 8):
        method = Watched(**{**SMALL, "local_epochs": 20, "batches": batches})
        started(world, with_options, method, "mlp")
        x = federation.client(0).public.x
        answers = [m.ask(w, x, grad=False).logits for m, w in method.seen["members"]]
        student = method.model[method.serves].predict(x)
        told = torch.stack(answers).mean(0)
        gaps.append(float(divergence(told, student).mean()))
    assert gaps[1] < 0.7 * gaps[0]


def test_a_generator_without_training_leaves_feddf_on_its_images(world, with_options) -> None:
    """One batch, taken before any step: FedDF on these samples, from the same students."""

    class FromTheMean(Watched):
        def fuse(self, uploads: Uploads) -> Fused:
            for kind, stack in uploads.groups("weights").items():
                self.model[kind].load_weights(mean_by_examples(stack).shared["weights"])
            return super().fuse(uploads)

    class Plain(FedDF):
        def models(self) -> Mapping[str, ServerNet]:
            options = TrainingOptions("sgd", 0.1, public_batch_size=16)
            return {kind: ServerNet(kind, options) for kind in super().models()}

    limit = FromTheMean(**{**SMALL, "batches": 1, "generator_steps": 1, "temperature": 2.0})
    ours = started(world, with_options, limit, "linear", "mlp")
    ((images, _),) = limit.seen["lessons"]
    plain = Plain(2, distil_epochs=1, temperature=2.0)
    theirs = started(world, with_options, plain, "linear", "mlp", public=images)
    for client in range(4):
        other = theirs.model_of(client)
        for name, tensor in ours.model_of(client).items():
            assert torch.allclose(tensor, other[name], atol=1e-6), (client, name)


def test_clients_that_have_learnt_nothing_teach_nothing(world, with_options) -> None:
    method = Watched(**{**SMALL, "local_epochs": 0})
    run = started(world, with_options, method, "mlp")
    begin = method.seen["batches"][0][1]
    for name, tensor in run.model_of(0).items():
        assert torch.allclose(tensor, begin[name], atol=1e-6)


# --- what travels, and what is refused ------------------------------------------------------


@pytest.mark.parametrize("models", [("linear",), ("linear", "mlp")])
def test_bytes(world, with_options, models) -> None:
    """4P up; 4P down, and once more in the first round."""
    run = world(models=models)
    run.start(with_options(Dense(**SMALL)), 2)
    sizes = [sum(t.numel() for t in run.model_of(client).values()) for client in range(4)]
    assert sizes[0] == 64 * 10 + 10
    told = [(r.traffic.up, r.traffic.down_broadcast, r.traffic.down_unicast) for r in run.reports]
    assert told == [(4 * sum(sizes), 8 * sum(sizes), 0), (4 * sum(sizes), 4 * sum(sizes), 0)]


def test_it_needs_no_samples_at_the_server(world, with_options) -> None:
    run = started(world, with_options, Dense(**SMALL), "linear", public=None)
    assert run.reports[0].diagnostics["ensemble"].tolist() == [0.25] * 4


class Words(nn.Module):
    """A model of token ids."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(9, 2), nn.Linear(2 * 64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.words(x.flatten(1)).flatten(1))


def test_models_of_token_ids_are_refused_before_the_first_round() -> None:
    file = f"{__file__}:Words"
    maker = LearnerModels(file, trusted=(file,))
    now = Round(0, 1, (0,), C, 0, (64,), 3, {})
    method = Dense()
    method.options = ServerOptions(models=maker)
    about = {0: {"architecture": maker.learner(file, now).architecture}}
    method.__dict__["_supposed"] = replace(now, about=about)
    with pytest.raises(ConfigError, match=r"dense generates samples of numbers, which .*Words"):
        _ = method.model
