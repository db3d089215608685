"""What a client lets out: refused before training or sending, and what has left is listed."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedkt import wire
from fedkt.clients import Client, Policy, client_app
from fedkt.clients.policy import Sent
from fedkt.errors import ConfigError
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.recipe import Load, Predict, Recipe, Train, Weights

from .talk import RECIPE, Talk, bits

WEIGHTS = Recipe(
    learn=[Load(), Train("private", [CrossEntropy()])], share=[Weights()], absorb=[Load()]
)
ENDLESS = replace(RECIPE, learn=[Train("private", [CrossEntropy()], epochs=10**9)])
STEPS = replace(RECIPE, learn=[Train("private", [CrossEntropy()], least_steps=10**9)])
CODED = replace(RECIPE, share=[Predict(codec_up="float16")])


@pytest.fixture
def client(learner_of: Any, data: Any) -> Client:
    return Client(1, learner_of(), data)


@pytest.mark.parametrize(
    ("recipe", "policy", "says"),
    [
        (WEIGHTS, {}, "its policy allows shares predict, not weights"),
        (RECIPE, {"shares": []}, "its policy allows shares none, not predict"),
        (RECIPE, {"kinds": ["labels"]}, "its policy allows kinds labels, not probabilities"),
        (ENDLESS, {"most_epochs": 100}, r"allows 100 epochs a round \(most_epochs\), not 1,000,"),
        (STEPS, {}, r"allows 1,000 steps a round at least \(most_steps\), not 1,000,000,000"),
        (CODED, {"codecs": []}, "its policy allows codecs none, not float16"),
        (RECIPE, {"readouts": ["gate"]}, "its policy allows readouts gate, not raw"),
    ],
)
def test_a_recipe_is_refused_before_anything_is_trained(
    client: Client, recipe: Recipe, policy: dict[str, Any], says: str
) -> None:
    policed = replace(client, policy=Policy(**policy))
    talk = Talk(policed, recipe=recipe)
    before = bits({"learner": policed.learner.state()})
    greeting = talk.say("query").content["config"]
    for text in (str(greeting["refusal"]), talk.learn().error.reason, talk.absorb().error.reason):
        assert "\n" not in text
        with pytest.raises(AssertionError, match=says):
            raise AssertionError(text)
    assert talk.state is None
    assert bits({"learner": policed.learner.state()}) == before


def test_the_codec_of_a_run_is_refused(client: Client) -> None:
    talk = Talk(replace(client, policy=Policy(codecs=["none"])))
    assert "allows codecs none, not float16" in talk.learn(codec="float16").error.reason
    assert not talk.learn().has_error()


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ({"most_bytes": 1999}, "its policy allows 1,999 bytes of an upload (most_bytes), not "),
        ({"most_samples": 49}, "its policy allows 49 rows of an upload (most_samples), not 50"),
    ],
)
def test_an_upload_is_refused_before_it_is_sent(
    client: Client, policy: dict[str, Any], says: str
) -> None:
    talk = Talk(replace(client, policy=Policy(**policy)))
    reply = talk.learn()
    assert says in reply.error.reason
    assert talk.state is None
    loose = Talk(replace(client, policy=Policy(**{name: n + 1000 for name, n in policy.items()})))
    assert not loose.learn().has_error()


def test_bounds_are_checked() -> None:
    with pytest.raises(ConfigError, match="most_epochs must be"):
        Policy(most_epochs=0)


def test_all_that_has_left_is_listed(client: Client, tmp_path: Path) -> None:
    talk = Talk(client)
    talk.app = client_app(lambda context: client, sent=tmp_path / "node" / "sent.jsonl")
    replies: list[Message] = [talk.say("query"), talk.learn(), talk.absorb()]
    replies.append(talk.learn(2, recipe=WEIGHTS.to_json()))
    text = (tmp_path / "node" / "sent.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert {(line["run"], line["round"]) for line in lines} == {("a", 1), ("a", 2)}
    (listed,) = (line for line in lines if "array" in line)
    packet = wire.extract(replies[1].content)["public"]
    (array,) = packet.arrays.values()
    assert (listed["share"], listed["kind"]) == ("public", "probabilities")
    assert (listed["shape"], listed["bytes"]) == ([50, 10], len(array.data))
    assert listed["sha256"] == hashlib.sha256(array.data).hexdigest()
    told = {line["record"]: line["values"] for line in lines if line.get("message") == "evaluate"}
    assert told["metrics"] == dict(replies[2].content["metrics"])
    assert lines[0]["values"]["public-size"] == 50
    assert lines[-1]["error"].endswith("its policy allows shares predict, not weights")


def test_epochs_of_all_steps_count(client: Client) -> None:
    recipe = replace(RECIPE, absorb=[Train("public", [Distil(KL())], epochs=3)])
    assert Policy(most_epochs=3).refusal(recipe) is not None
    assert Policy(most_epochs=4).refusal(recipe) is None
    assert client.policy == Policy()


def test_epochs_of_the_read_out_s_copy_count() -> None:
    recipe = replace(RECIPE, learn=[Train("private", [CrossEntropy()], epochs=3)], readout="mix")
    assert Policy(most_epochs=6).refusal(recipe) is not None
    assert Policy(most_epochs=7).refusal(recipe) is None


def test_the_codec_in_a_codec_is_refused() -> None:
    policy = Policy(codecs=["delta", "uint8"])
    assert policy.refusal(RECIPE, "delta+uint8") is None
    assert policy.refusal(RECIPE, "delta(codec=uint8)") is None
    says = "its policy allows codecs delta, uint8, not top-k"
    assert policy.refusal(RECIPE, "delta(codec=top-k)") == says
    coded = replace(RECIPE, share=[Predict(codec_up="delta(codec=top-k)")])
    assert policy.refusal(coded) == says


def test_a_line_that_was_cut_off_does_not_spoil_the_next(client: Client, tmp_path: Path) -> None:
    talk, file = Talk(client), tmp_path / "sent.jsonl"
    talk.app = client_app(lambda context: client, sent=file)
    file.write_text('{"run": "a", "rou', encoding="utf-8")  # the disk was full
    talk.say("query")
    cut, *lines = file.read_text(encoding="utf-8").splitlines()
    assert cut == '{"run": "a", "rou'
    assert [json.loads(line)["message"] for line in lines] == ["query"]


def test_one_name_is_no_list_of_names() -> None:
    with pytest.raises(ConfigError, match=r"shares is 'no-weights'; write \['no-weights'\]"):
        Policy(shares="no-weights")


def test_what_is_not_finite_is_listed_as_text(tmp_path: Path) -> None:
    asked = Message(RecordDict({"config": ConfigRecord({})}), 1, "evaluate")
    told = MetricRecord({"loss": math.nan, "losses": [0.5, math.inf]})
    Sent(tmp_path / "sent.jsonl").note(
        asked, Message(RecordDict({"metrics": told}), reply_to=asked)
    )

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (tmp_path / "sent.jsonl").read_text(encoding="utf-8")
    (line,) = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert line["values"] == {"loss": "nan", "losses": [0.5, "inf"]}
