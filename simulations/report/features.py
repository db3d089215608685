"""Features of every domain under a model, before training and after.

``fedkt features RUN_DIR`` rebuilds a run's federation and models, takes the penultimate
features of held-out samples, and draws them in the plane. It looks at inputs only; labels
play no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fedkt.answers import finite
from fedkt.clients import TorchLearner
from fedkt.data.federation import Federation
from fedkt.errors import ConfigError, NotFiniteError, unknown
from fedkt.machine import one_thread
from fedkt.rng import derive, numpy_rng
from fedkt.simulations.engines.population import Population
from fedkt.simulations.report.drawing import (
    WIDTH,
    canvas,
    height_of,
    legend_below,
    legend_name,
    look_of,
)
from fedkt.simulations.results.checkpoints import CHECKPOINTS, newest
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.results.run_folder import CONFIG, is_run, read_settings
from fedkt.simulations.runs.content import check_content
from fedkt.simulations.runs.plan import Plan, prepare, strategy_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Method = Literal["pca", "tsne"]
SAMPLES = 200
"""Samples of each domain, at most."""


@dataclass(frozen=True)
class Panel:
    """Features of one model, in the plane.

    Parameters
    ----------
    title : str
        The name of the model.
    points : Mapping[str, ndarray]
        ``[n, 2]`` by domain; the same domains in the same order in all panels.
    """

    title: str
    points: Mapping[str, Array]


def feature_points(features: Array, method: str = "pca", seed: int = 0) -> Array:
    """Return features in the plane, ``[n, 2]``.

    Parameters
    ----------
    features : ndarray
        ``[n, d]``.
    method : {"pca", "tsne"}
        The first two principal components (a plain SVD; the sign of each is such that its
        largest loading is positive), or t-SNE, which keeps neighbourhoods and nothing else.
    seed : int
        For t-SNE.

    Returns
    -------
    ndarray
        float64 ``[n, 2]``; zeros for components that do not exist.

    Raises
    ------
    ConfigError
        For an unknown method, or fewer than two rows.
    """
    if method not in get_args(Method):
        raise unknown("method of features", method, get_args(Method))
    centred = np.asarray(features, np.float64)
    if len(centred) < 2:
        raise ConfigError("features: at least two samples are needed.")
    centred = centred - centred.mean(axis=0)
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(centred) - 1) / 3)
        state = derive(seed, "tsne") % 2**32
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=state)
        return np.asarray(tsne.fit_transform(centred), np.float64)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.where(axes[np.arange(len(axes)), largest] < 0, -1, 1)[:, None]
    points = centred @ axes.T
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def features_figure(
    before: Panel, after: Panel, png: Path, *, domain: str = "", method: str = "pca"
) -> Path:
    """Draw the features of two models side by side, coloured by domain.

    Parameters
    ----------
    before, after : Panel
        The same samples in both.
    png : Path
        The PNG file to write.
    domain : str
        The target domain among those of the panels, drawn as triangles; empty without one.
    method : {"pca", "tsne"}
        How the points were found, for the title.

    Returns
    -------
    Path
        The file.
    """
    names = [f"{name} (target)" if name == domain else name for name in before.points]
    with canvas(png, WIDTH, 0.6 + height_of(names)) as figure:
        for axes, panel in zip(figure.subplots(1, 2), (before, after), strict=True):
            for place, (name, points) in enumerate(panel.points.items()):
                aimed = name == domain
                axes.scatter(
                    points[:, 0],
                    points[:, 1],
                    s=22 if aimed else 14,
                    marker="^" if aimed else "o",
                    color=look_of(place, "", 1)["color"],
                    alpha=0.75 if aimed else 0.5,
                    linewidths=0,
                    zorder=3 if aimed else 2,
                    label=legend_name(names[place]),
                )
            axes.set_title(panel.title)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[["top", "right"]].set_visible(True)
        legend_below(figure)
        how = {"pca": "principal components", "tsne": "t-SNE"}[method]
        figure.suptitle(f"Features of held-out samples by domain ({how})")
    return png


def draw_features(folder: Path, method: str = "pca", samples: int = SAMPLES) -> Path:
    """Draw the features of a run's model before its first round and after its last checkpoint.

    Parameters
    ----------
    folder : Path
        The run directory.
    method : {"pca", "tsne"}
        See `feature_points`.
    samples : int
        Of each domain, at most.

    Returns
    -------
    Path
        ``figures/features.png`` in the folder.

    Raises
    ------
    ConfigError
        If it is no run directory or has no checkpoint, if its data or the user's files have
        changed, or if the model is no network with a linear layer.
    """
    if method not in get_args(Method):
        raise unknown("method of features", method, get_args(Method))
    if not is_run(folder):
        raise ConfigError(f"{folder} is not a run directory: it has no {CONFIG}.")
    plan = prepare(read_settings(folder / CONFIG)[0])
    check_content(folder, plan.content)
    done = len(read_rounds(folder))
    saved = newest(folder / CHECKPOINTS, at_most=done)
    if saved is None:
        raise ConfigError(f"{folder} has no checkpoint to take the model from.")
    seed = plan.experiment.seed
    chosen = domain_samples(plan.federation, samples, seed)
    with one_thread():
        learner, whose, load_trained = _models(plan, saved[1])
        first = _panel(learner, f"{whose}, before training", chosen, method, seed)
        load_trained()
        last = _panel(learner, f"{whose}, after round {saved[0]}", chosen, method, seed)
    aim = str(plan.federation.describe().get("target") or "")
    picture = folder / "figures" / "features.png"
    return features_figure(first, last, picture, domain=aim, method=method)


def domain_samples(federation: Federation, most: int, seed: int) -> dict[str, Tensor]:
    """Return held-out samples of every domain.

    Of a source domain those that its clients hold out for testing, of the target domain (last)
    the common test set. Where clients own no domains, each client stands for one.

    Parameters
    ----------
    federation : Federation
        The data.
    most : int
        How many of each, at most; drawn without replacement.
    seed : int
        Of the run.

    Returns
    -------
    dict[str, Tensor]
        float32 ``[n, ...]`` by domain; domains without samples are left out.
    """
    about = federation.describe()
    owned: Sequence[str] = about.get("domains") or [
        f"client {i}" for i in range(federation.num_clients)
    ]
    by_domain: dict[str, list[Tensor]] = {}
    for client, domain in enumerate(owned):
        by_domain.setdefault(domain, []).append(federation.client(client).test.x)
    common = federation.client(0).common_test
    if about.get("target") and common is not None:
        by_domain[str(about["target"])] = [common.x]
    chosen = {}
    for place, (domain, parts) in enumerate(by_domain.items()):
        every = torch.cat(parts)
        rng = numpy_rng(seed, "feature-samples", 0, place)
        rows = np.sort(rng.permutation(len(every))[:most])
        if len(rows):
            chosen[domain] = every[torch.from_numpy(rows)]
    if not chosen:
        raise ConfigError("features: no client holds out test samples (data.test_fraction = 0).")
    return chosen


def features_of(learner: TorchLearner, x: Tensor) -> Array:
    """Return the penultimate features of samples, ``[n, d]``, in evaluation mode.

    Raises
    ------
    ConfigError
        If the model has no linear layer whose input they could be, or if they are not finite.
    """
    try:
        features: Array = finite(learner.features(x), "samples' features").to(torch.float64).numpy()
    except NotFiniteError as error:
        raise ConfigError(f"features: {error}; there is nothing to draw.") from error
    return features


def _models(plan: Plan, state: Mapping[str, Any]) -> tuple[TorchLearner, str, Callable[[], None]]:
    """Return a learner with an untrained model, the model's title, and what loads it.

    The model is the server's where weights are exchanged, else client 0's.
    """
    population = Population(plan.population, plan.federation)
    name = plan.population.model_of(0)
    learner: TorchLearner | None = population.learner(name).as_network()
    if learner is None:
        raise ConfigError(f"features: model {name!r} of client 0 is no network and has none.")
    seed, strategy = plan.experiment.seed, strategy_of(plan)
    strategy.load_state_dict(state["strategy"])
    weights = strategy.server_weights() if plan.recipe.needs_one_architecture else None
    if weights is not None:
        population.initial_arrays(seed, plan.recipe)  # leaves the learner with them
        return learner, "Server's model", partial(learner.load_weights, weights)
    learner.reset(seed, 0)
    trained = state["clients"][0]["learner"]
    return learner, "Model of client 0", partial(learner.load_state, trained)


def _panel(
    learner: TorchLearner, title: str, chosen: Mapping[str, Tensor], method: str, seed: int
) -> Panel:
    features = {domain: features_of(learner, x) for domain, x in chosen.items()}
    points = feature_points(np.concatenate(list(features.values())), method, seed)
    ends = np.cumsum([len(rows) for rows in features.values()])[:-1]
    return Panel(title, dict(zip(features, np.split(points, ends), strict=True)))
