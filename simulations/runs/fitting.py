"""Checks before a run: whether a strategy, its models and the data fit together."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fedkt import registry
from fedkt.augmentations import augmentations_of, augmented
from fedkt.clients.learners.making import make_learner, networks_among
from fedkt.clients.phases import refuses
from fedkt.codecs import codec_chain
from fedkt.data.federation import Federation
from fedkt.errors import ConfigError, FedktError, nearest
from fedkt.evaluation.figure import ACCURACY
from fedkt.greeting import told
from fedkt.metrics import metrics_of
from fedkt.recipe import Recipe, trainings, weighted
from fedkt.simulations.experiment.config import Experiment
from fedkt.simulations.runs.server_model import check_models, server_network
from fedkt.strategies import KnowledgeStrategy
from fedkt.text import raised
from fedkt.training import TrainingOptions

logger = logging.getLogger("fedkt")

LEAST_TARGET = 2  # one sample has no distribution to align with


def check_settings(experiment: Experiment) -> None:
    """Refuse settings that contradict each other.

    Raises
    ------
    ConfigError
        If no common test sample could be of a client's own domain, or the schedule ends before
        the run does.
    """
    if 0 < experiment.schedule_rounds < experiment.rounds:
        raise ConfigError(
            f"schedule_rounds is {experiment.schedule_rounds}, less than rounds, "
            f"{experiment.rounds}; it is the length of the run that this one begins."
        )
    if experiment.data.target and experiment.run.personalised == "matched":
        raise ConfigError(
            f"run.personalised is 'matched' and data.target is {experiment.data.target!r}: no "
            'common test samples are of the clients\' own domains; use personalised = "split".'
        )


def with_public(experiment: Experiment, strategies: Iterable[KnowledgeStrategy]) -> Experiment:
    """Return an experiment in which it is decided whether there is a public set.

    Parameters
    ----------
    experiment : Experiment
        What to run.
    strategies : iterable of KnowledgeStrategy
        All that are compared on the same data. A public set is taken if one of them needs it,
        or if ``data.public_dataset`` names it.

    Raises
    ------
    ConfigError
        If ``data.public`` is false and a strategy needs a public set.
    """
    data, needy = experiment.data, [s.title for s in strategies if adapts(s)]
    if data.public is False and needy:
        raise ConfigError(
            f"{needy[0]} needs a public set and data.public is false; leave it out or set it to "
            "true."
        )
    if data.public is not None or data.target:
        return experiment
    taken = bool(needy or data.public_dataset)
    return experiment.with_values(data={**vars(data), "public": taken})


def check_metrics(metrics: Sequence[str], num_classes: int) -> None:
    """Refuse metrics that fail, or are out of their bounds, on a few made-up answers.

    Parameters
    ----------
    metrics : Sequence[str]
        As texts for the wire.
    num_classes : int
        C, of the federation.

    Raises
    ------
    ConfigError
        Naming the metric.
    """
    labels = torch.arange(2 * num_classes) % num_classes
    rows = torch.arange(2 * num_classes)[:, None]
    logits = torch.sin(7.0 * rows + torch.arange(num_classes))  # some right, some wrong
    weight = torch.ones(len(labels), dtype=torch.float64)
    for metric in metrics_of(metrics):
        low, high = metric.facts.bounds
        try:
            value = metric.compute(logits, labels, weight)
            values = torch.as_tensor(low if value is None else value, dtype=torch.float64)
        except Exception as error:  # a user's code may raise anything
            raise ConfigError(f"metric {metric.facts.name}: {raised(error)}.") from error
        if value is None:
            continue
        shape, got = metric.facts.shape(num_classes), tuple(values.shape)
        if math.prod(got) != 1 if not shape else got != shape:
            what = f"its axes are {metric.facts.axes}" if shape else "it has no axes"
            raise ConfigError(
                f"metric {metric.facts.name} has shape {list(got)} for {num_classes} classes and "
                f"{what}: it should be {list(shape)}."
            )
        within = values.isfinite() & (low <= values) & (values <= high)
        within |= values.isnan() & bool(shape)  # an entry of a table that is not defined
        if not within.all():
            wrong = float(values[~within].flatten()[0])
            raise ConfigError(
                f"metric {metric.facts.name} is {wrong:g} for some answers; its bounds are "
                f"{low:g} and {high:g}."
            )


def check_select_by(name: str, metrics: Sequence[str]) -> None:
    """Refuse a figure that no round can be the best in.

    Parameters
    ----------
    name : str
        ``run.select_by``.
    metrics : Sequence[str]
        As texts for the wire.

    Raises
    ------
    ConfigError
        If it is neither accuracy nor the name of one of the metrics, or no value of it is good.
    """
    facts = {m.facts.name: m.facts for m in metrics_of(metrics) if not m.facts.axes}
    if name == ACCURACY:
        return
    if name not in facts:
        hint = nearest(name, list(facts))
        raise ConfigError(
            f"run.select_by = {name!r}.{hint} Allowed: {ACCURACY}, or a metric of run.metrics, "
            f"which has {', '.join(facts) or 'none'}."
        )
    if not facts[name].better:
        raise ConfigError(f"run.select_by = {name!r}: neither high nor low values of it are good.")


def check_training(
    training: TrainingOptions, models: Sequence[str], federation: Federation
) -> tuple[str, ...]:
    """Return notes on the options of training that some models do not follow, a line each.

    Raises
    ------
    ConfigError
        If no model follows an option, or the samples cannot be augmented so.
    """
    shape, classes = federation.input_shape, federation.num_classes
    without: dict[str, list[str]] = {name: [] for name in training.additions}
    kinds = list(dict.fromkeys(models))
    for model in kinds if without else ():
        follows = make_learner(model, shape, classes).follows_options
        for name in without.keys() - follows:
            without[name].append(model)
    notes = []
    for name, idle in without.items():
        line = f"training.{name} has no effect on {', '.join(idle)}"
        if len(idle) == len(kinds):
            raise ConfigError(f"{line}: no model here can follow it.")
        if idle:
            notes.append(f"{line}: such a model cannot follow it")
    _check_augment(training.augment, federation.client(0).train.x[:2])
    return tuple(notes)


def _check_augment(augment: str, x: Tensor) -> None:
    """Refuse augmentations that fail on samples ``x [n, ...]``, or return others than samples."""
    try:
        changed = augmented(augmentations_of(augment), x, torch.tensor(0))
    except Exception as error:  # a user's code may raise anything
        what = str(error).rstrip(".") if isinstance(error, FedktError) else raised(error)
        raise ConfigError(f"training.augment = {augment!r}: {what}.") from error
    if changed.shape != x.shape or changed.dtype != x.dtype:
        raise ConfigError(
            f"training.augment = {augment!r}: shape and dtype must stay; of {list(x.shape)} "
            f"{x.dtype} it makes {list(changed.shape)} {changed.dtype}."
        )


def check_recipe(strategy: KnowledgeStrategy) -> None:
    """Refuse a strategy that makes no recipe, or one that cannot travel to the clients.

    Raises
    ------
    ConfigError
        Naming the strategy.
    """
    try:
        recipe = strategy.settled_recipe
    except Exception as error:  # a user's code may raise anything
        what = str(error) if isinstance(error, FedktError) else f"recipe() raised {raised(error)}."
        raise ConfigError(f"{strategy.title}: {what}") from error
    try:
        Recipe.from_json(recipe.to_json())
    except ConfigError as error:
        raise ConfigError(f"{strategy.title}: {error}") from error


def fitting_models(
    strategy: KnowledgeStrategy,
    experiment: Experiment,
    federation: Federation,
    reduce_to_one: bool,
) -> tuple[tuple[str, ...], str]:
    """Return the models that the clients get, and the server's own (empty for none).

    Parameters
    ----------
    strategy : KnowledgeStrategy
        The method.
    experiment : Experiment
        Its ``models`` and ``server_model`` are asked for.
    federation : Federation
        The data.
    reduce_to_one : bool
        As for :func:`fedkt.simulations.runs.plan.prepare`.

    Raises
    ------
    ConfigError
        If the strategy cannot run with them, or on the data.
    """
    models, title = experiment.models, strategy.title
    kinds = ", ".join(dict.fromkeys(models))
    if not models:
        raise ConfigError("models: name at least one model.")
    check_gaps((*models, experiment.server_model), federation)
    networks = networks_among(models, federation.input_shape, federation.num_classes)
    if strategy.settled_recipe.needs_one_architecture:
        if not networks:
            raise ConfigError(
                f"{title} exchanges weights and needs a network as model, e.g. cnn; "
                f"{kinds} have none to exchange."
            )
        differ = len(set(models)) > 1 and not _agree(strategy.settled_recipe, models, federation)
        if differ and not reduce_to_one:
            raise ConfigError(
                f"{title} exchanges weights and needs one architecture; the federation "
                f"has {kinds}. Choose one, e.g. --models {networks[0]}."
            )
        if differ:
            models = (networks[0],)
    check_fits(strategy, models, federation)
    check_budget(strategy, federation, experiment.training)
    server = server_network(strategy, experiment, networks, federation)
    check_models(strategy, models, server, federation, experiment.seed)
    return models, server


def _agree(recipe: Recipe, models: Sequence[str], federation: Federation) -> bool:
    """Return whether clients of several models tell the same of all that a recipe's parts share."""
    shape, classes, data = federation.input_shape, federation.num_classes, federation.client(0)
    texts = []
    for model in dict.fromkeys(models):
        learner = make_learner(model, shape, classes)
        if learner.refuses(recipe) or refuses(recipe, learner, data):
            return False
        texts.append(told(recipe, learner, data))
    return all(text == texts[0] for text in texts)


def check_gaps(models: Sequence[str], federation: Federation) -> None:
    """Refuse models that do not take missing values where the data have some.

    Raises
    ------
    ConfigError
        Naming the first such model, and what fills the gaps.
    """
    if not (rows := federation.gaps()):
        return
    for model in dict.fromkeys(filter(None, models)):
        learner = make_learner(model, federation.input_shape, federation.num_classes)
        if not learner.takes_gaps(federation.client(0).train.x):
            raise ConfigError(
                f"model {model!r} does not take missing values, and {rows:,} rows of "
                f'{federation.name} have some (NaN); data.scale = "standardise" fills them with '
                "means, and some models take them, as boosting."
            )


def model_notes(models: Sequence[str], federation: Federation) -> tuple[str, ...]:
    """Return what a reader of the results has to know about how models train, each line once."""
    shape, classes = federation.input_shape, federation.num_classes
    learners = [make_learner(model, shape, classes) for model in dict.fromkeys(models)]
    return tuple(dict.fromkeys(note for learner in learners for note in learner.notes))


def codec_notes(recipe: Recipe, run: str) -> tuple[str, ...]:
    """Return which codecs change nothing of what travels, each line once.

    Parameters
    ----------
    recipe : Recipe
        Its shares have the kinds that travel, and may have codecs of their own.
    run : str
        The run's codecs.
    """
    travels: dict[str, set[str]] = {}
    for share in recipe.share:
        for way in ("up", "down"):
            travels.setdefault(recipe.codec(share.name, way, run), set()).add(share.kind)
    lines = []
    for text, kinds in travels.items():
        for codec in codec_chain(text, files=True):
            if not any(map(codec.changes, kinds)):
                name = registry.short_name("codecs", type(codec))
                what = f"{', '.join(sorted(kinds))} it leaves as they are"
                lines.append(f"codec {name} in {text!r}: {what}")
            kinds = {codec.passes(kind) for kind in kinds}
    return tuple(dict.fromkeys(lines))


def check_fits(strategy: KnowledgeStrategy, models: Sequence[str], federation: Federation) -> None:
    """Refuse a strategy whose recipe the models or the data do not allow.

    Raises
    ------
    ConfigError
        Naming the model, or what the data lack.
    """
    recipe, title = strategy.settled_recipe, strategy.title
    shape, classes = federation.input_shape, federation.num_classes
    for model in dict.fromkeys(models):
        learner = make_learner(model, shape, classes)
        if refusal := learner.refuses(recipe):
            raise ConfigError(f"{title} cannot run on model {model!r}: {refusal}.")
        if refusal := refuses(recipe, learner, federation.client(0)):
            raise ConfigError(f"{title} cannot run on {federation.name}: {refusal}.")
    if federation.public_y is None and trains_on_public_labels(recipe):
        raise ConfigError(
            f"{title} trains on labels of the public set, and those of {federation.public_name} "
            "are unknown here; choose options without that step."
        )
    public = len(federation.public_x)
    if adapts(strategy) and public < LEAST_TARGET:
        raise ConfigError(
            f"{title} adapts to unlabelled samples and there are {public}; it needs at least "
            f"{LEAST_TARGET} (data.public_samples)."
        )


def check_budget(
    strategy: KnowledgeStrategy, federation: Federation, training: TrainingOptions
) -> None:
    """Refuse a step that says another private budget than the training that it names.

    Raises
    ------
    ConfigError
        Naming the step: training alone with the same budget follows ``as_train``.
    """
    recipe = strategy.settled_recipe
    sizes = len(federation.client(0).train), len(federation.public_x), training
    for step in (*recipe.start, *recipe.learn, *recipe.absorb):
        said, named = step.budget(*sizes), step.as_train()
        known = 0 if named is None else named.budget(*sizes)
        if said not in (0, known):
            raise ConfigError(
                f"{strategy.title}: step {type(step).__name__} says that it trains on {said} "
                f"private samples, and the Train of its as_train() on {known}; training alone "
                "follows the latter."
            )


def trains_on_public_labels(recipe: Recipe) -> bool:
    """Return whether a step trains on the labels of the public set."""
    steps = (step for step in trainings(recipe.steps) if step.on == "public")
    terms = [term for step in steps for _, term in weighted(step.terms)]
    return any(getattr(term, "needs_labels", False) for term in terms)


def adapts(strategy: KnowledgeStrategy) -> bool:
    """Return whether a method uses unlabelled samples that a target's are where there is one."""
    return strategy.needs_samples or strategy.settled_recipe.needs_public
