"""The ClientApp: messages in, messages out, and what becomes of the client's state."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt import __version__, wire
from fedkt.answers import softmax
from fedkt.clients import Client, FileStore, MemoryStore
from fedkt.clients.policy import ANYTHING
from fedkt.knowledge import Knowledge
from fedkt.objectives import CrossEntropy
from fedkt.recipe import Load, Recipe, Train, Weights
from fedkt.simulations.engines import _flwr_shim as shim

from .talk import RECIPE, Talk, bits


@pytest.fixture
def client(learner_of, data) -> Client:
    return Client(1, learner_of(), data, policy=ANYTHING)


# --- hello ---------------------------------------------------------------------------------


def test_hello(client) -> None:
    about = Talk(client).say("query").content["config"]
    assert about["client"] == 1
    assert about["architecture"] == client.learner.architecture
    assert (about["num-classes"], about["public-size"]) == (10, 50)
    assert "refusal" not in about


def test_the_digest_is_of_the_content_of_the_public_set(client, federation) -> None:
    def digest(data: Any) -> str:
        talk = Talk(replace(client, data=data))
        return str(talk.say("query").content["config"].get("about: public set"))

    data = client.data
    other = replace(data.public, x=data.public.x + 1)
    assert digest(data) == digest(federation.client(2))
    assert digest(data) == digest(
        replace(data, public=replace(data.public, x=data.public.x.clone()))
    )
    assert digest(data) != digest(replace(data, public=other))


def test_parts_tell_what_they_need(client) -> None:
    about = Talk(client).say("query").content["config"]
    told = {key: value for key, value in about.items() if key.startswith("about")}
    assert told.keys() == {"about: public set", "about: input shape"}
    assert told["about: input shape"] == "[1, 8, 8]"


@pytest.mark.parametrize(
    ("lacking", "keys"),
    [
        (["epochs"], "learn[0].epochs"),
        (["epochs", "rate", "beside"], "learn[0].beside, learn[0].epochs, learn[0].rate"),
        (
            ["epochs", "rate", "beside", "batch_size"],
            "learn[0].batch_size, learn[0].beside, learn[0].epochs and 1 more",
        ),
    ],
)
def test_a_recipe_that_means_something_else_here_is_refused(client, lacking, keys: str) -> None:
    """A field that an older server does not know would be filled with a default here."""
    content = json.loads(RECIPE.to_json())
    for key in lacking:
        del content["learn"][0][key]
    answer = Talk(client).say("query", recipe=json.dumps(content), fedkt="0.0.1")
    assert answer.content["config"]["refusal"] == (
        f"it reads the recipe otherwise: {keys} (fedkt 0.0.1 at the server, {__version__} here)"
    )


def test_the_recipe_as_it_is_read_is_told(client) -> None:
    said = Talk(client).say("query").content["config"]
    assert said["recipe-digest"] == RECIPE.digest
    text = RECIPE.to_json().replace(", ", ",\n ")
    assert Talk(client).say("query", recipe=text).content["config"] == said, "white space is none"


def test_a_key_that_no_recipe_has_here_is_named(client) -> None:
    text = json.dumps({**json.loads(RECIPE.to_json()), "learns": []})
    error = Talk(client).say("query", recipe=text).error
    assert "Unknown key of a recipe 'learns'. Did you mean 'learn'?" in error.reason


def test_knowledge_that_the_recipe_does_not_read_is_refused(client) -> None:
    packet = wire.encode(Knowledge.rows("logits", torch.zeros(50, 10)), 1, torch.arange(50))
    talk = Talk(client)
    for name in ("other", "public.meta"):
        reply = talk.say("train", 1, {name: packet})
        assert f"arrays called 'knowledge.{name}' were not asked for" in reply.error.reason
    assert talk.state is None, "nothing was trained"


def test_hello_leaves_no_state(client) -> None:
    talk = Talk(client)
    talk.say("query")
    assert talk.state is None


# --- learn and share -----------------------------------------------------------------------


def test_what_was_learnt_is_measured_only_if_asked(client) -> None:
    assert "learnt-accuracy" not in Talk(client).learn().content["metrics"]
    talk, plain = Talk(client), Talk(client)
    learnt = talk.learn(**{"group-effect": True}).content["metrics"]["learnt-accuracy"]
    idle = talk.say("evaluate", absorb=False).content["metrics"]
    assert learnt == idle["global-accuracy"], "nothing has been absorbed yet"
    plain.learn()
    assert bits(talk.state) == bits(plain.state)


def test_without_a_common_test_set_nothing_can_be_measured(client) -> None:
    talk = Talk(replace(client, data=replace(client.data, common_test=None)))
    assert "learnt-accuracy" not in talk.learn(**{"group-effect": True}).content["metrics"]


def test_learn_trains_and_shares(client, learner_of, work_on) -> None:
    talk = Talk(client)
    reply = talk.learn()
    by_hand = learner_of()
    loss = by_hand.train(RECIPE.learn[0], work_on(client.data), "learn/0")
    metrics = reply.content["metrics"]
    assert metrics["num-examples"] == 41
    assert metrics["loss"] == pytest.approx(loss)
    packet = wire.extract(reply.content)["public"]
    assert packet.num_bytes == 4 * 50 * 10  # no ids
    shared = wire.decode(packet, lambda r: torch.arange(50))
    assert torch.equal(shared.values, softmax(by_hand.predict(client.data.public.x)))
    assert bits(talk.state) == bits({"learner": by_hand.state()})


def test_the_codec_is_the_servers(client) -> None:
    packet = wire.extract(Talk(client).learn(codec="float16").content)["public"]
    assert packet.num_bytes == 2 * 50 * 10


def test_evaluating_alone_changes_nothing(client) -> None:
    talk = Talk(client)
    reply = talk.say("evaluate")
    assert set(reply.content["metrics"]) == {
        "personalised-accuracy",
        "global-accuracy",
        "validation-accuracy",
    }
    assert talk.state is None
    talk.learn()
    before, context = bits(talk.state), dict(talk.context.state["fedkt"])
    talk.say("evaluate")
    assert bits(talk.state) == before
    assert dict(talk.context.state["fedkt"]) == context


def test_absorb_distils_and_forgets_what_is_used_up(client, learner_of, work_on) -> None:
    talk = Talk(client)
    talk.learn()
    before = bits(talk.state)
    reply = talk.absorb()
    assert bits(talk.state) != before
    assert talk.state["knowledge"] == {}
    assert not reply.has_error()


def test_knowledge_that_learning_reads_is_kept_for_the_next_round(client) -> None:
    recipe = Recipe(
        learn=[Load(), Train("private", [CrossEntropy()], epochs=0)],
        share=[Weights()],
        absorb=[Load()],
    )
    talk = Talk(client, recipe=recipe)
    weights = client.learner.weights()
    stamped = weights.with_tensors({n: torch.full_like(t, 0.5) for n, t in weights.tensors.items()})
    talk.learn()
    talk.say("evaluate", 1, {"weights": wire.encode(stamped, 1, None)}, absorb=True)
    assert set(talk.state["knowledge"]) == {"weights"}
    upload = wire.extract(talk.learn(2).content)["weights"]
    shared = wire.decode(upload, lambda r: None)
    assert all(bool((t == 0.5).all()) for t in shared.tensors.values())


def test_start_runs_once(client) -> None:
    recipe = replace(
        RECIPE,
        start=[Train("public", [CrossEntropy()])],
        learn=[],
        absorb=[],
    )
    talk = Talk(client, recipe=recipe)
    talk.say("evaluate")
    talk.learn(1)
    first = bits(talk.state)
    assert talk.state["started"] is True
    talk.learn(2)
    assert bits(talk.state) == first
    untrained = Talk(client, recipe=replace(recipe, start=[]))
    untrained.learn(1)
    assert bits(untrained.state) != first


# --- failing -------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [False, True], ids=["memory", "files"])
def test_a_failing_client_keeps_its_state(client, tmp_path: Path, files: bool) -> None:
    talk = Talk(client, FileStore(tmp_path) if files else MemoryStore())
    talk.learn(1)
    talk.absorb(1)
    before, context = bits(talk.state), dict(talk.context.state["fedkt"])
    for fail in (
        # it trains on private data, then cannot share: the public set is gone
        lambda: spoiled(talk, public=None).learn(2),
        lambda: spoiled(talk, common_test=torch.zeros(1)).absorb(2),
        lambda: talk.learn(2, codec="no such codec"),
    ):
        reply = fail()
        assert reply.has_error()
        assert "\n" not in reply.error.reason
        talk.client = client
        assert bits(talk.state) == before
        assert dict(talk.context.state["fedkt"]) == context


def spoiled(talk: Talk, **data: Any) -> Talk:
    talk.client = replace(talk.client, data=replace(talk.client.data, **data))
    return talk


@pytest.mark.parametrize("files", [False, True], ids=["memory", "files"])
def test_after_a_failure_it_goes_on_as_if_nothing_had_been(
    client, learner_of, tmp_path: Path, files: bool
) -> None:
    def store(name: str) -> Any:
        return FileStore(tmp_path / name) if files else MemoryStore()

    smooth = Talk(client, store("a"))
    bumpy = Talk(replace(client, learner=learner_of()), store("b"))
    whole = bumpy.client
    for talk in (smooth, bumpy):
        talk.learn(1)
        talk.absorb(1)
    assert spoiled(bumpy, public=None).learn(2).has_error()
    bumpy.client = whole
    for talk in (smooth, bumpy):
        talk.learn(3)
    assert bits(bumpy.state) == bits(smooth.state)


def test_errors_are_one_line_with_their_type(client) -> None:
    reply = Talk(client).say("train", codec="nope")
    assert reply.has_error()
    assert reply.error.code == 2
    assert reply.error.reason.startswith("ConfigError: Unknown codec 'nope'.")


def test_a_term_this_client_does_not_know(client) -> None:
    recipe = RECIPE.to_json().replace("cross-entropy", "triplet")
    reply = Talk(client).say("query", recipe=recipe)
    assert "Unknown objective 'triplet'" in reply.error.reason


def test_another_format_of_recipes_is_refused_with_both_versions(client) -> None:
    talk = Talk(client)
    reason = talk.say("query", **{"recipe-format": 9, "fedkt": "9.1", "recipe": "{}"}).error.reason
    assert "the recipe of the server, fedkt 9.1, has format 9; here fedkt 0.1.0 reads" in reason


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            '"epochs": 1',
            '"epochs": 1, "newfield": 2',
            "train has other options here than in the re",
        ),
        ('"@steps": "train"', '"@part": "Shout"', "Unknown part of a recipe 'Shout'"),
    ],
)
def test_a_recipe_of_another_version_is_one_line(client, old: str, new: str, says: str) -> None:
    recipe = RECIPE.to_json()
    assert old in recipe
    for kind in ("query", "train"):
        reason = Talk(client).say(kind, recipe=recipe.replace(old, new)).error.reason
        assert says in reason
        assert "TypeError" not in reason.partition(":")[0]


# --- state in files ------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_new_process_for_every_message_changes_nothing(
    learner_of, data, tmp_path: Path, model: str
) -> None:
    stays = Talk(Client(1, learner_of(model), data))
    context = None
    for round_ in (1, 2, 3):
        for act in ("learn", "absorb"):
            fresh = Talk(Client(1, learner_of(model), data), FileStore(tmp_path))
            fresh.context = context or fresh.context
            one, other = getattr(stays, act)(round_), getattr(fresh, act)(round_)
            assert dict(one.content["metrics"]) == dict(other.content["metrics"])
            context = fresh.context
    assert bits(FileStore(tmp_path).get("a", 1)) == bits(stays.state)


def test_a_message_that_comes_again_gets_the_same_answer(client, tmp_path: Path) -> None:
    talk = Talk(client, FileStore(tmp_path))
    answers = []
    for _ in range(2):  # the second time the client has gone on meanwhile
        for act in (talk.learn, talk.absorb):
            for round_ in (1, 2):
                reply = act(round_)
                shared = wire.extract(reply.content).get("public")
                arrays = shared and [a.data for a in shared.arrays.values()]
                answers.append((dict(reply.content["metrics"]), arrays, bits(talk.state)))
        talk.say("query", 1)
    assert answers[:4] == answers[4:]


def test_a_round_that_begins_again_starts_from_the_round_before(client, tmp_path: Path) -> None:
    """The server died in round 3, and goes on from its checkpoint after round 2."""
    talk, smooth = Talk(client, FileStore(tmp_path)), Talk(client, FileStore(tmp_path / "smooth"))
    for round_ in (1, 2, 3):
        talk.learn(round_)
        talk.absorb(round_)
    talk.context = shim.new_context(client.id, 3)  # of a new run of Flower's
    assert not talk.say("query", 3).has_error()
    for round_ in (1, 2, 4):  # in its second round 3 the client is absent
        smooth.learn(round_)
        smooth.absorb(round_)
    talk.learn(4)
    talk.absorb(4)
    assert bits(talk.state) == bits(smooth.state)
    reply = talk.say("query", 2)
    assert "the state of client 1 before train of round 2 is gone" in reply.error.reason


def test_a_second_run_starts_afresh(client, tmp_path: Path) -> None:
    talk, fresh = Talk(client, FileStore(tmp_path)), Talk(client)
    talk.learn(1)
    talk.absorb(1)
    talk.learn(1, run="b")
    fresh.learn(1)
    assert bits(talk.app.store.get("b", 1)) == bits(fresh.state)


def test_a_client_does_not_silently_start_anew(client, tmp_path: Path) -> None:
    talk = Talk(client, FileStore(tmp_path))
    talk.learn(1)
    talk.absorb(1)
    shutil.rmtree(tmp_path / "run-a")
    assert "the state of client 1 in run a is lost" in talk.learn(2).error.reason


@pytest.mark.parametrize(
    ("scale", "phase"), [(1e30, "learn"), (float("nan"), "share"), (float("nan"), "evaluate")]
)
def test_what_is_not_finite_is_a_failure_with_its_phase_and_leaves_the_state(
    client, scale: float, phase: str
) -> None:
    talk = Talk(client)
    talk.learn(1)
    talk.absorb(1)
    before = bits(talk.state)
    of = {"learn": "train", "share": "public", "evaluate": "common_test"}[phase]
    samples = getattr(client.data, of)
    spoiled(talk, **{of: replace(samples, x=samples.x * scale)})
    reply = talk.say("evaluate", 2) if phase == "evaluate" else talk.learn(2)
    assert reply.error.reason.startswith(f"NotFiniteError: client 1, {phase}: ")
    assert "\n" not in reply.error.reason
    assert bits(talk.state) == before
