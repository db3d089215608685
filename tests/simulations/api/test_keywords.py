"""Keywords of an experiment: the last part of a key, or a section; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedkt import Experiment
from fedkt.data.sources import dataset_of
from fedkt.errors import ConfigError
from fedkt.simulations.api.keywords import place_of, places, settings_of
from fedkt.simulations.experiment import config
from fedkt.simulations.experiment.config import AvailabilitySection, Section, parse


def plain(study: config.Experiment) -> dict[str, Any]:
    return study.model_dump()


def test_a_keyword_is_the_last_part_of_a_key_or_a_section() -> None:
    study = Experiment(
        data="digits", clients=4, learning_rate=0.01, grid="in-process", dropout=0.2,
        training={"momentum": 0.5}, models=["mlp"], seeds=5, value=1e6,
    )  # fmt: skip
    assert plain(study) == plain(
        parse(
            {
                "data": {"dataset": "digits", "clients": 4},
                "training": {"learning_rate": 0.01, "momentum": 0.5},
                "run": {"grid": "in-process", "bounds": {"value": 1e6}},
                "availability": {"dropout": 0.2},
                "compare": {"seeds": 5},
                "models": ["mlp"],
            }
        )
    )


def test_text_may_be_as_on_the_command_line() -> None:
    study = Experiment(models="cnn,mlp", strategy="knfu(beta=2)", attack="wrong:3", metrics="auroc")
    assert study.models == ("cnn", "mlp")
    assert study.strategy == {"name": "knfu", "beta": 2}
    assert study.attack is not None
    assert study.attack.clients == 3
    assert study.run.metrics == ("auroc",)
    assert plain(Experiment(data={"clients": 3}, public="other.npz")) == plain(
        parse({"data": {"clients": 3, "public_dataset": "other.npz"}})
    )


def test_every_key_of_the_toml_has_a_keyword() -> None:
    words = [place.path.rpartition(".")[2] for place in places()]
    twice = {word for word in words if words.count(word) > 1}
    assert {word: place_of(word).path for word in twice} == {"clients": "data.clients"}


@pytest.mark.parametrize(
    ("keywords", "line"),
    [
        ({"round": 4}, "Unknown keyword 'round' of an experiment. Did you mean 'rounds'?"),
        (
            {"data": {"cliens": 4, "seed": 1}},
            "Unknown key in [data] 'cliens'. Did you mean 'clients'?",
        ),
        ({"data": {"clients": 4}, "clients": 5}, "clients is given twice: also in data."),
        ({"clients": 0}, "data.clients = 0: must be a whole number of at least 1"),
        ({"strategy": 3}, "int is no strategy: give a name, or a KnowledgeStrategy (class or"),
    ],
)
def test_what_cannot_be_is_one_line(keywords: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Experiment(**keywords)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


class Fast(Section):
    pace: float = 1.0


class Slow(Section):
    pace: float = 2.0


class Both(Section):
    fast: Fast = Fast()
    slow: Slow = Slow()
    availability: AvailabilitySection | None = None


def test_an_ambiguous_keyword_names_its_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    for section in (Fast, Slow):
        monkeypatch.setattr(section, "__module__", "fedkt.somewhere")
    with pytest.raises(ConfigError) as caught:
        settings_of({"pace": 3.0}, Both)
    line = "pace may be one of several options: write fast={'pace': …} or slow={'pace': …}."
    assert str(caught.value) == line
    assert settings_of({"dropout": 0.1}, Both) == {"availability": {"dropout": 0.1}}


def test_an_experiment_shows_what_differs_from_the_defaults() -> None:
    study = Experiment(clients=4, rounds=2)
    assert repr(study) == "Experiment(rounds=2, data={'clients': 4})"
    assert plain(study.with_values(rounds=3)) == plain(Experiment(clients=4, rounds=3))


def test_domains_have_the_names_of_a_dictionary_or_of_their_data_sets() -> None:
    rows = np.zeros((8, 3)), np.arange(8) % 2
    given = {"here": rows, "there": (rows[0] + 1, rows[1])}
    several = [replace(dataset_of(rows, "unnamed"), name="ward"), rows]
    for domains, names in ((given, ["here", "there"]), (several, ["ward", "domain-1"])):
        references = Experiment(domains=domains).data.domains
        assert [reference.partition(":")[2] for reference in references] == names
