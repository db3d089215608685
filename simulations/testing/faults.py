"""Ways in which a client can go wrong, put between the grid and the real ClientApp."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedkt.clients import Client, client_app
from fedkt.codecs import codec_chain
from fedkt.knowledge import CLASS_KINDS, KINDS, SAMPLE_KINDS
from fedkt.recipe import Recipe
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.engines.population import Population
from fedkt.testing.kit import leaves

REASON = "the disk of this client is full"
ROWS = SAMPLE_KINDS | CLASS_KINDS
FLOATS = frozenset(KINDS) - {"labels"}
PHASES = {"learn": "train", "absorb": "evaluate"}

Arrays = dict[str, np.ndarray]
Meta = dict[str, Any]
Spoil = Callable[[RecordDict], RecordDict | None]


class Breaking:
    """A learner that does all its work and raises at the end of a phase.

    In ``learn`` when its state is asked for, the very last thing; in ``absorb`` when it is
    evaluated, because a client that does not absorb is not asked for its state.
    """

    def __init__(self, learner: Any, phase: str) -> None:
        self._learner, self._call = learner, "state" if phase == "learn" else "predict"

    def __getattr__(self, name: str) -> Any:
        return self._fail if name == self._call else getattr(self._learner, name)

    def _fail(self, *args: Any) -> Any:
        getattr(self._learner, self._call)(*args)
        raise OSError(REASON)


@dataclass
class Fault:
    """What goes wrong, with whom and when; ``app`` puts it into a population.

    Parameters
    ----------
    clients, rounds : collection of int
        Where it strikes.
    phase : {"learn", "absorb"}
        Which message.
    how : callable, "breaks" or "crashes"
        Spoils the content of a good reply (``None``: no reply); or the learner raises when
        its work is done; or the app itself raises, unguarded.
    before, after : dict
        The client's state before and after each message that went wrong, by (client, round).
    """

    clients: Collection[int]
    rounds: Collection[int]
    phase: str
    how: Spoil | str
    before: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    after: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)

    def app(self, population: Population) -> Any:
        """Return an app that follows the recipe, but for the fault."""
        return _FaultyApp(self, population)


class _FaultyApp:
    def __init__(self, fault: Fault, population: Population) -> None:
        self._fault, self._population, self._strikes = fault, population, False
        self._app = client_app(self._connect, cohort_of=population.cohort_of)
        self.store = self._app.store

    def handle_cohorts(
        self, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> dict[int, Message]:
        """Leave those that are struck to themselves; the others go on in their cohort."""
        self._strikes = False
        well = [
            place
            for place, (m, c) in enumerate(zip(messages, contexts, strict=True))
            if not self._struck(m, c)
        ]
        found = self._app.handle_cohorts([messages[p] for p in well], [contexts[p] for p in well])
        return {well[place]: reply for place, reply in found.items()}

    def _struck(self, message: Message, context: Context) -> tuple[int, int] | None:
        fault, client = self._fault, int(context.node_config["partition-id"])
        config = message.content.config_records["config"]
        place = client, int(str(config.get("server-round", 0)))
        strikes = (
            client in fault.clients
            and place[1] in fault.rounds
            and message.metadata.message_type == PHASES[fault.phase]
        )
        return place if strikes else None

    def __call__(self, message: Message, context: Context) -> Message | None:
        fault, place = self._fault, self._struck(message, context)
        self._strikes = place is not None
        if place is None:
            return self._app(message, context)
        client = place[0]
        fault.before[place] = leaves(self._newest(client))
        try:
            if fault.how == "crashes":
                raise OSError(REASON)
            reply = self._app(message, context)
            if fault.how == "breaks":
                return reply
            assert callable(fault.how)
            content = fault.how(RecordDict(dict(reply.content.items())))
            return None if content is None else Message(content, reply_to=message)
        finally:
            fault.after[place] = leaves(self._newest(client))

    def _newest(self, client: int) -> Any:
        return self.store.snapshot().get(client)

    def _connect(self, context: Context) -> Client:
        client = self._population.connect(context)
        if not (self._strikes and self._fault.how == "breaks"):
            return client
        breaking: Any = Breaking(client.learner, self._fault.phase)
        return replace(client, learner=breaking)


class Patient(InProcessGrid):
    """A grid that goes on without the replies that do not come."""

    def _handle(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        return [r for r in super()._handle(messages, timeout) if r is not None]


# --- rubbish in an upload ---------------------------------------------------------------------


@dataclass(frozen=True)
class Rubbish:
    """A spoiled upload.

    Parameters
    ----------
    name : str
        For the test's id.
    change : callable
        Changes the arrays and the meta data of the first share in place.
    kinds : collection of str
        The kinds of knowledge that can be spoiled so.
    says : str
        Regular expression that the reason must match.
    whole : bool
        Whether it is rubbish only where all rows are asked for.
    plain : bool
        Whether it is rubbish only where tensors travel as they are, without a codec.
    """

    name: str
    change: Callable[[Arrays, Meta], None]
    kinds: Collection[str]
    says: str
    whole: bool = False
    plain: bool = False

    def __str__(self) -> str:
        return self.name

    def fits(self, recipe: Recipe) -> bool:
        """Tell whether the first share of a recipe can be spoiled so."""
        if not recipe.share or (self.whole and recipe.share[0].partial):
            return False
        first = recipe.share[0]
        coded = bool(codec_chain(recipe.codec(first.name, "up", "none"), files=True))
        return first.kind in self.kinds and not (self.plain and coded)

    def __call__(self, content: RecordDict) -> RecordDict:
        """Return the content with a spoiled upload."""
        key = next(iter(content.array_records))
        arrays = {n: a.numpy().copy() for n, a in content.array_records[key].items()}
        meta = dict(content.config_records[f"{key}.meta"].items())
        self.change(arrays, meta)
        content[key] = ArrayRecord({n: Array(a) for n, a in arrays.items()})
        content[f"{key}.meta"] = ConfigRecord(meta)
        return content


def _first(arrays: Arrays) -> str:
    return next(n for n in arrays if n.startswith("t."))


def _put(value: float) -> Callable[[Arrays, Meta], None]:
    def change(arrays: Arrays, meta: Meta) -> None:
        arrays[_first(arrays)].flat[0] = value

    return change


def _drop_row(arrays: Arrays, meta: Meta) -> None:
    arrays[_first(arrays)] = arrays[_first(arrays)][:-1]


def _add_column(arrays: Arrays, meta: Meta) -> None:
    arrays[_first(arrays)] = np.repeat(arrays[_first(arrays)], 2, axis=-1)


def _other_ids(arrays: Arrays, meta: Meta) -> None:
    arrays["ids"] = 100_000 + np.arange(len(arrays[_first(arrays)]))


def _ids_in_disorder(arrays: Arrays, meta: Meta) -> None:
    arrays["ids"] = np.arange(len(arrays[_first(arrays)]))[::-1].copy()


def _same_id_twice(arrays: Arrays, meta: Meta) -> None:
    arrays["ids"] = np.zeros(len(arrays[_first(arrays)]), dtype=np.int64)


def _other_kind(arrays: Arrays, meta: Meta) -> None:
    pairs = ("probabilities", "logits"), ("labels", "features"), ("weights", "statistics")
    swap = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    meta["kind"] = swap.get(meta["kind"], "logits")


def _meta(key: str, value: Any) -> Callable[[Arrays, Meta], None]:
    def change(arrays: Arrays, meta: Meta) -> None:
        meta[key] = value

    return change


def _extra_array(arrays: Arrays, meta: Meta) -> None:
    arrays["t.extra"] = np.zeros(3, dtype=np.float32)


def _no_arrays(arrays: Arrays, meta: Meta) -> None:
    arrays.clear()


def _cast(dtype: Any) -> Callable[[Arrays, Meta], None]:
    def change(arrays: Arrays, meta: Meta) -> None:
        arrays[_first(arrays)] = arrays[_first(arrays)].astype(dtype)

    return change


def _double(arrays: Arrays, meta: Meta) -> None:
    arrays[_first(arrays)] *= 2


def _below_zero(arrays: Arrays, meta: Meta) -> None:
    """Keep the sums of the rows at 1."""
    arrays[_first(arrays)][:, 0] += 1
    arrays[_first(arrays)][:, 1] -= 1


RUBBISH = (
    Rubbish("nan", _put(float("nan")), FLOATS, "NaN|finite", plain=True),
    Rubbish("inf", _put(float("inf")), FLOATS, "infinit|finite", plain=True),
    Rubbish("minus-inf", _put(float("-inf")), FLOATS, "infinit|finite", plain=True),
    Rubbish("row-missing", _drop_row, frozenset(KINDS), "shape|rows", plain=True),
    Rubbish("too-wide", _add_column, frozenset(KINDS), "shape|rows", plain=True),
    Rubbish("other-ids", _other_ids, frozenset(KINDS), "ids", plain=True),
    Rubbish("ids-in-disorder", _ids_in_disorder, ROWS, "ids", whole=True),
    Rubbish("same-id-twice", _same_id_twice, ROWS, "id occurs twice|ids", plain=True),
    Rubbish("other-kind", _other_kind, frozenset(KINDS), "kind"),
    Rubbish("unknown-kind", _meta("kind", "gossip"), frozenset(KINDS), "gossip"),
    Rubbish("unknown-codec", _meta("codec", "morse"), frozenset(KINDS), "morse"),
    Rubbish("extra-array", _extra_array, frozenset(KINDS), "extra|tensor"),
    Rubbish("no-arrays", _no_arrays, frozenset(KINDS), "."),
    Rubbish("float64", _cast(np.float64), FLOATS, "float64|dtype"),
    Rubbish("integers", _cast(np.int64), FLOATS, "int64|dtype"),
    Rubbish("text", _cast(np.str_), frozenset(KINDS), "."),
    Rubbish("off-the-simplex", _double, {"probabilities"}, "probabilities|simplex", plain=True),
    Rubbish("negative", _below_zero, {"probabilities"}, "probabilities|simplex", plain=True),
    Rubbish("label-too-large", _put(10), {"labels"}, "labels"),
    Rubbish("label-below-zero", _put(-1), {"labels"}, "labels"),
)


# --- rubbish in any reply -----------------------------------------------------------------------


def nothing(content: RecordDict) -> RecordDict:
    """Reply with nothing in it."""
    return RecordDict()


def silence(content: RecordDict) -> None:
    """Give no reply."""


def no_metrics(content: RecordDict) -> RecordDict:
    """Leave the metrics out."""
    del content["metrics"]
    return content


def metric(name: str, value: Any) -> Spoil:
    """Report something else under a name."""

    def spoil(content: RecordDict) -> RecordDict:
        content["metrics"] = MetricRecord({**content.metric_records["metrics"], name: value})
        return content

    return spoil


def unreadable(content: RecordDict) -> RecordDict:
    """Send bytes that are no array."""
    key = next(iter(content.array_records))
    arrays = dict(content.array_records[key].items())
    name = next(iter(arrays))
    arrays[name] = Array(arrays[name].dtype, arrays[name].shape, arrays[name].stype, b"")
    content[key] = ArrayRecord(arrays)
    return content


def unknown_dtype(content: RecordDict) -> RecordDict:
    """Claim dtypes that do not exist; the data say for themselves what they are."""
    for record in content.array_records.values():
        for name, array in list(record.items()):
            record[name] = Array("float31", array.shape, array.stype, array.data)
    return content


def meta_missing(content: RecordDict) -> RecordDict:
    """Leave out what describes the arrays."""
    for key in [k for k in content.config_records if k.endswith(".meta")]:
        del content[key]
    return content
