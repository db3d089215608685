"""A learner for any scikit-learn classifier with ``predict_proba``."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt import registry
from fedkt.answers import log_probabilities, probabilities_of, torch_softmax
from fedkt.clients.learners.base import Learner, Work
from fedkt.clients.learners.estimator_fit import (
    PROBABILITIES,
    Rows,
    WeightedFit,
    check_classifier,
    seeded,
    weighted_fit,
)
from fedkt.clients.learners.gaps import takes_gaps
from fedkt.clients.learners.private_samples import PrivateSamples
from fedkt.data.priors import empirical_bayes_prior
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives.supervised import floored
from fedkt.objectives.term import Target, target_of
from fedkt.recipe import Recipe, Train, trainings, weighted
from fedkt.registry import register
from fedkt.rng import derive
from fedkt.schedules import at

# Probability of a class that the classifier rules out, so that its logit stays finite.
FLOOR = 1e-4
# Target probabilities below this get no training row.
NEGLIGIBLE = 1e-2
FEW = 4  # numbers in a sample, where the shape is unknown


@register
class SklearnLearner(Learner):
    """A classifier with scikit-learn's interface as a learner; distillation is refitting.

    A classifier has no gradients, so the loss terms of a step are read by their meaning. A
    private step refits the classifier on the private data. A public step refits it on the
    private data and the public samples. Each public sample enters once for every class, with
    the target probability as its sample weight; probabilities below 1 % are left out. A classifier
    that takes no sample weights is fitted to rows drawn by weight, and ``notes`` say so. Absorbed
    targets are kept and take part in later private steps, as a network keeps in its weights
    what it has distilled. Epochs have no meaning here, and a step that would fit the same rows
    again does nothing. So from the second round on, answers on the public set come from a
    classifier fitted on the last targets for the same rows: they repeat those targets more than
    a network's answers do. A classifier has no temperature. Where a step compares answers
    softened by T (``KL(T)``), target probabilities are raised to the power T and normalised;
    a network's answers at T = 1 tend to the same.

    Its logits are log-probabilities, floored at log(1e-4). Under a recipe with the
    logit-adjusted cross-entropy they are corrected for the prior instead of being trained
    with it: the log of the class frequencies of the fitted rows, smoothed as in
    ``fedkt.data.priors``, is subtracted.

    Parameters
    ----------
    build : callable
        Returns a new, unfitted classifier.
    num_classes : int
        Number of classes of the task.
    name : str
        The classifier's name, for messages.
    device : str
        Has no effect: classifiers are fitted on the CPU.

    Raises
    ------
    ConfigError
        If the classifier has no ``predict_proba``.
    """

    name: ClassVar[str] = "scikit-learn"

    def __init__(
        self, build: Callable[[], Any], num_classes: int, name: str, device: str = "cpu"
    ) -> None:
        self._build, self.num_classes, self._name = build, num_classes, name
        self.architecture = f"{name}#scikit-learn"  # weights of classifiers are never averaged
        check_classifier(build(), name)
        self._classifier: Any = None
        self._classes = torch.zeros(0, dtype=torch.int64)  # of the fitted rows, ascending
        self._absorbed: dict[str, Tensor] = {}
        self._adjusted, self._floor = False, 0.0
        self._log_prior = torch.zeros(num_classes)  # of the fitted rows, if adjusted

    @staticmethod
    def takes(model: Any) -> bool:
        """Return whether the model is an estimator; one without probabilities is refused later."""
        if isinstance(model, type) or not hasattr(model, "fit"):
            return False
        # Of some, as a stack, objects have them only when fitted.
        return any(hasattr(m, a) for m in (model, type(model)) for a in ("predict", PROBABILITIES))

    def refuses(self, recipe: Recipe) -> str | None:
        """Return why the classifier cannot follow a recipe, in one line; None if it can."""
        if _exchanges_weights(recipe):
            return f"a scikit-learn model ({self._name}) has no weights to exchange"
        if recipe.heads:
            return f"a scikit-learn model ({self._name}) has no networks beside it"
        if recipe.personal.needs_features:
            name = registry.registered_name("readouts", type(recipe.personal))
            return f"a scikit-learn model ({self._name}) has no features for the read-out {name!r}"
        if any(share.kind == "weights" for share in recipe.remembered):
            return f"a scikit-learn model ({self._name}) has no weights to remember"
        for step in trainings(recipe.steps):
            drawn = step.samples and step.pace is None
            if step.beside or step.transforms or drawn or step.only or step.rate != 1:
                what = "align" if step.beside else "draw samples, change its inputs or train a part"
                return f"a scikit-learn model ({self._name}) cannot {what}: it is fitted at once"
            for _, term in weighted((*step.terms, *step.rehearse)):
                if target_of(term) is None:
                    name = registry.registered_name("objectives", type(term))
                    return f"a scikit-learn model ({self._name}) cannot train on {name!r}"
            if step.on == "private" and any(t.source is not None for t in _taught(step)):
                return (
                    f"a scikit-learn model ({self._name}) cannot distil on private data: it is "
                    "fitted to their labels"
                )
        return None

    def takes_gaps(self, x: Tensor) -> bool:
        """Return whether the classifier says that it takes missing values, or does when tried."""
        return takes_gaps(self._build, _flat(x))

    def follow(self, recipe: Recipe) -> None:
        """Do nothing: recipes with heads are refused."""

    def reset(self, seed: int, client: int) -> None:
        """Become the untrained classifier."""
        self._classifier, self._absorbed, self._adjusted = None, {}, False
        self._log_prior, self._floor = torch.zeros(self.num_classes), 0.0

    def train(self, step: Train, work: Work, stream: str) -> float | None:
        """Fit on the private data and the last public targets, unless already done; return None."""
        if step.is_idle:
            return None
        step = at(step, work.progress(0.0))
        if step.on == "public":
            if (targets := self._public_targets(step, work)) is not None:
                self._absorbed = targets
                self._refit(work, stream)
        elif self._classifier is None:
            adjusted = [target for target in _taught(step) if target.adjusted]
            self._adjusted = bool(adjusted)
            self._floor = max((target.floor for target in adjusted), default=0.0)
            self._refit(work, stream)
        return None

    def predict(self, x: Tensor, world: str = "model") -> Tensor:
        """Return log-probabilities ``[n, C]``, prior-corrected if so trained; uniform at first."""
        answers = np.full((len(x), self.num_classes), 1 / self.num_classes)
        if self._classifier is not None and len(x):
            answers = np.zeros_like(answers)
            columns = self._classes.numpy()[self._classifier.classes_.astype(int)]
            answers[:, columns] = self._classifier.predict_proba(_flat(x))
        answers = np.maximum(answers, FLOOR)
        answers = np.log(answers / answers.sum(1, keepdims=True))
        logits = torch.tensor(answers, dtype=torch.float32)
        return F.log_softmax(logits - self._log_prior, dim=-1) if self._adjusted else logits

    def features(self, x: Tensor) -> Tensor:
        """Refuse: there are no features."""
        raise ConfigError(f"model {self._name!r} has no features.")

    def adapt_norms(self, x: Tensor) -> None:
        """Do nothing: there is no batch normalisation."""

    def weights(self, local_norms: bool = False, of: str = "", but: str = "") -> Knowledge:
        """Refuse: there are no weights."""
        raise ConfigError(f"model {self._name!r} has no weights to share.")

    def load_weights(
        self, weights: Knowledge, of: str = "", rate: float = 1.0, moments: bool = False
    ) -> None:
        """Refuse: there are no weights."""
        raise ConfigError(f"model {self._name!r} cannot load weights.")

    def state(self) -> dict[str, Any]:
        """Return the fitted classifier (pickled; it never leaves the client) and its targets."""
        return {
            "classifier": pickle.dumps(self._classifier),
            "classes": self._classes,
            "absorbed": dict(self._absorbed),
            "adjusted": self._adjusted,
            "log_prior": self._log_prior,
            "floor": self._floor,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become the client that ``state`` describes."""
        self._classifier, self._classes = pickle.loads(state["classifier"]), state["classes"]
        self._absorbed = dict(state["absorbed"])
        self._adjusted, self._log_prior = state["adjusted"], state["log_prior"]
        self._floor = state["floor"]

    def fitted(self) -> Any:
        """Return a copy of the fitted classifier.

        Its classes are numbered without gaps: 0 is the smallest class number among the rows that
        it was fitted on.

        Raises
        ------
        ConfigError
            If it has not been fitted.
        """
        if self._classifier is None:
            raise ConfigError(f"model {self._name!r} of this client was never fitted.")
        return copy.deepcopy(self._classifier)

    def _public_targets(self, step: Train, work: Work) -> dict[str, Tensor] | None:
        """Return the ids and targets ``[M, C]`` of a public step; None if there are none yet."""
        names = [n for n in step.needs() if n in work.knowledge]
        public = work.data.public
        if public is None or (step.needs() and not names):
            return None
        if names:
            knowledge = work.knowledge[names[0]]
            assert knowledge.ids is not None
            return {"ids": knowledge.ids, "targets": _targets(knowledge, step)}
        if public.y is None:
            raise KnowledgeError("cross-entropy needs labels and this data has none")
        return {"ids": public.ids, "targets": F.one_hot(public.y, self.num_classes).float()}

    @property
    def follows_options(self) -> frozenset[str]:
        """The weights of classes, if its fit takes weights: else each private row counts once."""
        return frozenset() if self._fit.key is None else frozenset(("class_weights",))

    @property
    def notes(self) -> tuple[str, ...]:
        """How it is fitted, where that is not as its weights say."""
        if self._fit.key is not None:
            return ()
        return (
            f"{registry.plain_name(self._name)} takes no sample weights, so it is fitted to rows "
            "drawn by weight: to each public sample once, with a label drawn by its probabilities",
        )

    @cached_property
    def _fit(self) -> WeightedFit:
        return weighted_fit(self._build, math.prod(self.input_shape or (FEW,)))

    def _refit(self, work: Work, stream: str) -> None:
        from sklearn.dummy import DummyClassifier

        train = work.data.train
        assert train.y is not None
        private = PrivateSamples.of(work).weights
        x, y = [_flat(train.x)], [train.y.numpy()]
        weight = [np.ones(len(train)) if private is None else private.double().numpy()]
        sample = [np.arange(len(train))]
        if self._absorbed and work.data.public is not None:
            rows = work.data.public.at_ids(self._absorbed["ids"])
            targets = self._absorbed["targets"].numpy()
            row, label = np.nonzero(targets > NEGLIGIBLE)
            x.append(_flat(rows.x)[row])
            y.append(label)
            weight.append(targets[row, label])
            sample.append(len(train) + row)
        whole = Rows(*map(np.concatenate, (x, y, weight, sample)))
        if not len(whole.y):
            return
        fitted = self._fit.drawn(whole, work.seed, stream, work.round, work.client)
        # Numbered without gaps, which some classifiers refuse: few clients hold all classes.
        classes, encoded = np.unique(fitted.y, return_inverse=True)
        seed = derive(work.seed, f"fit/{stream}", work.round, work.client)
        if len(classes) > 1:
            self._classifier = self._fit.fitted(replace(fitted, y=encoded), seed)
        else:
            dummy = seeded(DummyClassifier(strategy="prior"), seed)
            self._classifier = dummy.fit(fitted.x, encoded, sample_weight=fitted.weight)
        self._classes = torch.from_numpy(classes)
        if self._adjusted:
            counts = np.bincount(fitted.y, weights=fitted.weight, minlength=self.num_classes)
            prior = empirical_bayes_prior(torch.tensor(counts))
            self._log_prior = floored(prior.log(), self._floor)


def _taught(step: Train) -> list[Target]:
    """Return what the terms of a step teach."""
    targets = (target_of(term) for _, term in weighted(step.terms))
    return [target for target in targets if target is not None]


def _flat(x: Tensor) -> Any:
    return x.flatten(1).numpy()


def _targets(knowledge: Knowledge, step: Train) -> Tensor:
    """Return probabilities at T = 1, ``[M, C]``, that meet the targets of a step at its T."""
    if knowledge.kind not in ("logits", "probabilities"):
        raise ConfigError(f"a scikit-learn model cannot absorb {knowledge.kind}.")
    temperature = next(t.temperature for t in _taught(step) if t.source is not None)
    if temperature == 1 or knowledge.kind == "logits":
        return probabilities_of(knowledge.values, knowledge.kind)
    return torch_softmax(temperature * log_probabilities(knowledge.values))


def _exchanges_weights(recipe: Recipe) -> bool:
    shared = any(share.kind == "weights" for share in recipe.share)
    return recipe.needs_one_architecture or shared or any(step.loads() for step in recipe.steps)
