"""Data sets from the Hugging Face hub."""

from __future__ import annotations

import os
import re
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from fedkt.errors import ConfigError
from fedkt.text import reason_of

NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
SECONDS_TO_CONNECT = 5.0


def load_from_hub(name: str) -> Any:
    """Return a set of the hub, downloaded or from the library's cache: its splits by name.

    Parameters
    ----------
    name : str
        ``OWNER/NAME`` as on the hub.

    Raises
    ------
    ConfigError
        If there is no network or no such set.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"'hub:{name}' is no data set of the hub: write hub:OWNER/NAME.")
    return _download(name)


def _download(name: str) -> Any:
    # The library itself would try for half a minute and fill the screen.
    if not reachable():
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


def reachable() -> bool:
    """Return whether the hub answers, or what it holds is to be taken from this machine."""
    if os.environ.get("HF_HUB_OFFLINE") or getproxies():
        return True  # offline, or a proxy decides
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        host = (address.hostname or "", address.port or 443)
        socket.create_connection(host, SECONDS_TO_CONNECT).close()
    except OSError:
        return False
    return True
