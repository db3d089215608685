"""Sources of data: registered functions, ``.npz`` files, the Hugging Face hub.

A file ``NAME.npz`` holds the arrays ``x_train``, ``y_train``, ``x_test``, ``y_test`` and, if
known, the class names ``classes`` and, of a table, those of its columns ``columns`` (or
``features``). Images are uint8 or float ``[N, H, W]`` or
``[N, H, W, 3]``, feature vectors uint8 or float ``[N, d]``, series ``[N, T, C]`` or ``[N, T]``
where that is said (``layout``), labels integers from 0. A set
that holds several domains says which row is of which in ``domain_train`` and ``domain_test``
(integers, then ``domain_names`` may name them, or strings); ``client_*`` means the same.
"""

from __future__ import annotations

import difflib
import inspect
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedkt.data.dataset import Dataset, Unlabelled, complete, held_out, labelled, laid_out
from fedkt.data.splits import Array
from fedkt.errors import ConfigError, of_class, unknown
from fedkt.registry import PYTHON, lookup, names, register
from fedkt.text import raised, reason_of

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
COLUMNS = ("domain", "client")  # what a domain column is called, the first found counts
NAMED_COLUMNS = ("columns", "features")  # what the names of a table's columns are called, likewise


def load_dataset(
    reference: str, data_dir: str | Path | None = None, seed: int = 0, layout: str = ""
) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    reference : str
        A registered name (``digits``), the name of an ``.npz`` file below ``data_dir``
        (``mnist``, ``digits5/usps``), ``hub:OWNER/NAME`` for the Hugging Face hub, or
        ``path/to/file.py:function``. Functions return a :class:`Dataset` and take no
        argument or one called ``seed``.
    data_dir : str or Path, optional
        The folder with ``.npz`` files.
    seed : int
        For functions with a ``seed`` argument.
    layout : str
        What the axes mean, see :class:`Dataset`; empty: as the set says.

    Returns
    -------
    Dataset
        Checked.

    Raises
    ------
    ConfigError
        If there is no such set or its content is not usable as it is stored: feature vectors
        must have no missing values.
    """
    return complete(labelled(open_dataset(reference, data_dir, seed, layout)))


def open_dataset(
    reference: str, data_dir: str | Path | None = None, seed: int = 0, layout: str = ""
) -> Dataset | Unlabelled:
    """Return a data set as :func:`load_dataset` does, missing values (NaN) and labels included."""
    if reference.startswith("hub:"):
        from fedkt.data.hub import load_from_hub

        return laid_out(load_from_hub(reference.removeprefix("hub:")), layout)
    if _is_function(reference):
        return laid_out(_from_function(reference, seed), layout)
    if data_dir is None:
        message = str(unknown("data set", reference, names("datasets")))
        raise ConfigError(f"{message} For a file {reference}.npz say where it is: --data-dir DIR.")
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"The data folder {str(data_dir)!r} is not a folder.")
    if file := npz_file(reference, data_dir):
        return load_npz(file, reference.removesuffix(".npz"), layout)
    stored = sorted(f.relative_to(folder).with_suffix("").as_posix() for f in folder.rglob("*.npz"))
    near = difflib.get_close_matches(reference, [*names("datasets"), *stored], n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    files = ", ".join(f"{name}.npz" for name in stored) or "no .npz files"
    raise ConfigError(
        f"Unknown data set {reference!r}.{hint} Registered: {', '.join(names('datasets'))}. "
        f"{folder} holds {files}."
    )


def load_npz(file: Path, name: str, layout: str = "") -> Dataset:
    """Load a data set from an ``.npz`` file in the format of this module.

    Raises
    ------
    ConfigError
        If the file is corrupt, misses an array or holds unusable ones.
    """
    try:
        # Pickles are refused: they could run code.
        with np.load(file, allow_pickle=False) as archive:
            missing = [key for key in ARRAYS if key not in archive]
            if missing:
                names = ", ".join(archive.files) or "nothing"
                raise ConfigError(
                    f"{file}: no array {missing[0]!r} (it holds {names}); {', '.join(ARRAYS)} are "
                    "needed."
                )
            arrays: dict[str, Any] = {key: archive[key] for key in ARRAYS}
            if "classes" in archive:
                arrays["classes"] = tuple(str(c) for c in np.atleast_1d(archive["classes"]))
            named = [archive[key] for key in NAMED_COLUMNS if key in archive]
            arrays["columns"] = next((tuple(n.tolist()) for n in named if n.dtype.kind == "U"), ())
            arrays |= _domain_column(archive) | _client_column(archive)
    except ConfigError:
        raise
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        reason = reason_of(error)
        raise ConfigError(f"{file} is not a readable .npz file: {reason}.") from error
    try:
        return Dataset(name, layout=layout, **arrays)
    except ConfigError as error:
        raise ConfigError(f"{file}: {str(error).removeprefix(f'{name}: ')}") from error


def is_dataset(reference: str, data_dir: str | Path | None = None) -> bool:
    """Return whether a reference is a data set as it stands, without loading it."""
    if reference.startswith(("hub:", PYTHON)) or reference in names("datasets"):
        return True
    _, is_python, attribute = reference.rpartition(".py:")
    if is_python:
        return "/" not in attribute
    return npz_file(reference, data_dir) is not None


def npz_file(reference: str, data_dir: str | Path | None) -> Path | None:
    """Return the file that a reference names; None if it names a function or there is none."""
    if data_dir is None or not reference or _is_function(reference):
        return None
    file = Path(data_dir).expanduser() / f"{reference.removesuffix('.npz')}.npz"
    return file if file.is_file() else None


def _is_function(reference: str) -> bool:
    in_python = ".py:" in reference or reference.endswith(".py") or reference.startswith(PYTHON)
    return in_python or reference in names("datasets")


def _domain_column(archive: Mapping[str, Array]) -> dict[str, Any]:
    for kind in COLUMNS:
        if f"{kind}_train" in archive and f"{kind}_test" in archive:
            named = np.atleast_1d(archive[f"{kind}_names"]) if f"{kind}_names" in archive else ()
            return {
                "domain_train": archive[f"{kind}_train"],
                "domain_test": archive[f"{kind}_test"],
                "domain_names": tuple(str(name) for name in named),
            }
    return {}


def _client_column(archive: Mapping[str, Array]) -> dict[str, Any]:
    keys = ("client_train", "client_test")
    return {key: archive[key] for key in keys} if all(key in archive for key in keys) else {}


@register(part="datasets")
def digits() -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels, embedded in scikit-learn; needs no network.

    float32 images from 0 to 16. There is no official split: the test part is a fixed
    stratified 20 % (359 samples), the same for every seed.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return held_out("digits", bunch.images.astype(np.float32), bunch.target)


def _from_function(reference: str, seed: int) -> Dataset | Unlabelled:
    function = lookup("datasets", reference)
    if not callable(function):
        raise ConfigError(f"Data set {reference!r} is not a function that returns a Dataset.")
    takes_seed = "seed" in inspect.signature(function).parameters
    try:
        dataset = function(seed=seed) if takes_seed else function()
    except ConfigError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(f"Data set {reference!r} cannot be made: {raised(error)}.") from error
    if isinstance(dataset, Unlabelled):
        return dataset
    kind = type(dataset).__name__
    line = f"Data set {reference!r} returns {kind}, not a fedkt.data.Dataset."
    return of_class(dataset, Dataset, line)
