"""Image data sets from the Hugging Face hub."""

from __future__ import annotations

import os
import re
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

from fedkt.data.dataset import Dataset, held_out
from fedkt.data.splits import Array
from fedkt.errors import ConfigError
from fedkt.text import reason_of

NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
TEST_SPLITS = ("test", "validation", "valid")
SECONDS_TO_CONNECT = 5.0


def load_from_hub(name: str) -> Dataset:
    """Download an image classification set, or take it from the library's cache.

    The image and label columns are found by their feature types. The ``test`` split is the
    test part, else the validation split, else a fixed stratified 20 %.

    Parameters
    ----------
    name : str
        ``OWNER/NAME`` as on the hub.

    Returns
    -------
    Dataset
        Named ``hub:OWNER/NAME``; grey if all images are, else RGB.

    Raises
    ------
    ConfigError
        If there is no network, no such set, or no usable image and label columns.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"'hub:{name}' is no data set of the hub: write hub:OWNER/NAME.")
    splits = _download(name)
    if "train" not in splits:
        raise ConfigError(f"hub:{name} has no 'train' split, only {', '.join(splits)}.")
    image, label = _columns(name, splits["train"].features)
    classes = tuple(splits["train"].features[label].names)
    x, y = _arrays(name, splits["train"], image, label)
    test = next((s for s in TEST_SPLITS if s in splits), None)
    if test is None:
        return held_out(f"hub:{name}", x, y, classes)
    x_test, y_test = _arrays(name, splits[test], image, label, grey=x.ndim == 3)
    return Dataset(f"hub:{name}", x, y, x_test, y_test, classes)


def _download(name: str) -> Any:
    # The library itself would try for half a minute and fill the screen.
    if not _reachable():
        raise ConfigError(
            f"hub:{name} needs a network and the hub cannot be reached; set HF_HUB_OFFLINE=1 to "
            "use a copy downloaded earlier, or take 'digits' or an .npz file with --data-dir."
        )
    import datasets  # a dependency of flwr-datasets; slow to import

    try:
        return datasets.load_dataset(name)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise ConfigError(f"The hub has no public data set {name!r}.") from error
    except OSError as error:  # ConnectionError among them
        raise ConfigError(f"hub:{name} cannot be downloaded: {reason_of(error)}.") from error
    except Exception as error:  # the library and its HTTP client raise many kinds
        raise ConfigError(
            f"hub:{name} cannot be loaded: {type(error).__name__}: {reason_of(error)}."
        ) from error


def _reachable() -> bool:
    if os.environ.get("HF_HUB_OFFLINE") or getproxies():
        return True  # offline, or a proxy decides
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        host = (address.hostname or "", address.port or 443)
        socket.create_connection(host, SECONDS_TO_CONNECT).close()
    except OSError:
        return False
    return True


def _columns(name: str, features: Any) -> tuple[str, str]:
    columns = []
    for kind in ("Image", "ClassLabel"):
        column = next((c for c, f in features.items() if type(f).__name__ == kind), None)
        if column is None:
            kinds = ", ".join(f"{c} ({type(f).__name__})" for c, f in features.items())
            raise ConfigError(f"hub:{name} has no column of type {kind}; it has {kinds}.")
        columns.append(column)
    return columns[0], columns[1]


def _arrays(
    name: str, split: Any, image: str, label: str, grey: bool | None = None
) -> tuple[Array, Array]:
    images = list(split[image])
    if grey is None:
        grey = all(i.mode in ("1", "L") for i in images)
    pixels = [np.asarray(i.convert("L" if grey else "RGB")) for i in images]
    shapes = {p.shape[:2] for p in pixels}
    if len(shapes) > 1:
        raise ConfigError(
            f"hub:{name} holds images of {len(shapes)} different sizes; all must have one size."
        )
    labels = np.asarray(split[label])
    if (labels < 0).any():  # the library's mark for "not labelled"
        raise ConfigError(f"hub:{name} holds {int((labels < 0).sum())} samples without a label.")
    return np.stack(pixels), labels
