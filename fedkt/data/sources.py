"""Sources of data: registered functions, files, folders, the Hugging Face hub, Python objects.

Files and folders are read by the parts "readers", see :mod:`fedkt.data.readers`: ``.csv``,
``.parquet`` and folders of images, beside ``.npz``.

A file ``NAME.npz`` holds the arrays ``x_train``, ``y_train``, ``x_test``, ``y_test``, or ``x`` and
``y`` of which a fixed stratified 20 % is held out, and, if
known, the class names ``classes`` and, of a table, those of its columns ``columns`` (or
``features``). Images are ``[N, H, W]`` or ``[N, H, W, 3]``, feature vectors uint8 or float
``[N, d]``, token ids integers ``[N, L]``, series ``[N, T, C]`` or ``[N, T]`` where that is said
(``layout``), labels of any type. A set
that holds several domains says which row is of which in ``domain_train`` and ``domain_test``
(integers, then ``domain_names`` may name them, or strings). ``client_train`` and ``client_test``
say the same of natural clients, and stand for domains where there are none.
"""

from __future__ import annotations

import difflib
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedkt.data.dataset import Dataset, Unlabelled, complete, held_out, labelled, usable_alone
from fedkt.data.reading import Reader, Reading
from fedkt.errors import PYTHON, ConfigError, unknown
from fedkt.registry import lookup, names, register
from fedkt.text import raised

PLAIN = Reading()


def load_dataset(
    reference: str,
    data_dir: str | Path | None = None,
    seed: int = 0,
    layout: str = "",
    *,
    label: str = "",
    client: str = "",
    split: str = "",
) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    reference : str
        A registered name (``digits``), the name of an ``.npz`` file below ``data_dir``
        (``mnist``, ``digits5/usps``), the path of a file (``.csv``, ``.parquet``, ``.npz``) or of
        a folder of images, ``hub:OWNER/NAME`` for the Hugging Face hub, or
        ``path/to/file.py:function``. Functions take no argument or one called ``seed``, and
        return a :class:`Dataset` or what :func:`dataset_of` takes.
    data_dir : str or Path, optional
        The folder with ``.npz`` files.
    seed : int
        For functions with a ``seed`` argument.
    layout : str
        What the axes mean, see :class:`Dataset`; empty: as the set says.
    label, client, split : str
        The columns of a table with the labels, the natural clients and the parts; see
        :class:`fedkt.data.reading.Reading`.

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
    reading = Reading("", label, client, split, layout, needs_labels=True)
    return complete(labelled(open_dataset(reference, data_dir, seed, reading)))


def open_dataset(
    reference: str, data_dir: str | Path | None = None, seed: int = 0, reading: Reading = PLAIN
) -> Dataset | Unlabelled:
    """Return a data set as :func:`load_dataset` does, missing values (NaN) and labels included."""
    return usable_alone(_opened(reference, data_dir, seed, reading))


def _opened(
    reference: str, data_dir: str | Path | None, seed: int, reading: Reading
) -> Dataset | Unlabelled:
    if reference.startswith("hub:"):
        from fedkt.data.hub import load_from_hub

        splits = load_from_hub(reference.removeprefix("hub:"))
        return _read(splits, replace(reading, name=reference))
    if _is_function(reference):
        return _from_function(reference, seed, reading)
    if file := npz_file(reference, data_dir):
        return _read(file, replace(reading, name=reference.removesuffix(".npz")))
    if path := data_path(reference, data_dir):
        return _read(path, replace(reading, name=path.name.partition(".")[0] or path.name))
    raise _no_such_set(reference, data_dir)


def dataset_of(
    value: Any,
    name: str,
    *,
    label: str = "",
    client: str = "",
    split: str = "",
    layout: str = "",
    input_shape: tuple[int, ...] = (),
    needs_labels: bool = False,
) -> Dataset | Unlabelled:
    """Return an object of Python as a data set, or as inputs alone where it has no labels.

    Parameters
    ----------
    value : object
        A :class:`Dataset`, ``(X, y)`` arrays, a pandas frame, a data set of torch or of Hugging
        Face, a dictionary of arrays, the path of a file or folder, or a reference as text.
    name : str
        What it is called.
    label, client, split, layout, input_shape, needs_labels
        See :class:`fedkt.data.reading.Reading`.

    Raises
    ------
    ConfigError
        If nothing reads such an object, or what reads it refuses it.
    """
    reading = Reading(name, label, client, split, layout, input_shape, needs_labels)
    is_reference = isinstance(value, str) and not _taking(value)
    return _opened(value, None, 0, reading) if is_reference else _read(value, reading)


def _read(source: Any, reading: Reading) -> Dataset | Unlabelled:
    """Return what the reader that takes a source makes of it; a user's comes first."""
    taking = _taking(source)
    if not taking:
        raise ConfigError(
            f"{reading.name} is a {type(source).__name__}, which no reader takes; there are "
            f"readers for {', '.join(names('readers'))}."
        )
    data: Dataset | Unlabelled = taking[0].read(source, reading)
    return data


def _taking(source: Any) -> list[type[Reader]]:
    """Return the readers that take a source, those of fedkt last."""
    readers = [lookup("readers", name) for name in names("readers")]
    taking = [reader for reader in readers if reader.takes(source)]
    return sorted(taking, key=lambda reader: reader.__module__.startswith("fedkt.data."))


def _no_such_set(reference: str, data_dir: str | Path | None) -> ConfigError:
    """Return the error for a reference that names nothing, with what is there."""
    if _taking(Path(reference)) or Path(reference).is_absolute():
        return ConfigError(f"No such file or folder: {reference}.")
    if data_dir is None:
        message = str(unknown("data set", reference, names("datasets")))
        return ConfigError(f"{message} For a file {reference}.npz say where it is: --data-dir DIR.")
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        return ConfigError(f"The data folder {str(data_dir)!r} is not a folder.")
    stored = sorted(f.relative_to(folder).with_suffix("").as_posix() for f in folder.rglob("*.npz"))
    near = difflib.get_close_matches(reference, [*names("datasets"), *stored], n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    files = ", ".join(f"{name}.npz" for name in stored) or "no .npz files"
    return ConfigError(
        f"Unknown data set {reference!r}.{hint} Registered: {', '.join(names('datasets'))}. "
        f"{folder} holds {files}."
    )


def is_dataset(reference: str, data_dir: str | Path | None = None) -> bool:
    """Return whether a reference is a data set as it stands, without loading it."""
    if reference.startswith(("hub:", PYTHON)) or reference in names("datasets"):
        return True
    _, is_python, attribute = reference.rpartition(".py:")
    if is_python:
        return "/" not in attribute
    return bool(npz_file(reference, data_dir) or data_path(reference, data_dir))


def npz_file(reference: str, data_dir: str | Path | None) -> Path | None:
    """Return the ``.npz`` file below ``data_dir`` that a reference names; None without one."""
    if data_dir is None or reference.startswith("hub:") or _is_function(reference):
        return None
    file = Path(data_dir).expanduser() / f"{reference.removesuffix('.npz')}.npz"
    return file if file.is_file() else None


def data_path(reference: str, data_dir: str | Path | None = None) -> Path | None:
    """Return the file or folder of data that a reference is the path of; None for no such path.

    It is looked for where the process runs, then below ``data_dir``.
    """
    if reference.startswith("hub:") or _is_function(reference):
        return None
    folders = [Path(), *([Path(data_dir).expanduser()] if data_dir else [])]
    paths = [folder / Path(reference).expanduser() for folder in folders]
    return next((path for path in paths if path.exists() and _taking(path)), None)


def _is_function(reference: str) -> bool:
    in_python = ".py:" in reference or reference.endswith(".py") or reference.startswith(PYTHON)
    return in_python or reference in names("datasets")


@register(part="datasets")
def digits() -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels, embedded in scikit-learn; needs no network.

    float32 images from 0 to 16. There is no official split: the test part is a fixed
    stratified 20 % (359 samples), the same for every seed.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return held_out("digits", bunch.images.astype(np.float32), bunch.target)


def _from_function(reference: str, seed: int, reading: Reading) -> Dataset | Unlabelled:
    function = lookup("datasets", reference)
    data, name = function, reference.rpartition(":")[2]
    if callable(function):
        takes_seed = "seed" in inspect.signature(function).parameters
        try:
            data = function(seed=seed) if takes_seed else function()
        except ConfigError:
            raise
        except Exception as error:  # a user's code may raise anything
            raise ConfigError(f"Data set {reference!r} cannot be made: {raised(error)}.") from error
    return _read(data, replace(reading, name=name))
