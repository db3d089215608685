"""A client as its run left it: its model, and its answers to new samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkt import registry
from fedkt.clients.learners.base import Learner
from fedkt.clients.learners.making import make_learner
from fedkt.clients.personal_answer import predict_from
from fedkt.data.preprocessing import Preprocessing, prepared_rows
from fedkt.data.priors import empirical_bayes_prior
from fedkt.disk import writing
from fedkt.errors import ConfigError, without_digest
from fedkt.machine import one_thread
from fedkt.simulations.results.checkpoints import CHECKPOINTS, newest
from fedkt.simulations.results.run_folder import CONFIG, Run, read_content, read_settings
from fedkt.simulations.runs.session_objects import restore_objects
from fedkt.strategies.construction import make_strategy

SUFFIXES = ".safetensors", ".joblib"


@dataclass(frozen=True, repr=False, eq=False)
class TrainedClient:
    """A client as its run left it.

    Parameters
    ----------
    number : int
        The client.
    round : int
        The round after which its model is as it is here.
    classes : tuple[str, ...]
        The class names, in the order of the logits.
    architecture : str
        The reference of its model.
    learner : Learner
        Loaded with the client's state.
    """

    number: int
    round: int
    classes: tuple[str, ...]
    architecture: str
    learner: Learner
    _state: Mapping[str, Any] = field(default_factory=dict)
    _log_prior: Tensor = field(default_factory=lambda: torch.empty(0))
    _input_shape: tuple[int, ...] = ()
    _preprocessing: Preprocessing = field(default_factory=dict)
    _world: str = "model"

    def predict(self, x: Any, readout: str = "personal", prepared: bool = False) -> Tensor:
        """Return the logits of new samples, float32 ``[n, C]``.

        Parameters
        ----------
        x : array or pandas.DataFrame
            Samples in the form of the data that the experiment was given, ``[n, ...]``; what was
            done to those is done to them, see :func:`fedkt.data.preprocessing.prepared_rows`.
        readout : {"personal", "global"}
            For the client's own distribution of classes, or for all classes alike.
        prepared : bool
            Whether they are as models see them already, as those of a `Federation`.

        Raises
        ------
        ConfigError
            If the samples have another shape than those of training, or the read-out is unknown.
        """
        done = self._preprocessing  # nothing at a node, whose own code did it
        samples = torch.as_tensor(
            prepared_rows(x, done) if done and not prepared else np.asarray(x)
        )
        if tuple(samples.shape[1:]) != self._input_shape:
            raise ConfigError(
                f"samples have shape {list(samples.shape[1:])}; the model was trained on "
                f"{list(self._input_shape)}."
            )
        if samples.is_floating_point():
            samples = samples.float()
        with one_thread():
            how = self._log_prior, samples, readout, self._world
            return predict_from(dict(self._state), self.learner, *how)

    def classify(
        self, x: Any, readout: str = "personal", prepared: bool = False
    ) -> NDArray[np.str_]:
        """Return the names of the most probable classes, strings ``[n]``; see `predict`."""
        names: NDArray[np.str_] = np.array(self.classes)
        chosen: NDArray[np.str_] = names[self.predict(x, readout, prepared).argmax(-1).numpy()]
        return chosen

    def model(self) -> Any:
        """Return a copy of the model: a torch module in evaluation mode, or an estimator."""
        self.learner.load_state(self._state["learner"])
        return self.learner.fitted()

    def save(self, file: str | Path) -> Path:
        """Write the model to a file and return its path.

        Parameters
        ----------
        file : str or Path
            ``.safetensors`` for the weights of a network, ``.joblib`` for an estimator.

        Raises
        ------
        ConfigError
            If the file's name does not fit the model, or it cannot be written.
        """
        path, model = Path(file), self.model()
        suffix = SUFFIXES[0] if self.learner.is_network else SUFFIXES[1]
        if path.suffix != suffix:
            raise ConfigError(
                f"{path}: the model {without_digest(self.architecture)} is saved as *{suffix}."
            )
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.learner.is_network:
                from safetensors.torch import save_model

                about = {"classes": "\n".join(self.classes), "model": self.architecture}
                save_model(model, str(path), metadata=about)
            else:
                import joblib

                joblib.dump(model, path)
        return path

    def __repr__(self) -> str:
        name = without_digest(self.architecture)
        return f"<fedkt client {self.number}: {name} after round {self.round}>"


def trained_client(run: Run, number: int) -> TrainedClient:
    """Return a client of a run as its last checkpoint has it.

    Raises
    ------
    ConfigError
        If there is no such client or checkpoint, or a file of the user's that the run used has
        changed since.
    """
    about = run.federation
    if about.get("deployed"):
        raise ConfigError(
            f"{run.path} is a run over a network, and the clients' models stay at their nodes: "
            "fedkt.deploy.model(state_dir) there."
        )
    if not 0 <= number < about["clients"]:
        raise ConfigError(f"There is no client {number}; there are 0 to {about['clients'] - 1}.")
    saved = newest(run.path / CHECKPOINTS, at_most=len(run.rounds))
    if saved is None:
        raise ConfigError(f"{run.path} has no checkpoint to take models from.")
    round_, state = saved
    if number not in state["clients"]:
        raise ConfigError(f"client {number} never took part in {run.path}; it has no model.")
    experiment, _ = read_settings(run.path / CONFIG)
    restore_objects(run.path)
    for file, digest in (read_content(run.path) or {}).get("files", {}).items():
        registry.load_file(file, digest)
    reference, shape = about["models"][number], tuple(about["input_shape"])
    learner = make_learner(reference, shape, len(about["classes"]))
    recipe = make_strategy(experiment.strategy).settled_recipe
    learner.follow(recipe)
    client = state["clients"][number]
    learner.load_state(client["learner"])
    prior = empirical_bayes_prior(torch.tensor(about["label_counts"][number])).log()
    classes = tuple(about["classes"])
    done = about["preprocessing"]
    done = done[about["domains"][number]] if "domains" in about else next(iter(done.values()))
    how = client, prior, shape, done, recipe.world
    return TrainedClient(number, round_, classes, reference, learner, *how)
