"""Saving nested state: tensors, bytes, knowledge and plain values in one safetensors file.

Used for client state, strategy state and checkpoints, so that there is one format on
disk. Files are written beside their place and renamed, never half written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedkt.disk import sync, writing
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge


def save(path: Path, value: Any, durable: bool = False) -> None:
    """Write ``value`` to ``path`` atomically.

    Parameters
    ----------
    path : Path
        The file; its folder is made if needed.
    value : Any
        Nested dictionaries (string or integer keys), lists and tuples of tensors, bytes,
        :class:`Knowledge`, numbers, strings, booleans and ``None``. Tuples come back as
        lists.
    durable : bool
        Whether to wait until the disk has it.

    Raises
    ------
    ConfigError
        For a value of any other type, naming where it is; or if the file cannot be written
        (:func:`fedkt.disk.writing`).
    DiskError
        If the disk takes no more.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(value, tensors, ())
    _set_apart(tensors)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, beside, metadata={"fedkt": json.dumps(skeleton)})
            if durable:
                sync(beside)
            os.replace(beside, path)
            if durable:
                sync(path.parent)
        finally:
            beside.unlink(missing_ok=True)


def load(path: Path) -> Any:
    """Return the state in a file that :func:`save` wrote.

    Raises
    ------
    ConfigError
        If the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            skeleton = json.loads(file.metadata()["fedkt"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # safetensors raises errors of its own, without a common base
        raise ConfigError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return _unpack(skeleton, tensors)


def copied(value: Any) -> Any:
    """Return a value as :func:`load` would return it: a copy on the CPU, in one memory layout.

    Raises
    ------
    ConfigError
        For a value that :func:`save` refuses.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(value, tensors, ())
    return _unpack(skeleton, {name: _copy(tensor) for name, tensor in tensors.items()})


def _pack(value: Any, tensors: dict[str, Tensor], place: tuple[Any, ...]) -> Any:
    if isinstance(value, Tensor):
        return {"@tensor": _put(value, tensors)}
    if isinstance(value, bytes):
        content = np.frombuffer(bytearray(value), dtype=np.uint8)  # torch wants it writable
        return {"@bytes": _put(torch.from_numpy(content), tensors)}
    if isinstance(value, Knowledge):
        fields = [value.kind, dict(value.tensors), value.ids, value.counts]
        return {"@knowledge": _pack(fields, tensors, place)}
    if isinstance(value, dict) and all(isinstance(k, str | int) for k in value):
        return {"@dict": [[k, _pack(v, tensors, (*place, k))] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(v, tensors, (*place, i)) for i, v in enumerate(value)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    where = f" at {'.'.join(map(str, place))}" if place else ""
    keys = ", keys of which must be text or whole numbers" if isinstance(value, dict) else ""
    raise ConfigError(
        f"cannot save a {type(value).__name__}{where}: keep tensors, Knowledge, bytes, numbers, "
        f"text, lists and dictionaries{keys}."
    )


def _put(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    name = f"t{len(tensors)}"
    tensors[name] = tensor.detach().cpu()
    return name


def _set_apart(tensors: dict[str, Tensor]) -> None:
    """Copy those tensors that lie in another layout, or in memory that another one uses.

    safetensors refuses both. The others are written from where they are: a state of 1 GB takes no
    second one.
    """
    storages = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        if storage in storages or not tensor.is_contiguous():
            tensors[name] = _copy(tensor)
        else:
            storages.add(storage)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "@tensor" in value:
        return tensors[value["@tensor"]]
    if "@bytes" in value:
        return bytes(tensors[value["@bytes"]].numpy())
    if "@knowledge" in value:
        return Knowledge(*_unpack(value["@knowledge"], tensors))
    return {k: _unpack(v, tensors) for k, v in value["@dict"]}
