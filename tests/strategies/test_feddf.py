from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedkt.clients import LearnerModels, TrainingOptions
from fedkt.knowledge import Fused, Uploads
from fedkt.objectives import KL, Distil
from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.strategies.weights.feddf import FedDF


def test_feddf_teaches_each_architecture_the_mean_of_all(world, with_options, federation) -> None:
    seen: dict[str, Any] = {}

    class Keeping(FedDF):
        def fuse(self, uploads: Uploads) -> Fused:
            student = self.model[sorted(self.model)[0]]
            train = student.train

            def watched(step: Any, knowledge: Any, *names: Any) -> Any:
                seen["teacher"] = knowledge["teacher"].values
                return train(step, knowledge, *names)

            student.train, seen["uploads"] = watched, uploads
            return super().fuse(uploads)

    run, strategy = world(models=("linear", "mlp")), with_options(Keeping())
    run.start(strategy, 1)
    assert run.reports[0].failures == []
    x, answers = federation.client(0).public.x, []
    for upload in seen["uploads"]:
        learner = run.population.learner(("linear", "mlp")[upload.client % 2])
        learner.load_weights(upload.knowledge["weights"])
        answers.append(learner.predict(x))
    assert torch.allclose(seen["teacher"], torch.stack(answers).mean(0), atol=1e-5)
    for client in range(4):
        kind = strategy.round.about[client]["architecture"]
        student = strategy.model[kind].weights().tensors
        assert all(torch.equal(t, student[n]) for n, t in run.model_of(client).items())
    assert strategy.serves.startswith("linear#")


def test_feddf_moves_students_towards_the_teacher(world, with_options, federation) -> None:
    gaps = {}
    for epochs in (0, 20):
        run = world(models=("linear", "mlp"))
        strategy = FedDF(distil_epochs=epochs, learning_rate=0.01)
        run.start(with_options(strategy), 1)
        x = federation.client(0).public.x
        answers = [F.log_softmax(m.predict(x), -1) for m in strategy.model.values()]
        gaps[epochs] = float((answers[0] - answers[1]).abs().mean())
    assert gaps[20] < 0.7 * gaps[0]


def test_without_distillation_it_is_fedavg(world, with_options) -> None:
    """Of one architecture, from the same first weights: to the bit, and in what the server has."""
    runs, served = [world(), world()], []
    for run, method in zip(runs, (FedDF(2, distil_epochs=0), FedAvg(2)), strict=True):
        strategy = with_options(method)
        run.start(strategy, 2)
        served.append(strategy.server_weights().tensors)
    for client in range(4):
        ours, theirs = (run.model_of(client) for run in runs)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert all(torch.equal(tensor, served[1][name]) for name, tensor in served[0].items())


class InTurn(FedDF):
    """Asks one client after the other."""

    def choose(self, clients):
        return [clients[(self.round.number - 1) % len(clients)]]


def test_clients_that_come_later_go_on_with_the_student(world, with_options) -> None:
    run = world(models=("linear", "mlp"))
    strategy = with_options(InTurn(0, distil_epochs=1))
    run.start(strategy, 4)
    kinds = strategy.round.about
    for client in (2, 3):  # each the second of its architecture
        student = strategy.model[kinds[client]["architecture"]].weights().tensors
        assert all(torch.equal(t, student[n]) for n, t in run.model_of(client).items())
    assert [report.traffic.down for report in run.reports][2:] == [4 * 2 * 650, 4 * 2 * 4810]


def test_the_loss_is_that_of_mean_logits_softened(world, with_options, federation) -> None:
    """T² KL(softmax(z̄ / T) ‖ softmax(z / T)), mean over the batch, of one step by NumPy."""
    seen: dict[str, Any] = {}

    class Keeping(FedDF):
        def fuse(self, uploads: Uploads) -> Fused:
            (model,) = self.model.values()
            train = model.train

            def watched(step: Any, knowledge: Any, *names: Any) -> Any:
                before = model.predict(self.samples.public.x).double().numpy()
                loss = train(step, knowledge, *names)
                seen.update(z=before, teacher=knowledge["teacher"].values, loss=loss, step=step)
                return loss

            model.train = watched
            return super().fuse(uploads)

    method = Keeping(1, distil_epochs=1, temperature=2.0)
    maker = LearnerModels("mlp", TrainingOptions(public_batch_size=50))
    world(("mlp",), learning_rate=0.01).start(with_options(method, models=maker), 1)
    assert seen["step"].terms == (Distil(KL(2.0), "teacher"),)

    def softened(z: np.ndarray) -> np.ndarray:
        powers = np.exp(z / 2)
        return powers / powers.sum(1, keepdims=True)

    t, s = softened(seen["teacher"].double().numpy()), softened(seen["z"])
    assert seen["loss"] > 1e-4
    assert seen["loss"] == pytest.approx(4 * (t * np.log(t / s)).sum(1).mean(), rel=1e-4)
