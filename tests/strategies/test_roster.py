"""The handshake: who is there, and who does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedkt.clients import SklearnLearner, TorchLearner
from fedkt.data import Samples
from fedkt.errors import ConfigError, RunFailedError
from fedkt.simulations.grid import InProcessGrid
from fedkt.strategies.fedavg import FedAvg
from fedkt.strategies.fedmd import FedMD
from fedkt.strategies.fedprox import FedProx
from fedkt.strategies.knfu import KnFu
from fedkt.strategies.local import Local
from fedkt.strategies.roster import Member, Roster, meet

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
    assert message.startswith(f"{strategy.title} exchanges weights and needs one architecture")
    assert "linear, mlp" in message


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
        (other_public, "do not hold the same public set"),
        (no_public, "needs a public set and a client has none"),
        (lambda c: replace(c, id=0), "Two nodes say they are client 0"),
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

    with pytest.raises(ConfigError, match="do not hold the same public set"):
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

    with pytest.raises(ConfigError, match="same number of classes"):
        world(adapt=only(1, fewer)).start(with_options(KnFu(**QUICK)), 1)


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

    with pytest.raises(RunFailedError, match="cannot take part: FileNotFoundError: no data folder"):
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
    with pytest.raises(RunFailedError, match="1 of 4 clients did not answer"):
        meet(grid, strategy.recipe(), "local", strategy.options, 1)


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
    members = [Member(c, 100 - c, "m#1", 10, 5, "x") for c in (7, 2, 4)]
    roster = Roster(members)
    assert roster.clients == (2, 4, 7)
    assert list(roster) == [2, 4, 7]
    assert len(roster) == 3
    assert roster[4].node == 96
    assert roster.client_of(93) == 7
    assert roster.client_of(1) is None
    assert (roster.num_classes, roster.public_size) == (10, 5)


def test_client_ids_need_not_be_the_nodes(world, with_options) -> None:
    run = world(adapt=lambda client, message: replace(client, id=1000 - client.id))
    run.start(with_options(KnFu(**QUICK), participation=0.5), 2)
    assert run.reports[0].clients == (997, 998, 999, 1000)
    assert set(run.reports[0].participants) <= set(run.reports[0].clients)
