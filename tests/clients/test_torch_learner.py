from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fedkt.clients import FileStore, MemoryStore, TorchLearner, TrainingOptions
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.models import build_model
from fedkt.objectives import CrossEntropy, Distil
from fedkt.recipe import Recipe, Train, Weights
from fedkt.rng import global_torch_stream

LEARN = Train("private", [CrossEntropy()], epochs=2)
ABSORB = Train("public", [Distil()], epochs=1)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def knowledge() -> dict[str, Knowledge]:
    answers = torch.randn(50, 10, generator=torch.Generator().manual_seed(1)).softmax(-1)
    return {"public": Knowledge.rows("probabilities", answers)}


# --- identity ------------------------------------------------------------------------------


def test_reset_draws_from_the_stream_of_the_client(learner_of) -> None:
    learner = learner_of("mlp")
    with global_torch_stream(7, "model", 0, 1):
        by_hand = build_model("mlp", (1, 8, 8), 10).state_dict()
    assert same(dict(learner.model.state_dict()), dict(by_hand))
    torch.manual_seed(5)
    learner.reset(7, 2)
    assert not same(dict(learner.model.state_dict()), dict(by_hand))
    learner.reset(7, 1)
    assert same(dict(learner.model.state_dict()), dict(by_hand))


def test_architectures_are_told_apart_by_name_and_shapes(learner_of) -> None:
    assert learner_of("mlp").architecture == learner_of("mlp").architecture
    assert learner_of("mlp").architecture.startswith("mlp#")
    names = {
        learner_of("mlp").architecture,
        learner_of("mlp-wide").architecture,
        learner_of("mlp", (1, 9, 9)).architecture,
        learner_of("mlp", (1, 8, 8), 5).architecture,
    }
    assert len(names) == 4
    assert learner_of("mlp", classes=5).num_classes == 5


def test_making_a_learner_leaves_the_global_generator_alone(learner_of) -> None:
    before = torch.random.get_rng_state()
    learner_of("cnn")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_it_follows_every_recipe(learner_of) -> None:
    assert learner_of().refuses(Recipe(learn=[LEARN], share=[Weights()])) is None


# --- prediction ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["linear", "cnn", "resnet8-bn"])
def test_predict_equals_the_model_in_evaluation_mode(learner_of, data, work_on, model) -> None:
    learner = learner_of(model)
    learner.train(LEARN, work_on(data), "learn/0")
    answers = learner.predict(data.common_test.x)
    plain = build_model(model, (1, 8, 8), 10)
    plain.load_state_dict(learner.model.state_dict())
    with torch.no_grad():
        assert torch.allclose(answers, plain.eval()(data.common_test.x), atol=1e-5)
    assert answers.dtype == torch.float32
    assert torch.equal(answers, learner.predict(data.common_test.x))


def test_predict_does_not_change_the_model(learner_of, data) -> None:
    learner = learner_of("resnet8-bn")
    before = copy.deepcopy(learner.model.state_dict())
    learner.model.train()
    learner.predict(data.common_test.x)
    assert same(dict(learner.model.state_dict()), dict(before))


def test_predict_of_nothing(learner_of) -> None:
    assert learner_of("cnn").predict(torch.zeros(0, 1, 8, 8)).shape == (0, 10)


# --- weights -------------------------------------------------------------------------------


def test_weights_are_copies_without_counters(learner_of) -> None:
    learner = learner_of("resnet8-bn")
    weights = learner.weights()
    state = learner.model.state_dict()
    assert set(state) - set(weights.tensors) == {n for n in state if "num_batches" in n}
    weights.tensors["0.weight"].zero_()
    assert float(learner.model.state_dict()["0.weight"].abs().max()) > 0


def test_load_weights_and_back(learner_of, data) -> None:
    one, other = learner_of("cnn"), learner_of("cnn")
    other.reset(7, 2)
    other.load_weights(one.weights())
    assert same(dict(other.weights().tensors), dict(one.weights().tensors))
    assert torch.equal(other.predict(data.test.x), one.predict(data.test.x))


def moments(learner: TorchLearner) -> list[float]:
    return [float(m["exp_avg"].abs().max()) for m in learner.state()["optimiser"].values()]


def test_loading_weights_begins_the_optimiser_anew(learner_of, data, work_on) -> None:
    learner, fresh = learner_of(), learner_of()
    learner.train(LEARN, work_on(data), "learn/0")
    assert max(moments(learner)) > 0
    learner.load_weights(fresh.weights())
    assert moments(learner) == []
    for one in (learner, fresh):
        one.train(LEARN, work_on(data, round_=2), "learn/0")
    assert same(dict(learner.model.state_dict()), dict(fresh.model.state_dict()))


# --- the optimiser's state -----------------------------------------------------------------


def after_two_rounds(learner: TorchLearner, data, work_on, rebuild: bool, **options) -> dict:
    """Two fits; with ``rebuild`` the model goes into a learner that knows no optimiser."""
    learner.train(LEARN, work_on(data, **options), "learn/0")
    if rebuild:
        state = {**learner.state(), "optimiser": {}}
        learner.load_state(state)
    learner.train(LEARN, work_on(data, round_=2, **options), "learn/0")
    return dict(learner.model.state_dict())


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_keep_and_reset(learner_of, data, work_on, optimiser) -> None:
    def end(rebuild: bool, keep: str) -> dict:
        options = {"optimiser": optimiser, "optimiser_state": keep}
        return after_two_rounds(learner_of(), data, work_on, rebuild, **options)

    assert same(end(False, "reset"), end(True, "keep"))
    assert not same(end(False, "keep"), end(False, "reset"))


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_reset_is_at_every_step(learner_of, data, work_on, optimiser) -> None:
    options = {"optimiser": optimiser, "optimiser_state": "reset"}
    one, other = learner_of(), learner_of()
    one.train(LEARN, work_on(data, **options), "learn/0")
    one.train(ABSORB, work_on(data, knowledge(), **options), "absorb/0")
    other.train(LEARN, work_on(data, **options), "learn/0")
    other.load_weights(other.weights())  # begins the optimiser anew
    other.train(ABSORB, work_on(data, knowledge(), **options), "absorb/0")
    assert same(dict(one.model.state_dict()), dict(other.model.state_dict()))


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet8-bn"])
@pytest.mark.parametrize(
    "options",
    [
        {"optimiser": "adam"},
        {"optimiser": "sgd"},
        {"optimiser": "sgd", "momentum": 0.0},
        {"optimiser": "adam", "optimiser_state": "reset", "weight_decay": 0.01},
    ],
    ids=["adam", "momentum", "sgd", "reset"],
)
def test_a_client_kept_in_a_file_continues_to_the_bit(
    learner_of, data, work_on, tmp_path, model, options
) -> None:
    # Images run in channels_last: a file keeps no memory format, and fused optimisers walk raw
    # memory, so moments must be laid out again as their parameters are.
    stays, stored, memory = learner_of(model), learner_of(model), learner_of(model)
    files, kept = FileStore(tmp_path), MemoryStore()
    for round_ in (1, 2, 3):
        work = work_on(data, knowledge(), round_, **options)
        for learner in (stays, stored, memory):
            learner.train(LEARN, work, "learn/0")
            learner.train(ABSORB, work, "absorb/0")
        files.put("a", 1, round_, "train", {"learner": stored.state()})
        kept.put("a", 1, round_, "train", {"learner": memory.state()})
        stored, memory = learner_of(model), learner_of(model)
        stored.load_state(files.get("a", 1)["learner"])
        memory.load_state(kept.get("a", 1)["learner"])
    assert same(dict(stored.model.state_dict()), dict(stays.model.state_dict()))
    assert same(dict(memory.model.state_dict()), dict(stays.model.state_dict()))


# --- state ---------------------------------------------------------------------------------


def test_a_state_is_a_copy(learner_of, data, work_on) -> None:
    learner = learner_of()
    learner.train(LEARN, work_on(data), "learn/0")
    state = learner.state()
    before = copy.deepcopy(state)
    learner.train(LEARN, work_on(data, round_=2), "learn/0")
    assert same(state["model"], before["model"])
    for i, one in before["optimiser"].items():
        assert same(state["optimiser"][i], one)


def test_a_loaded_state_is_not_changed_by_training(learner_of, data, work_on) -> None:
    learner = learner_of()
    learner.train(LEARN, work_on(data), "learn/0")
    state = learner.state()
    before = copy.deepcopy(state)
    learner.load_state(state)
    learner.train(LEARN, work_on(data, round_=2), "learn/0")
    assert same(state["model"], before["model"])
    for i, one in before["optimiser"].items():
        assert same(state["optimiser"][i], one)


def test_one_learner_serves_many_clients(learner_of, data, work_on) -> None:
    alone = {}
    for client in (1, 2):
        learner = learner_of()
        learner.reset(7, client)
        for round_ in (1, 2):
            learner.train(LEARN, work_on(data, round_=round_, client=client), "learn/0")
        alone[client] = dict(learner.model.state_dict())
    shared, states = learner_of(), {}
    for round_ in (1, 2):
        for client in (2, 1):
            if client in states:
                shared.load_state(states[client])
            else:
                shared.reset(7, client)
            shared.train(LEARN, work_on(data, round_=round_, client=client), "learn/0")
            states[client] = shared.state()
    for client in (1, 2):
        assert same(states[client]["model"], alone[client])


def test_a_model_that_shares_a_layer(learner_of, data, work_on) -> None:
    def build() -> nn.Module:
        layer = nn.Linear(64, 64)
        return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.Linear(64, 10))

    learner = learner_of(build)
    learner.train(LEARN, work_on(data), "learn/0")
    again = learner_of(build)
    again.load_state(learner.state())
    assert torch.equal(again.predict(data.test.x), learner.predict(data.test.x))


# --- options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimiser": "lbfgs"}, "Unknown optimiser 'lbfgs'.* adam"),
        ({"learning_rate": 0}, "learning_rate must be .* above 0"),
        ({"batch_size": 0}, "batch_size must be .* at least 1"),
        ({"public_batch_size": 0}, "batch_size must be .* at least 1"),
        ({"optimiser_state": "sometimes"}, "optimiser_state"),
    ],
)
def test_options_are_checked(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**options)
