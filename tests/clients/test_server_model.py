"""Models at the server."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedkt.clients import LearnerModels, TrainingOptions
from fedkt.context import Round, ServerNet, ServerSamples
from fedkt.data.samples import Samples
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives import CrossEntropy, Distil
from fedkt.objectives.heads import Head
from fedkt.recipe import Recipe, Train
from fedkt.schedules import Cosine

STEP = Train("public", [Distil(source="votes")], epochs=20, batch_size=10)


def at(number: int) -> Round:
    return Round(number, 2, (0, 1), 10, 50, (1, 8, 8), 7, {})


@pytest.fixture
def here(data) -> ServerSamples:
    public = Samples(data.public.x, None, data.public.ids)
    return ServerSamples(public, data.public, data.validation)


@pytest.fixture
def make(here):
    """Return a maker of models at the server; ``moment`` holds their round."""
    moment = [at(1)]

    def made(net: ServerNet | None = None, number: int = 0, recipe: Any = None, **options: Any):
        maker = LearnerModels("mlp", TrainingOptions(learning_rate=1e-2), **options)
        return maker(net or ServerNet(), number, recipe or Recipe(), here, lambda: moment[0])

    made.moment = moment
    return made


def votes_of(data) -> dict[str, Knowledge]:
    rows = F.one_hot(data.public.y, 10).float()
    return {"votes": Knowledge.rows("probabilities", rows)}


def accuracy(model, data) -> float:
    return float((model.predict(data.public.x).argmax(-1) == data.public.y).float().mean())


def test_it_learns_from_votes(make, data) -> None:
    model = make()
    before = accuracy(model, data)
    model.train(STEP, votes_of(data), "server")
    assert accuracy(model, data) > max(0.9, before)


def test_training_is_a_stream_of_the_name_and_the_round(make, data) -> None:
    model = make()
    begin = model.state()

    def trained(round_: int, stream: str) -> torch.Tensor:
        make.moment[0] = at(round_)
        model.load_state(begin)
        model.train(STEP, votes_of(data), stream)
        return model.weights().tensors["1.weight"]

    first = trained(1, "server")
    assert torch.equal(first, trained(1, "server"))
    assert not torch.equal(first, trained(2, "server"))
    assert not torch.equal(first, trained(1, "again"))


def test_each_model_begins_with_weights_of_its_own(make) -> None:
    first, again, second = make(), make(), make(number=1)
    assert torch.equal(first.weights().tensors["1.weight"], again.weights().tensors["1.weight"])
    assert not torch.equal(
        first.weights().tensors["1.weight"], second.weights().tensors["1.weight"]
    )


def test_a_model_has_options_of_its_own(make, data) -> None:
    still = make(ServerNet(options=TrainingOptions("sgd", 1e-9, 0.0)))
    before = still.weights().tensors["1.weight"]
    still.train(STEP, votes_of(data), "server")
    assert torch.allclose(before, still.weights().tensors["1.weight"], atol=1e-6)


def test_samples_of_its_own_bring_labels(make, data, here) -> None:
    model = make()
    step = Train("public", [CrossEntropy()], epochs=20)
    with pytest.raises(KnowledgeError, match="needs labels"):
        model.train(step, {}, "labels")  # the public set has none
    model.train(step, {}, "labels", here.labelled)
    assert accuracy(model, data) > 0.9


def test_no_step_on_private_data(make) -> None:
    with pytest.raises(ConfigError, match="The server has no private data"):
        make().train(Train("private", [CrossEntropy()]), {}, "server")


def test_no_samples_are_refused(make, here) -> None:
    with pytest.raises(ConfigError, match="no samples to work on"):
        make().features(here.public.x[:0])


# --- what is built -------------------------------------------------------------------------


def test_only_a_model_like_the_clients_has_their_heads(make) -> None:
    recipe = Recipe(heads=[Head("domain", (2,))])
    assert "heads.domain.0.weight" in make(recipe=recipe).weights().tensors
    plain = make(ServerNet("mlp"), recipe=recipe)
    assert not any(name.startswith("heads.") for name in plain.weights().tensors)


def test_an_architecture_of_a_client_is_built(make, learner_of) -> None:
    client = learner_of("mlp")
    name = client.architecture.partition("#")[2]
    model = make(ServerNet(f"mlp#{name}"))
    assert model.weights().tensors.keys() == client.weights().tensors.keys()
    with pytest.raises(ConfigError, match="'mlp' at the server is mlp#"):
        make(ServerNet("mlp#other"))


def test_a_client_cannot_name_a_file(make, tmp_path) -> None:
    file = tmp_path / "harm.py"
    file.write_text("raise SystemExit('executed')\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="Unknown model"):
        make(ServerNet(f"{file}:net#abc"))


@pytest.mark.parametrize(("build", "said"), [("forest", "'forest' is no network"), ("mpl", "mpl")])
def test_what_is_no_network_is_refused(make, build: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(ServerNet(build))


# --- gradients -----------------------------------------------------------------------------


class Generator(nn.Module):
    """From noise [n, 4] to inputs of one value each, through batch normalisation."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.norm(z))
        return out


def test_a_generator_minimises_a_loss_of_its_own(make) -> None:
    model, goal = make(ServerNet(Generator)), torch.tensor([1.0, -2.0, 0.5])

    def loss() -> torch.Tensor:
        return (model.ask(None, torch.randn(16, 4)).logits - goal).square().mean()

    begin = model.state()
    before = float(loss().detach())
    told = model.minimise(loss, 200, "fool")
    assert told is not None
    after = float(loss().detach())
    assert after < 0.1 * before
    norm = model.state()["model"]
    assert int(norm["norm.num_batches_tracked"]) == 200  # it was in training mode
    model.load_state(begin)
    torch.manual_seed(1)  # its stream does not follow the global one
    assert model.minimise(loss, 200, "fool") == told
    assert model.minimise(loss, 0, "fool") is None


def test_a_schedule_scales_the_rate_of_a_minimiser(make) -> None:
    model = make(ServerNet(Generator, TrainingOptions("sgd", 0.1, 0.0)))
    begin = model.state()
    start = model.weights().tensors["out.bias"]

    def moved(round_: int, rate: Any) -> torch.Tensor:
        make.moment[0] = at(round_)
        model.load_state(begin)
        model.minimise(lambda: model.ask(None, torch.ones(4, 4)).logits.sum(), 1, "fall", rate)
        return model.weights().tensors["out.bias"] - start

    whole = moved(1, 1.0)
    assert torch.allclose(moved(1, 0.5), 0.5 * whole)
    wave = Cosine(1.0, 0.0)
    assert torch.allclose(moved(1, wave), whole)
    assert torch.allclose(moved(2, wave), 0.5 * whole)


@pytest.mark.parametrize(
    ("loss", "what"),
    [(lambda: 0.5, "float"), (lambda: torch.ones(3, requires_grad=True), r"shape \[3\]")],
)
def test_a_loss_that_is_no_scalar_is_refused(make, loss, what: str) -> None:
    model = make(ServerNet(Generator))
    with pytest.raises(ConfigError, match=f"the loss must be a scalar tensor, not {what}"):
        model.minimise(loss, 1, "fall")


def test_a_minimiser_moves_no_other_model(make, data) -> None:
    generator, judge = make(ServerNet(Generator)), make(number=1)
    before = judge.weights().tensors
    width = judge.features(data.public.x[:1]).shape[1]
    fixed = torch.randn(3, width)

    def loss() -> torch.Tensor:
        z = generator.ask(None, torch.randn(8, 4)).logits @ fixed
        return judge.classify(z).square().mean()

    generator.minimise(loss, 3, "fool")
    assert all(torch.equal(t, before[n]) for n, t in judge.weights().tensors.items())


def test_other_weights_are_asked(make, data) -> None:
    model, other = make(), make(number=1)
    x = data.public.x[:7]
    asked = model.ask(other.weights(), x)
    assert torch.allclose(asked.logits, other.predict(x), atol=1e-5)
    assert asked.features is not None
    assert torch.allclose(asked.features, other.features(x), atol=1e-5)
    assert torch.allclose(model.classify(asked.features, other.weights()), asked.logits, atol=1e-5)
    assert not torch.allclose(model.classify(asked.features), asked.logits, atol=1e-3)
    assert torch.allclose(model.ask(None, x).logits, model.predict(x), atol=1e-5)
    assert not model.ask(None, x, grad=False).logits.requires_grad


def test_gradients_go_through_other_weights(make, data) -> None:
    model = make()
    weights = {n: t.requires_grad_() for n, t in make(number=1).weights().tensors.items()}
    x = data.public.x[:5].clone().requires_grad_()
    model.ask(weights, x).logits.square().sum().backward()
    assert float(x.grad.abs().sum()) > 0
    assert all(float(t.grad.abs().sum()) > 0 for t in weights.values())


class Normed(nn.Module):
    """Two layers of batch normalisation, of an image and of its numbers."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.image, self.flat = nn.BatchNorm2d(shape[0]), nn.BatchNorm1d(64)
        self.last = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.flat(self.image(x).flatten(1)))


def test_it_tells_what_batch_normalisation_takes_in(make, here) -> None:
    """Mean and population variance of each channel, differentiable, in evaluation mode."""
    model, x = make(ServerNet(Normed)), here.public.x.clone().requires_grad_()
    weights = {"image.running_var": torch.tensor([4.0]), "image.running_mean": torch.tensor([0.5])}
    seen = model.ask(weights, x, norms=True).norms
    assert torch.allclose(
        torch.stack(seen["image"]), torch.stack([x.mean(), x.var(correction=0)])[:, None]
    )
    between = (x - 0.5).flatten(1) / (4 + 1e-5) ** 0.5
    assert torch.allclose(seen["flat"][0], between.mean(0), atol=1e-6)
    assert torch.allclose(seen["flat"][1], between.var(0, correction=0), atol=1e-6)
    (slope,) = torch.autograd.grad(seen["flat"][0].sum(), x)
    assert torch.allclose(slope, torch.full_like(x, 0.5 / len(x)), atol=1e-6)
    assert model.ask(weights, x).norms == {}
