"""Running the phases of a recipe on one learner."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.clients.learner import Learner, Work
from fedkt.data.samples import ClientData, Samples
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.recipe import Load, Predict, Recipe, Share, Step, Train
from fedkt.wire import public_ids


def run_steps(learner: Learner, steps: Sequence[Step], work: Work, phase: str) -> float | None:
    """Run the steps of a phase; return the loss of the last step that has one."""
    loss = None
    for index, step in enumerate(steps):
        stream = f"{phase}/{index}"
        if isinstance(step, Load):
            if step.source in work.knowledge:
                learner.load_weights(work.knowledge[step.source])
            continue
        train = learner.fit if step.on == "private" else learner.absorb
        result = train(step, work, stream)
        loss = result if result is not None else loss
    return loss


def share(learner: Learner, recipe: Recipe, work: Work) -> dict[str, Knowledge]:
    """Return what the client uploads, by share name."""
    return {one.name: _one_share(learner, one, work) for one in recipe.share}


def personal_readout(learner: Learner, recipe: Recipe, work: Work) -> Callable[[Tensor], Tensor]:
    """Return the function from inputs ``[n, ...]`` to the client's personal logits ``[n, C]``."""
    log_prior = work.data.log_prior
    if recipe.readout == "raw":
        return learner.predict
    if recipe.readout == "prior":
        return lambda x: learner.predict(x) + log_prior
    private = [s for s in recipe.learn if isinstance(s, Train) and s.on == "private"]
    now = learner.state()
    run_steps(learner, private, work, "readout")
    refreshed = learner.state()

    def mixed(x: Tensor) -> Tensor:
        answers = []
        for state in (refreshed, now):  # ends with the client as it was
            learner.load_state(state)
            answers.append(F.log_softmax(learner.predict(x) + log_prior, dim=-1))
        return torch.stack(answers).mean(0)

    learner.load_state(now)
    return mixed


def evaluate(
    learner: Learner,
    data: ClientData,
    personalised: str = "split",
    readout: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Measure a client's model.

    Parameters
    ----------
    learner : Learner
        Loaded with the client's state.
    data : ClientData
        Its data.
    readout : callable, optional
        The client's personal answer, for personalised and validation accuracy; by
        default its logits, which global accuracy always uses.
    personalised : {"split", "matched"}
        On the client's own held-out samples; or the expected accuracy on the common test
        set (with domains: on the part of it that is of the client's domain) under the
        client's own class distribution q, Σ_c q_c · accuracy_c, which has far less sampling
        noise when a client holds out a dozen samples. q is the distribution its samples were
        drawn from where that is known (the partition ``draw``), else the frequencies among
        its training samples.

    Returns
    -------
    dict[str, float]
        ``personalised-accuracy``, ``validation-accuracy``, ``global-accuracy`` in [0, 1],
        each only if there are samples to measure it on.
    """
    personal = readout or learner.predict
    measured = {
        "validation-accuracy": _accuracy(personal, data.validation),
        "personalised-accuracy": _accuracy(personal, data.test)
        if personalised == "split"
        else None,
    }
    common = data.common_test
    if common is not None and len(common):
        assert common.y is not None
        right = learner.predict(common.x).argmax(-1) == common.y
        measured["global-accuracy"] = float(right.double().mean())
        if personalised == "matched":
            own = data.matched_test
            assert own is not None
            assert own.y is not None
            if readout is not None or own is not common:
                right = personal(own.x).argmax(-1) == own.y
            measured["personalised-accuracy"] = _matched(right, own.y, data)
    return {name: value for name, value in measured.items() if value is not None}


def _one_share(learner: Learner, one: Share, work: Work) -> Knowledge:
    if not isinstance(one, Predict):
        return learner.weights()
    public = work.data.public
    if public is None:
        raise KnowledgeError("this client has no public set to predict on")
    ids = public_ids(len(public), one.samples, work.seed, work.round)
    logits = learner.predict(public.at_ids(ids).x)
    if one.form == "labels":
        return Knowledge.rows("labels", logits.argmax(-1), ids)
    if one.form == "logits":
        return Knowledge.rows("logits", logits, ids)
    return Knowledge.rows("probabilities", F.softmax(logits / one.temperature, dim=-1), ids)


def _accuracy(answer: Callable[[Tensor], Tensor], samples: Samples) -> float | None:
    if not len(samples) or samples.y is None:
        return None
    return float((answer(samples.x).argmax(-1) == samples.y).double().mean())


def _matched(right: Tensor, labels: Tensor, data: ClientData) -> float | None:
    own = data.class_counts.double() if data.class_shares is None else data.class_shares
    there = torch.bincount(labels, minlength=data.num_classes).double()
    hits = torch.bincount(labels, weights=right.double(), minlength=data.num_classes)
    own = own * (there > 0)  # a class without test samples cannot be measured
    if own.sum() == 0:
        return None
    return float((own / own.sum() * hits / there.clamp_min(1)).sum())
