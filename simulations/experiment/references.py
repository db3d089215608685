"""References in text: assignments, strategies, attacks and files as a user writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkt.calls import read_call, read_option, split
from fedkt.data.columns import ALL, base_of
from fedkt.data.sources import data_path, is_dataset, npz_file
from fedkt.errors import ConfigError

# The path in FILE.py:Class, by itself, in an option or in a chain.
FILE = re.compile(r"[^=(),+\"'\s][^=(),+\"']*\.py(?=:)")


def read_assignment(text: str) -> tuple[str, Any]:
    """Return key and value of ``--set key.path=value``; see ``fedkt.calls.read_value``."""
    try:
        return read_option(text)
    except ConfigError as error:
        raise ConfigError(f"--set {text!r}: write key.path=value.") from error


def read_strategy(reference: str) -> dict[str, Any]:
    """Return the strategy section of ``knfu`` or ``knfu(beta=2, temperature=3)``."""
    name, options = read_call(reference)
    return {"name": name, **options}


def read_entry(text: str) -> tuple[str | None, str]:
    """Return label and reference of ``LABEL = REFERENCE`` or ``REFERENCE``.

    The label ends at the first equals sign, if that comes before any parenthesis: in
    ``knfu(beta=2)`` there is none. A path is no label.

    Raises
    ------
    ConfigError
        If the label or the reference is empty.
    """
    label, equals, reference = text.partition("=")
    if not equals or "(" in label or "/" in label:
        return None, text.strip()
    if not label.strip() or not reference.strip():
        raise ConfigError(f"strategy {text!r}: write LABEL = NAME or LABEL = NAME(key=value).")
    if ")" in label:
        raise ConfigError(f"strategy {text!r}: a label has no parentheses.")
    return label.strip(), reference.strip()


def read_attack(reference: str) -> dict[str, Any] | None:
    """Return the attack section of ``wrong:3`` (kind:number of clients); None for ``none``.

    Raises
    ------
    ConfigError
        If there is no number of clients.
    """
    kind, colon, count = reference.strip().rpartition(":")
    if reference.strip() == "none":
        return None
    if not colon or not count.isdecimal():
        raise ConfigError(f"attack {reference!r}: write kind:how many clients, e.g. wrong:3.")
    return {"kind": kind, "clients": int(count)}


def split_references(text: str) -> list[str]:
    """Return the parts of ``a,b(x=1,y=2),c``, split at the commas outside parentheses."""
    return split(text, ",")


def absolute_data(reference: str, data_dir: str | None = None) -> str:
    """Return the reference of a data set as one that means the same from every folder."""
    base, _ = base_of(reference.removesuffix(ALL), data_dir)
    path = None if npz_file(base, data_dir) else data_path(base, data_dir)
    return absolute(reference) if path is None else f"{path.resolve()}{reference[len(base) :]}"


def absolute_target(target: str, domains: Sequence[str], data_dir: str | None = None) -> str:
    """Return the name of a target as one that means the same from every folder.

    It is a reference of one of the domains, which are absolute, or the last part of one.
    """
    whole = absolute_data(target, data_dir)
    stars = tuple(domain.removesuffix("*") for domain in domains if domain.endswith(ALL))
    return whole if whole in domains or whole.startswith(stars) else absolute(target)


def beside(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of a TOML file in which paths to what lies beside it are absolute.

    Paths in a TOML are relative to it. What is not there is looked for where the process runs.

    Parameters
    ----------
    values : Mapping[str, Any]
        The content of the file.
    folder : Path
        Where the file lies.
    """
    folder = folder.resolve()
    return {
        key: _data_beside(value, folder)
        if key == "data" and isinstance(value, Mapping)
        else _code_beside(value, folder)
        for key, value in values.items()
    }


def _code_beside(value: Any, folder: Path) -> Any:
    """Return a value in which each ``FILE.py:`` that is there is absolute."""
    if isinstance(value, Mapping):
        return beside(value, folder)
    if isinstance(value, list):
        return [_code_beside(entry, folder) for entry in value]
    if not isinstance(value, str):
        return value
    return FILE.sub(lambda path: _there(path[0], folder), value)


def _data_beside(section: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a section of data in which each file, folder and ``FILE.py:`` is absolute."""
    values = {key: _code_beside(value, folder) for key, value in section.items()}
    if isinstance(stored := values.get("data_dir"), str):
        values["data_dir"] = stored = _there(stored, folder)
    for key in ("dataset", "public_dataset"):
        if isinstance(values.get(key), str):
            values[key] = _set_beside(values[key], folder, stored)
    if isinstance(values.get("domains"), list):
        domains = [_set_beside(domain, folder, stored) for domain in values["domains"]]
        target = values.get("target")
        if isinstance(target, str) and target in values["domains"]:
            values["target"] = domains[values["domains"].index(target)]
        values["domains"] = domains
    return values


def _set_beside(reference: Any, folder: Path, stored: str | None) -> Any:
    """Return the reference of a data set as an absolute path if it is one in a folder.

    Registered names and what lies below ``data_dir`` come first, as everywhere.
    """
    if not isinstance(reference, str) or not reference:  # empty: there is none
        return reference
    name = reference.removesuffix(ALL)
    if npz_file(name, stored) or (is_dataset(name) and not data_path(name)):
        return reference
    base, _ = base_of(str(folder / name))
    return str(folder / reference) if data_path(base) else reference


def _there(path: str, folder: Path) -> str:
    """Return a path as one in a folder if there is such; else as it is."""
    return str(folder / path) if (folder / path).exists() else path


def absolute(reference: str) -> str:
    """Return a reference that means the same from every folder, also in its options."""
    return FILE.sub(lambda path: str(Path(path[0]).resolve()), reference)
