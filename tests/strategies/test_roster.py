"""The handshake: who is there, and who does not fit."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from flwr.app import ArrayRecord, Context, Error, Message
from flwr.clientapp import ClientApp

from fedkt.clients import SklearnLearner, TorchLearner
from fedkt.data import Samples
from fedkt.errors import ConfigError, RunFailedError
from fedkt.greeting import Facts
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.strategies import ServerOptions
from fedkt.strategies.answers.fedmd import FedMD
from fedkt.strategies.answers.knfu import KnFu
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.server.roster import Member, Roster
from fedkt.strategies.server.round import needed
from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.strategies.weights.fedprox import FedProx

QUICK = {"local_epochs": 1, "distil_epochs": 1}


def only(client: int, change):
    """Apply a change to one client."""
    return lambda one, message: change(one) if one.id == client else one


@pytest.mark.parametrize("strategy", [FedAvg(), FedProx()])
def test_two_architectures_cannot_exchange_weights(world, with_options, strategy) -> None:
    run = world(models=("linear", "mlp"))
    with pytest.raises(ConfigError) as caught:
        run.start(with_options(strategy), 1)
    message = str(caught.value)
    assert message.startswith(f"{strategy.title} cannot run on client 1: architecture is 'mlp#")
    assert "where the others have 'linear#" in message
    assert "the method needs one architecture" in message


def test_two_architectures_can_exchange_knowledge(world, with_options) -> None:
    run = world(models=("linear", "mlp", "logistic"))
    run.start(with_options(KnFu(**QUICK)), 1)
    assert run.reports[0].participants == [0, 1, 2, 3]


def test_one_name_with_two_shapes_is_two_architectures(world, with_options) -> None:
    def wider(client):
        layers = torch.nn.Flatten(), torch.nn.Linear(64, 20), torch.nn.Linear(20, 10)
        return replace(
            client, learner=TorchLearner(lambda: torch.nn.Sequential(*layers), 10, "linear")
        )

    with pytest.raises(ConfigError, match="needs one architecture"):
        world(adapt=only(2, wider)).start(with_options(FedAvg()), 1)


def other_public(client):
    public = client.data.public
    changed = Samples(public.x + 0.01, public.y, public.ids)
    return replace(client, data=replace(client.data, public=changed))


def no_public(client):
    return replace(client, data=replace(client.data, public=None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            other_public,
            "client 3: public set is '50 samples, .{16}' where the others have '50",
        ),
        (no_public, "client 3: the recipe needs a public set and it holds none"),
        (lambda c: replace(c, id=0), "node 5: it says it is client 0, as node 2 does"),
    ],
)
def test_clients_that_do_not_fit_together(world, with_options, change, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        world(adapt=only(3, change)).start(with_options(KnFu(**QUICK)), 1)


def test_a_shuffled_public_set_is_another_one(world, with_options) -> None:
    def shuffled(client):
        public = client.data.public
        back = Samples(public.x.flip(0), public.y.flip(0), public.ids)
        return replace(client, data=replace(client.data, public=back))

    with pytest.raises(ConfigError, match=r"client 0: public set is .* needs one public set"):
        world(adapt=only(0, shuffled)).start(with_options(FedMD(**QUICK)), 1)


@pytest.mark.parametrize("change", [other_public, no_public])
def test_public_sets_do_not_matter_to_methods_without_one(world, with_options, change) -> None:
    run = world(adapt=only(3, change))
    run.start(with_options(Local(local_epochs=1)), 1)
    assert run.reports[0].participants == [0, 1, 2, 3]


def test_class_counts_must_agree(world, with_options) -> None:
    def fewer(client):
        def build():
            return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7))

        return replace(client, learner=TorchLearner(build, 7, "linear"))

    with pytest.raises(ConfigError, match="client 1: num-classes is 7 where the others have 10"):
        world(adapt=only(1, fewer)).start(with_options(KnFu(**QUICK)), 1)


def schema(**facts: object):
    def change(client):
        return replace(client, data=replace(client.data, **facts))

    return change


def swapped(client):
    names = (*map(str, range(10)),)
    return schema(classes=(names[1], names[0], *names[2:]))(client)


def turned(client):
    return schema(input_shape=(8, 8, 1))(client)


TABLE = {"age": "float32", "sex": "uint8"}
OTHER_TABLES = [
    {"sex": "uint8", "age": "float32"},
    {"age": "float64", "sex": "uint8"},
    {"age": "float32"},
    {"age": "float32", "gender": "uint8"},
]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (swapped, r"classes\[0\] is '1' where the others have '0'|classes is \['1', '0'"),
        *((schema(columns=table), r"columns is \[.*'\] where .* \[\]") for table in OTHER_TABLES),
    ],
)
@pytest.mark.parametrize("strategy", [KnFu(**QUICK), Local(local_epochs=1), FedAvg(1)])
def test_clients_with_another_schema_are_no_federation(
    world, with_options, strategy, change, reason
) -> None:
    run = world(adapt=only(2, change))
    with pytest.raises(ConfigError, match=rf"cannot run on client 2: ({reason})"):
        run.start(with_options(deepcopy(strategy)), 1)
    run.start(with_options(deepcopy(strategy), quorum=3), 1)
    assert run.reports[0].clients == (0, 1, 3)
    (note,) = run.reports[0].notes
    assert re.match(rf"left out of the run: client 2: ({reason})", note)


@pytest.mark.parametrize("strategy", [KnFu(**QUICK), FedAvg(1)])
def test_inputs_are_alike_where_the_method_needs_it(world, with_options, strategy) -> None:
    run = world(adapt=only(2, turned))
    reason = r"input shape is '\[8, 8, 1\]' where the others have .* needs one input shape"
    with pytest.raises(ConfigError, match=f"cannot run on client 2: {reason}"):
        run.start(with_options(strategy), 1)
    run.start(with_options(Local(local_epochs=1)), 1)
    assert run.reports[0].clients == (0, 1, 2, 3)


@pytest.mark.parametrize("table", OTHER_TABLES)
def test_columns_are_compared_by_name_order_and_dtype(world, with_options, table) -> None:
    def adapt(client, message):
        return schema(columns=table if client.id == 1 else TABLE)(client)

    with pytest.raises(ConfigError, match="local cannot run on client 1: columns is"):
        world(adapt=adapt).start(with_options(Local(local_epochs=1)), 1)
    same = world(adapt=lambda client, message: schema(columns=table)(client))
    same.start(with_options(Local(local_epochs=1)), 1)


def test_equal_preprocessing_is_for_methods_that_exchange_weights(world, with_options) -> None:
    def adapt(client, message):
        age = "mean 54.2, deviation 9.1" if client.id else "mean 50.0, deviation 9.1"
        return schema(preprocessing={"age": age, "sex": "one-hot f, m"})(client)

    reason = r"preprocessing.* is .*mean 50\.0.* where the others have .*mean 54\.2"
    with pytest.raises(ConfigError, match=rf"fedavg cannot run on client 0: {reason}"):
        world(adapt=adapt).start(with_options(FedAvg(1)), 1)
    run = world(adapt=adapt)
    run.start(with_options(KnFu(**QUICK)), 1)
    assert run.reports[0].participants == [0, 1, 2, 3]


def test_two_halves_that_differ_are_no_majority(world, with_options) -> None:
    run = world(adapt=lambda client, message: swapped(client) if client.id % 2 else client)
    with pytest.raises(ConfigError, match=r"client 1: classes.*; 2 of 4 clients are left and 3 "):
        run.start(with_options(KnFu(**QUICK), quorum="majority"), 1)
    run.start(with_options(KnFu(**QUICK), quorum=2), 1)
    assert run.reports[0].clients == (0, 2)


def test_a_few_that_differ_are_left_out_whoever_comes_first(world, with_options) -> None:
    run = world(adapt=only(0, other_public))
    run.start(with_options(KnFu(**QUICK), quorum="majority"), 1)
    assert run.reports[0].clients == (1, 2, 3)


def test_a_run_starts_without_those_that_do_not_come(world, with_options) -> None:
    run = world()
    run.start(with_options(Local(local_epochs=0), clients=7, wait=0.1, quorum="majority"), 1)
    assert run.reports[0].clients == (0, 1, 2, 3)
    for quorum in (5, "strict"):
        with pytest.raises(RunFailedError, match=r"Only 4 of 7 clients came within 0\.1 s"):
            world().start(with_options(Local(), clients=7, wait=0.1, quorum=quorum), 1)


@pytest.mark.parametrize("quorum", [0, -1, True, 1.5, "most", None])
def test_a_quorum_is_a_word_or_a_number(quorum) -> None:
    words = "quorum must be one of strict, majority or a whole number of at least 1, not"
    with pytest.raises(ConfigError, match=words):
        ServerOptions(quorum=quorum)


@pytest.mark.parametrize(
    ("quorum", "of_4", "of_5"), [("strict", 4, 5), ("majority", 3, 3), (2, 2, 2)]
)
def test_how_many_a_run_needs(quorum, of_4: int, of_5: int) -> None:
    assert (needed(quorum, 4), needed(quorum, 5)) == (of_4, of_5)


def test_a_refusal_names_the_client_and_its_reason(world, with_options) -> None:
    def forest(client):
        from sklearn.ensemble import RandomForestClassifier

        return replace(client, learner=SklearnLearner(RandomForestClassifier, 10, "forest"))

    with pytest.raises(
        ConfigError, match=r"fedavg cannot run on client 2: .*\(forest\) has no weights"
    ):
        world(adapt=only(2, forest)).start(with_options(FedAvg()), 1)


def test_a_client_that_fails_at_the_handshake(world, with_options) -> None:
    def broken(client):
        raise FileNotFoundError("no data folder")

    with pytest.raises(RunFailedError, match="run on node 3: FileNotFoundError: no data folder"):
        world(adapt=only(1, broken)).start(with_options(Local()), 1)


def test_waiting_for_clients_that_do_not_come(world, with_options) -> None:
    strategy = with_options(Local(), clients=7, wait=0.1)
    with pytest.raises(RunFailedError, match=r"Only 4 of 7 clients came within 0\.1 s"):
        world().start(strategy, 1)


def test_a_client_that_does_not_answer_the_greeting(world, with_options) -> None:
    class Silent(InProcessGrid):
        def _handle(self, messages, timeout):
            return super()._handle(messages, timeout)[1:]

    grid = Silent(world().grid._app, 4)
    strategy = with_options(Local())
    with pytest.raises(RunFailedError, match="local cannot run on node 2: no reply in time"):
        strategy.exchange.meet(grid, ArrayRecord())


def test_a_foreign_client_app(with_options) -> None:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(
            Error(2, "Traceback:\n  line\nValueError: what is a recipe?"), reply_to=message
        )

    strategy = with_options(Local(), clients=2)
    with pytest.raises(RunFailedError, match=r"ValueError: what is a recipe\?"):
        strategy.start(InProcessGrid(app, 2), num_rounds=1)


def test_the_roster() -> None:
    facts: Facts = {"num-classes": 10, "public-size": 5, "input-shape": (1, 8, 8)}
    roster = Roster([Member(c, 100 - c, facts) for c in (7, 2, 4)])
    assert roster.clients == (2, 4, 7)
    assert list(roster) == [2, 4, 7]
    assert len(roster) == 3
    assert roster[4].node == 96
    assert (roster.num_classes, roster.public_size) == (10, 5)


def test_client_ids_need_not_be_the_nodes(world, with_options) -> None:
    run = world(adapt=lambda client, message: replace(client, id=1000 - client.id))
    run.start(with_options(KnFu(**QUICK), participation=0.5), 2)
    assert run.reports[0].clients == (997, 998, 999, 1000)
    assert set(run.reports[0].participants) <= set(run.reports[0].clients)
