"""The answers of a run's clients at its end, kept on request: their file and its one reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkt.disk import replacing
from fedkt.errors import ConfigError
from fedkt.text import one_line

PREDICTIONS = "predictions.npz"


@dataclass(frozen=True, eq=False)
class Predictions:
    """The answers of a client to labelled samples.

    Parameters
    ----------
    logits : ndarray
        float32 ``[n, C]``.
    labels : ndarray
        int64 ``[n]``, the true classes.
    ids : ndarray
        int64 ``[n]``, the ids of the samples.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]


def read_predictions(folder: str | Path) -> dict[int, dict[str, Predictions]]:
    """Return the answers that a run has kept, by client and by what is measured on them.

    Parameters
    ----------
    folder : str or Path
        The run directory.

    Returns
    -------
    dict[int, dict[str, Predictions]]
        Of each client that took part ``"personalised"``, ``"global"`` and ``"validation"``: the
        answers of these figures in the last round, those that there are samples for.

    Raises
    ------
    ConfigError
        If the run has kept none, or the file is damaged.
    """
    path = Path(folder) / PREDICTIONS
    if not path.is_file():
        raise ConfigError(f"{folder} has no {PREDICTIONS}: run with run.keep_predictions = true.")
    found: dict[int, dict[str, dict[str, Any]]] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                client, on, part = name.split("/")
                found.setdefault(int(client), {}).setdefault(on, {})[part] = arrays[name]
        return {
            client: {on: Predictions(**parts) for on, parts in of_client.items()}
            for client, of_client in found.items()
        }
    except Exception as error:  # numpy and zipfile raise errors without a common base
        raise ConfigError(f"{path} is damaged: {one_line(error)}.") from error


def write_predictions(folder: Path, answers: Mapping[int, Mapping[str, Predictions]]) -> None:
    """Write the answers of a run's clients; see :func:`read_predictions`."""
    arrays = {
        f"{client}/{on}/{part}": array
        for client, of_client in answers.items()
        for on, predictions in of_client.items()
        for part, array in vars(predictions).items()
    }
    with replacing(folder / PREDICTIONS) as path, path.open("wb") as file:
        np.savez(file, **arrays)
