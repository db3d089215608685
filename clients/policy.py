"""What a client lets out, whatever the server asks for."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from flwr.app import Message, RecordDict

from fedkt import registry, wire
from fedkt.codecs import Codec, codec_chain
from fedkt.disk import writing
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.metrics import metrics_of
from fedkt.options import AtLeastOne, checked
from fedkt.recipe import Recipe, trainings


@checked
@dataclass(frozen=True)
class Policy:
    """Bounds on what a client shares and does for a server. None: no bound.

    They are checked against the recipe before anything is trained, in the greeting and in every
    message, and against an upload before it is sent. What is refused is an error in one line, at
    the client and at the server.

    Parameters
    ----------
    shares : Collection[str], optional
        Names of the shares that may leave (``fedkt list shares``). By default ``predict`` alone:
        answers on the public set. Weights need an explicit yes.
    kinds : Collection[str], optional
        The kinds of knowledge that may leave, such as ``probabilities``.
    most_bytes : int, optional
        Most bytes of an upload.
    most_epochs : int, optional
        Most epochs of a round, of all steps together and of the read-out's copy.
    most_steps : int, optional
        Most batches of a round that trainings ask for whatever their epochs
        (``Train(least_steps=...)``), of all together. On few samples they are many epochs, which
        ``most_epochs`` does not count.
    most_samples : int, optional
        Most rows that an upload has of a share, such as public samples.
    readouts : Collection[str], optional
        Names of the read-outs that it settles (``fedkt list readouts``).
    codecs : Collection[str], optional
        Names of the codecs that it encodes with, those in the options of others too; ``none`` is
        always allowed.
    tables : bool
        Whether metrics that are tables over the classes may leave. The rows of a confusion matrix
        add up to the classes of private test samples.
    """

    shares: Collection[str] | None = ("predict",)
    kinds: Collection[str] | None = None
    most_bytes: AtLeastOne | None = None
    most_epochs: AtLeastOne | None = None
    most_steps: AtLeastOne | None = 1000
    most_samples: AtLeastOne | None = None
    readouts: Collection[str] | None = None
    codecs: Collection[str] | None = None
    tables: bool = False

    def __post_init__(self) -> None:
        for name in ("shares", "kinds", "readouts", "codecs"):
            if isinstance(getattr(self, name), str):  # whose letters would be the names
                given = getattr(self, name)
                raise ConfigError(f"Policy: {name} is {given!r}; write [{given!r}].")

    def refusal(
        self, recipe: Recipe, codec: str = "none", metrics: Sequence[str] = ()
    ) -> str | None:
        """Return why the client does not follow a recipe, in one line; None if it does.

        Parameters
        ----------
        recipe : Recipe
            The server's.
        codec : str
            The run's codecs.
        metrics : Sequence[str]
            The metrics that the message asks for.
        """
        chain = [*codec_chain(codec), *recipe.codecs]
        epochs = sum(step.epochs for step in trainings(recipe.steps))
        steps = sum(step.least_steps for step in trainings(recipe.steps))
        if recipe.personal.copies:
            epochs += sum(step.epochs for step in trainings(recipe.learn) if step.on == "private")
        asked = (
            _outside("shares", self.shares, (_name("shares", part) for part in recipe.share)),
            _outside("kinds", self.kinds, (part.kind for part in recipe.share)),
            _outside("readouts", self.readouts, [_name("readouts", recipe.personal)]),
            _outside("codecs", self.codecs, (_name("codecs", part) for part in _nested(chain))),
            _above("most_epochs", self.most_epochs, epochs, "epochs a round"),
            _above("most_steps", self.most_steps, steps, "steps a round at least"),
            None if self.tables else _tables(metrics),
        )
        return next(filter(None, asked), None)

    def check(self, recipe: Recipe, codec: str = "none", metrics: Sequence[str] = ()) -> None:
        """Refuse a recipe that the client does not follow.

        Raises
        ------
        ConfigError
            With the reason.
        """
        if refusal := self.refusal(recipe, codec, metrics):
            raise ConfigError(refusal)

    def check_upload(
        self, made: Mapping[str, Knowledge], packets: Mapping[str, wire.Packet]
    ) -> None:
        """Refuse an upload that must not leave.

        Raises
        ------
        ConfigError
            With the reason.
        """
        size = sum(packet.num_bytes for packet in packets.values())
        rows = max((len(k.ids) for k in made.values() if k.ids is not None), default=0)
        for refusal in (
            _above("most_bytes", self.most_bytes, size, "bytes of an upload"),
            _above("most_samples", self.most_samples, rows, "rows of an upload"),
        ):
            if refusal:
                raise ConfigError(refusal)


ANYTHING = Policy(shares=None, most_steps=None, tables=True)


@dataclass(frozen=True)
class Sent:
    """The list of all that has left a client, a JSON object a line: ``sent.jsonl``.

    Parameters
    ----------
    file : Path
        The file; its folder is made if needed.
    """

    file: Path

    def note(self, message: Message, reply: Message) -> None:
        """Add a reply to a message, before it is sent.

        Knowledge is listed array by array: share, kind, name, shape, dtype, bytes as sent, and the
        SHA-256 of these. Of everything else the names and values stand there, of an error the
        reason.
        """
        config = message.content.config_records["config"]
        where = {
            "run": config.get("run"),
            "round": config.get("server-round"),
            "message": message.metadata.message_type,
        }
        lines: list[dict[str, Any]] = []
        content = reply.content if reply.has_content() else RecordDict()
        if reply.has_error():
            lines.append({**where, "error": reply.error.reason})
        for name, packet in wire.extract(content).items():
            about = {"share": name, "kind": packet.meta["kind"], "codec": packet.meta["codec"]}
            lines += [
                {
                    **where,
                    **about,
                    "array": key,
                    "shape": list(array.shape),
                    "dtype": array.dtype,
                    "bytes": len(array.data),
                    "sha256": hashlib.sha256(array.data).hexdigest(),
                }
                for key, array in packet.arrays.items()
            ]
        records = (content.metric_records, content.config_records)
        for name, values in ((n, dict(r)) for kind in records for n, r in kind.items()):
            if not name.endswith(".meta"):  # of knowledge
                told = {key: _written(value) for key, value in values.items()}
                lines.append({**where, "record": name, "values": told})
        with writing(self.file.parent):
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.file.open("a+b") as file:
                if _is_cut_off(file):  # the disk was full, or the process killed
                    file.write(b"\n")
                file.writelines(_line(line) for line in lines)
                file.flush()
                os.fsync(file.fileno())


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, default=str, allow_nan=False).encode() + b"\n"


def _written(value: Any) -> Any:
    """Return a value of a record as JSON has it: of numbers that are not finite, the text."""
    if isinstance(value, list):
        return [_written(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _name(part: str, thing: Any) -> str:
    return registry.short_name(part, type(thing))


def _is_cut_off(file: BinaryIO) -> bool:
    """Return whether the last line of a file has no end."""
    if not file.seek(0, os.SEEK_END):
        return False
    file.seek(-1, os.SEEK_END)
    return file.read() != b"\n"


def _nested(codecs: Iterable[Codec]) -> Iterator[Codec]:
    """Yield codecs, and those that are options of them."""
    for codec in codecs:
        yield codec
        yield from _nested(codec.inside)


def _outside(option: str, allowed: Collection[str] | None, asked: Iterable[str]) -> str | None:
    wrong = None if allowed is None else next((name for name in asked if name not in allowed), None)
    if wrong is None or (option == "codecs" and wrong == "none"):
        return None
    return f"its policy allows {option} {', '.join(sorted(allowed or ())) or 'none'}, not {wrong}"


def _tables(metrics: Sequence[str]) -> str | None:
    wrong = next((m.facts.name for m in metrics_of(metrics) if m.facts.axes), None)
    return None if wrong is None else f"its policy allows no tables over the classes, as {wrong} is"


def _above(option: str, most: int | None, asked: int, what: str) -> str | None:
    if most is None or asked <= most:
        return None
    return f"its policy allows {most:,} {what} ({option}), not {asked:,}"
