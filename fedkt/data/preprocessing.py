"""The preprocessing of a federation as plain data, and rows of users brought to what models see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fedkt.data.dataset import Dataset, Unlabelled
from fedkt.data.encoding import encoded, inputs_of
from fedkt.data.inputs import fit_input
from fedkt.data.readers.data_frames import FrameReader
from fedkt.data.readers.plain_arrays import array_of
from fedkt.data.readers.token_rows import IDS, tokens_of
from fedkt.data.scaling import Statistics, model_inputs, on_scale
from fedkt.data.splits import Array
from fedkt.data.tokens import pack_tokens
from fedkt.data.vectors import with_features
from fedkt.errors import ConfigError, unknown

if TYPE_CHECKING:
    import pandas as pd

# What was done to the inputs of a data set, as values that JSON knows: ``layout``, ``columns``,
# ``encoding``, ``features``, ``input_shape`` and ``scale``, in the words of their modules.
Preprocessing = Mapping[str, Any]
ROWS = "the input"


def preprocessing_of(dataset: Dataset, features: str, scale: Statistics) -> Preprocessing:
    """Return what was done to the inputs of a data set.

    Parameters
    ----------
    dataset : Dataset
        In the shape that models see.
    features : str
        The form of feature vectors; see :func:`fedkt.data.vectors.with_features`.
    scale : Mapping
        See :func:`fedkt.data.scaling.fitted_scale`.
    """
    return {
        "layout": dataset.layout,
        "columns": list(dataset.columns),
        "encoding": dict(dataset.encoding),
        "features": features,
        "input_shape": list(dataset.input_shape),
        "scale": dict(scale),
    }


def prepared_rows(raw: Any, preprocessing: Preprocessing) -> Array:
    """Return rows as users have them in the form that models see.

    Parameters
    ----------
    raw : array-like or pandas.DataFrame
        ``[N, ...]``, in the form of the data that the federation was built from: a frame with the
        columns of the table (others are left out), images, series, vectors or token ids; of these
        also a frame with the column ``input_ids``.
    preprocessing : Mapping
        Of a client, see :meth:`fedkt.data.store.Federation.preprocessing_of`.

    Returns
    -------
    ndarray
        float32 ``[N, *input_shape]``, of token ids int64 ``[N, L]``. What the clients' own samples
        became, bit for bit; images of another size than the first up to rounding.

    Raises
    ------
    ConfigError
        If the rows do not have the form, or a column is not there.
    """
    shape = tuple(preprocessing["input_shape"])
    if preprocessing["layout"] == "tokens":
        return _tokens(raw, shape[0])
    if preprocessing["encoding"] and not FrameReader.takes(raw):
        raw = _as_frame(array_of(raw), preprocessing["encoding"])
    x = _vectors_of(raw, preprocessing) if FrameReader.takes(raw) else array_of(raw)
    rows = Unlabelled(ROWS, x, preprocessing["layout"])
    rows = fit_input(with_features(rows, preprocessing["features"]), shape)
    return model_inputs(on_scale(rows.x, preprocessing["scale"]), shape)


def _tokens(raw: Any, length: int) -> Array:
    """Return token ids, int64 ``[N, L]``; those of a table are padded as in its reading."""
    is_table = FrameReader.takes(raw) and IDS in raw
    x = Unlabelled(ROWS, tokens_of(raw, ROWS) if is_table else array_of(raw), "tokens").x
    missing = length - x.shape[1]
    if missing < 0 or (missing and not is_table):
        raise ConfigError(f"{ROWS} has {x.shape[1]} token ids in a row; the model has {length}.")
    padding = np.zeros((len(x), missing), np.int64)
    return np.concatenate([x, pack_tokens(padding, padding)], axis=1)


def _vectors_of(frame: pd.DataFrame, preprocessing: Preprocessing) -> Array:
    """Return the rows of a table as vectors, float32 ``[N, d]``."""
    if preprocessing["encoding"]:
        return encoded(frame, preprocessing["encoding"], ROWS)
    known = {str(name): name for name in frame.columns}
    for column in preprocessing["columns"]:
        if column not in known:
            raise unknown(f"column of {ROWS}", column, known)
    chosen = [known[column] for column in preprocessing["columns"]] or list(frame.columns)
    return cast(Array, frame[chosen].to_numpy())


def _as_frame(x: Array, encoding: Mapping[str, Any]) -> pd.DataFrame:
    """Return an array as a table with the columns of an encoding, in their order."""
    import pandas as pd

    names = [column["name"] for column in inputs_of(encoding)]
    if x.ndim != 2 or x.shape[1] != len(names):
        raise ConfigError(
            f"{ROWS.capitalize()} has shape {list(x.shape)}; the table has the columns "
            f"{', '.join(names)}."
        )
    return pd.DataFrame(x, columns=names)
