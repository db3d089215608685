"""The objects of a Python session that a run uses, kept beside its results for later sessions."""

from __future__ import annotations

import pickle
from pathlib import Path

from fedkt.by_value import carried
from fedkt.disk import replacing
from fedkt.errors import ConfigError
from fedkt.simulations.runs.content import parts_of, without_data
from fedkt.simulations.runs.plan import Plan
from fedkt.text import raised

OBJECTS = "objects.pkl"


def keep_objects(folder: Path, plan: Plan) -> None:
    """Write the session's parts of a run by value, if it has any; its data sets are not kept.

    What no pickle can hold is not kept either: a later session has to pass it again.
    """
    if not plan.objects:
        return
    try:
        blob = pickle.dumps(carried(without_data(parts_of(plan.experiment, plan.recipe))))
    except ConfigError:
        return
    with replacing(folder / OBJECTS) as path:
        path.write_bytes(blob)


def restore_objects(folder: Path) -> None:
    """Make the objects that a run kept known in this session; this runs their code.

    Raises
    ------
    ConfigError
        If they cannot be read, as with another version of Python.
    """
    path = folder / OBJECTS
    if not path.is_file():
        return
    try:
        pickle.loads(path.read_bytes())
    except Exception as error:  # of whatever the pickle holds
        raise ConfigError(
            f"{path} cannot be read here: {raised(error)}. Pass the objects to an Experiment again."
        ) from error
