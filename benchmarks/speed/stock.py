"""Flower's own simulation doing the same work: one message a client and phase.

As Flower's examples do it: the model, here with its momentum, lies in ``context.state``, the
server matches replies by node. Clients compute with the lean loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from lean import LeanState, LeanTrainer
from meters import Laps, peak_mb
from methods import similarity_weights
from workloads import Case

from fedkt.data.federation import Federation
from fedkt.data.samples import ClientData, Samples

TIMEOUT = 3600.0


class Worker:
    """What a worker process keeps: one model object, and the data of clients it has seen."""

    def __init__(self, case: Case) -> None:
        torch.set_num_threads(1)
        self.trainer = LeanTrainer(case.kind)
        self.data = lru_cache(maxsize=None)(
            Federation.load(Path(case.folder) / "federation").client
        )

    def load(self, context: Context) -> tuple[int, ClientData, LeanState]:
        """Return who a context is of, its data and its state."""
        client = int(str(context.node_config["partition-id"]))
        held = context.state.array_records
        if "model" not in held:
            return client, self.data(client), self.trainer.fresh(client)
        state = LeanState(_tensors(held["model"]), _tensors(held["momentum"]))
        return client, self.data(client), state


@lru_cache(maxsize=1)
def worker(case: Case) -> Worker:
    """Return this process's worker."""
    return Worker(case)


def client_app(case: Case) -> ClientApp:
    """Return the ClientApp: ``train`` learns and answers, ``evaluate`` distils and evaluates."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        here = worker(case)
        client, data, state = here.load(context)
        before = here.trainer.steps
        x, y = _pair(data.train)
        loss = here.trainer.learn(state, x, y, _round(message), client)
        answers = here.trainer.answers(state, _have(data.public).x)
        _keep(context, state)
        metrics = {"client": client, "loss": loss, "steps": here.trainer.steps - before}
        return _reply(message, metrics, ArrayRecord({"answers": Array(answers.numpy())}))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        here = worker(case)
        client, data, state = here.load(context)
        before, targets = here.trainer.steps, _tensors(message.content.array_records["targets"])[0]
        here.trainer.absorb(state, _have(data.public).x, targets, _round(message), client)
        x, y = _pair(_have(data.common_test))
        right = (here.trainer.answers(state, x).argmax(-1) == y).float().mean()
        _keep(context, state)
        steps = here.trainer.steps - before
        return _reply(message, {"client": client, "accuracy": float(right), "steps": steps})

    return app


def noop_app() -> ClientApp:
    """Return a ClientApp that only counts in its state, for the cost of messages alone."""
    app = ClientApp()

    def count(message: Message, context: Context) -> Message:
        held = context.state.metric_records.get("calls")
        calls = 0 if held is None else int(str(held["calls"]))
        context.state["calls"] = MetricRecord({"calls": calls + 1})
        return _reply(message, {"calls": calls + 1})

    app.train()(count)
    app.evaluate()(count)
    return app


def run_stock(case: Case) -> dict[str, Any]:
    """Measure the same work on Flower's simulation."""
    laps, losses, accuracies, steps, peak = Laps(), list[float](), list[float](), 0, 0.0
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        nonlocal steps, peak
        nodes = _nodes(grid, case.clients)
        for round_ in range(1, case.rounds + 1):
            learnt = _ask(grid, nodes, "train", round_)
            order = {_metric(r, "client"): r for r in learnt}
            replies = [order[k] for k in range(case.clients)]
            answers = torch.stack(
                [_tensors(r.content.array_records["answers"])[0] for r in replies]
            )
            fused = (similarity_weights(answers) @ answers.flatten(1)).view_as(answers).numpy()
            targets = {
                r.metadata.src_node_id: ArrayRecord({"answers": Array(fused[k])})
                for k, r in enumerate(replies)
            }
            absorbed = _ask(grid, nodes, "evaluate", round_, targets)
            losses.append(_mean(learnt, "loss"))
            accuracies.append(_mean(absorbed, "accuracy"))
            steps += int(sum(_metric(r, "steps") for r in (*learnt, *absorbed)))
            laps.mark()
        peak = peak_mb()  # while the workers are there

    _simulate(app, client_app(case), case)
    return {
        **laps.result(case.rounds),
        "steps": steps / case.clients / case.rounds,
        "clients": case.clients,
        "losses": losses,
        "accuracies": accuracies,
        "peak_mb": peak,
    }


def run_noop(case: Case) -> dict[str, Any]:
    """Measure two messages a client and round that do nothing."""
    laps, app = Laps(), ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        nodes = _nodes(grid, case.clients)
        for round_ in range(1, case.rounds + 1):
            _ask(grid, nodes, "train", round_)
            _ask(grid, nodes, "evaluate", round_)
            laps.mark()

    _simulate(app, noop_app(), case)
    return {**laps.result(case.rounds), "clients": case.clients}


def _simulate(server: ServerApp, client: ClientApp, case: Case) -> None:
    """Run the simulation; exceptions of the ServerApp are raised here."""
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)
    ray = {"address": "local", "num_cpus": case.workers, "log_to_driver": False}
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=case.clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {**ray, "logging_level": "ERROR"},
        },
    )


def _nodes(grid: Grid, count: int) -> list[int]:
    """Wait until all nodes are there: the server starts before they have registered."""
    deadline = time.monotonic() + 300
    while len(nodes := list(grid.get_node_ids())) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"Only {len(nodes)} of {count} nodes have come.")
        time.sleep(0.05)
    return nodes


def _ask(
    grid: Grid,
    nodes: Sequence[int],
    message_type: str,
    round_: int,
    targets: dict[int, ArrayRecord] | None = None,
) -> list[Message]:
    messages = []
    for node in nodes:
        content = RecordDict({"config": ConfigRecord({"server-round": round_})})
        if targets is not None:
            content["targets"] = targets[node]
        messages.append(Message(content, node, message_type, group_id=str(round_)))
    replies = list(grid.send_and_receive(messages, timeout=TIMEOUT))
    failed = [r for r in replies if r.has_error()]
    if failed or len(replies) < len(messages):
        why = failed[0].error.reason if failed else "no reply in time"
        raise RuntimeError(f"{len(messages) - len(replies) + len(failed)} messages failed: {why}")
    return replies


def _reply(
    message: Message, metrics: dict[str, int | float], arrays: ArrayRecord | None = None
) -> Message:
    content = RecordDict({"metrics": MetricRecord(dict(metrics))})
    if arrays is not None:
        content["answers"] = arrays
    return Message(content, reply_to=message)


def _keep(context: Context, state: LeanState) -> None:
    context.state["model"] = _record(state.parameters)
    context.state["momentum"] = _record(state.momentum)


def _record(tensors: Sequence[torch.Tensor]) -> ArrayRecord:
    return ArrayRecord({str(i): Array(t.numpy()) for i, t in enumerate(tensors)})


def _tensors(record: ArrayRecord) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(array.numpy())) for array in record.values()]


def _pair(samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
    return samples.x, _have(samples.y)


def _have(value: Any) -> Any:
    assert value is not None
    return value


def _round(message: Message) -> int:
    return int(str(message.content.config_records["config"]["server-round"]))


def _metric(reply: Message, name: str) -> float:
    return float(str(reply.content.metric_records["metrics"][name]))


def _mean(replies: Sequence[Message], name: str) -> float:
    return sum(_metric(r, name) for r in replies) / len(replies)
