"""False uploads, one a name: each replaces the content of a reply by something hostile."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

NPY = "numpy.ndarray"
Lie = Callable[[RecordDict, str], RecordDict]


class Trap:
    """An object that makes a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Return the call that unpickling makes."""
        return Path.touch, (Path(self.path),)  # type: ignore[return-value]  # one argument


def of_values(change: Callable[[np.ndarray], np.ndarray]) -> Lie:
    """Return the lie that sends changed answers."""
    return lambda content, trap: sent(content, Array(change(values_in(content).copy())))


def of_bytes(change: Callable[[bytes, str], bytes], stype: str = NPY) -> Lie:
    """Return the lie that sends other bytes as the answers."""

    def told(content: RecordDict, trap: str) -> RecordDict:
        array = content["knowledge.public"]["t.values"]
        data = change(array.data, trap)
        return sent(content, Array(array.dtype, array.shape, stype, data))

    return told


def of_meta(**values: object) -> Lie:
    """Return the lie that says something else about the answers."""

    def told(content: RecordDict, trap: str) -> RecordDict:
        meta = {**content["knowledge.public.meta"], **values}
        return replaced(content, **{"knowledge.public.meta": ConfigRecord(meta)})

    return told


def of_metrics(**values: object) -> Lie:
    """Return the lie that gives other figures."""

    def told(content: RecordDict, trap: str) -> RecordDict:
        metrics = {**content["metrics"], **{n.replace("_", "-"): v for n, v in values.items()}}
        return replaced(content, metrics=MetricRecord(metrics))

    return told


def of_ids(ids: list[int]) -> Lie:
    """Return the lie that names other rows."""

    def told(content: RecordDict, trap: str) -> RecordDict:
        arrays = {**content["knowledge.public"], "ids": Array(np.array(ids))}
        return replaced(content, **{"knowledge.public": ArrayRecord(arrays)})

    return told


def without(name: str) -> Lie:
    """Return the lie that leaves a record out."""
    return lambda content, trap: RecordDict({k: v for k, v in content.items() if k != name})


def values_in(content: RecordDict) -> np.ndarray:
    """Return the answers in a reply."""
    values: np.ndarray = content["knowledge.public"]["t.values"].numpy()
    return values


def sent(content: RecordDict, array: Array) -> RecordDict:
    """Return a reply with another array as its answers."""
    return replaced(content, **{"knowledge.public": ArrayRecord({"t.values": array})})


def replaced(content: RecordDict, **records: object) -> RecordDict:
    """Return a reply with other records."""
    return RecordDict({**content, **records})


def npy(array: np.ndarray) -> bytes:
    """Return the bytes of an array in a file; objects are pickled."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def headed(header: str) -> bytes:
    """Return a ``.npy`` file with a header of one's own and hardly any data."""
    text = header.encode() + b" " * (-len(header) % 16) + b"\n"
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + b"\0" * 64


def set_to(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return the change of one answer to a value."""

    def change(values: np.ndarray) -> np.ndarray:
        values[0, 0] = value
        return values

    return change


STRUCTURED = np.dtype([("a", "<f4"), ("b", "<i4")])
HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000), }"
CODE = "__import__('pathlib').Path({trap!r}).touch() or {{'descr': '<f4', 'shape': (1,)}}"

# Of every sort, one for each round of three liars; others are tried in process.
LIES: dict[str, Lie] = {
    "nan": of_values(set_to(np.nan)),
    "infinite": of_values(set_to(np.inf)),
    "off-simplex": of_values(lambda values: values * 3),
    "fewer-rows": of_values(lambda values: values[:-1]),
    "extra-column": of_values(lambda values: np.hstack([values, values[:, :1]])),
    "empty": of_values(lambda values: values[:0]),
    "float64": of_values(lambda values: values.astype(np.float64)),
    "structured": of_values(lambda values: np.zeros(values.shape, STRUCTURED)),
    "objects": of_bytes(lambda data, trap: npy(np.array([Trap(trap)], dtype=object))),
    "bare-pickle": of_bytes(lambda data, trap: pickle.dumps(Trap(trap))),
    "pickle": of_bytes(lambda data, trap: pickle.dumps(Trap(trap)), "pickle"),
    "torch": of_bytes(lambda data, trap: pickle.dumps(Trap(trap)), "torch.Tensor"),
    "code": of_bytes(lambda data, trap: headed(CODE.format(trap=trap))),
    "huge": of_bytes(lambda data, trap: headed(HUGE)),
    "deep": of_bytes(lambda data, trap: headed("(" * 5000)),
    "truncated": of_bytes(lambda data, trap: data[:-7]),
    "nothing": of_bytes(lambda data, trap: b""),
    "other-ids": of_ids([3, 3, -1]),
    "other-kind": of_meta(kind="weights"),
    "other-codec": of_meta(codec="float16"),
    "other-round": of_meta(round="one"),
    "no-meta": without("knowledge.public.meta"),
    "no-metrics": without("metrics"),
    "many-examples": of_metrics(num_examples=float("nan")),
}
EVALUATION: tuple[Lie, ...] = (
    of_metrics(personalised_accuracy=float("nan")),
    of_metrics(global_accuracy=7.0),
    of_metrics(validation_accuracy=[0.5, 0.5]),
    without("metrics"),
)


def lie(name: str, content: RecordDict, trap: str) -> RecordDict:
    """Return the reply to train of a liar."""
    return LIES[name](content, trap)


def evaluation_lie(name: str, content: RecordDict, trap: str) -> RecordDict:
    """Return the reply to evaluate of a liar."""
    return EVALUATION[len(name) % len(EVALUATION)](content, trap)
