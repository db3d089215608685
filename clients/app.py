"""The Flower ClientApp: one for every method, in simulation and in deployment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from logging import DEBUG
from pathlib import Path
from typing import Literal, TypeVar

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.logger import log
from torch import Tensor

from fedkt.clients.client import Client
from fedkt.clients.cohorts.messages import handle
from fedkt.clients.facts import hello
from fedkt.clients.personal_answer import predict_from
from fedkt.clients.policy import Sent
from fedkt.clients.state import MemoryStore, StateStore
from fedkt.clients.turn import begin, error_reply
from fedkt.errors import ConfigError, FedktError

logger = logging.getLogger("fedkt")

T = TypeVar("T")
CohortOf = Callable[[Context], int | None]


class KnowledgeClientApp(ClientApp):
    """A ClientApp with the store of its clients' state, for checkpoints, and its cohorts."""

    store: StateStore
    connect: Callable[[Context], Client]
    cohort_of: CohortOf | None = None

    def handle_cohorts(
        self, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> dict[int, Message]:
        """Return the replies of clients in cohorts; see ``clients.cohorts.messages``."""
        if self.cohort_of is None:
            return {}
        return handle(self.connect, self.cohort_of, self.store, messages, contexts)


def client_app(
    connect: Callable[[Context], Client],
    store: StateStore | Callable[[Context], StateStore] | None = None,
    cohort_of: CohortOf | None = None,
    sent: Path | Callable[[Context], Path] | None = None,
    discreet: bool = False,
) -> KnowledgeClientApp:
    """Return the ClientApp that follows any recipe.

    Parameters
    ----------
    connect : callable
        Returns the client of a Flower context, by its ``node_config``.
    store : StateStore or callable, optional
        Store of client state, or a function that returns that of a context; in memory by default.
        Deployed nodes need a :class:`~fedkt.clients.state.FileStore`, because Flower runs every
        message in a new process.
    cohort_of : callable, optional
        Returns the number of the cohort of a context's client, None if it has none. Clients of
        one cohort and one learner train together if a grid delivers their messages in one call.
    sent : Path or callable, optional
        A file that lists all that leaves the client, or a function that returns that of a context;
        see :class:`~fedkt.clients.policy.Sent`.
    discreet : bool
        Whether an error that is not fedkt's own is told by its type alone: its text may hold data.
        The log of the client has all of it.

    Returns
    -------
    KnowledgeClientApp
        Handles ``query`` (the greeting), ``train`` (learn and share) and ``evaluate``
        (absorb and evaluate). An exception becomes an error reply with its one-line
        reason and leaves the client's state as it was.
    """
    app = KnowledgeClientApp()
    if store is None or not callable(store):
        app.store = store = store if store is not None else MemoryStore()
    store_of, sent_of = _by_context(store), _by_context(sent)
    app.connect, app.cohort_of = connect, cohort_of

    @app.query()
    def greet(message: Message, context: Context) -> Message:
        return answered(
            lambda: hello(connect(context), store_of(context), message), message, context
        )

    def take_turn(message: Message, context: Context) -> Message:
        def turn() -> RecordDict:
            return begin(connect(context), store_of(context), message, context).run()

        return answered(turn, message, context)

    def answered(handle: Callable[[], RecordDict], message: Message, context: Context) -> Message:
        reply = _guarded(handle, message, discreet)
        if discreet and (refusal := _refusal(reply)):
            logger.warning("refused: %s", refusal)
        if file := sent_of(context):
            Sent(file).note(message, reply)
        return reply

    app.train()(take_turn)
    app.evaluate()(take_turn)

    return app


def predict(
    client: Client,
    store: StateStore,
    x: Tensor,
    readout: Literal["personal", "global"] = "personal",
    run: str = "",
) -> Tensor:
    """Return the logits of a client's model, ``[n, C]``, after a run or during one.

    The client and the store of its ClientApp are enough, because the client's read-out is part
    of its state. The learner ends loaded with that state.

    Parameters
    ----------
    client : Client
        The client, with the same learner and training data as in the run.
    store : StateStore
        The store; on a deployed node the :class:`~fedkt.clients.state.FileStore` of its folder.
    x : Tensor
        float32 ``[n, ...]``, preprocessed as the training data.
    readout : {"personal", "global"}
        Answers for the client's own distribution of classes, as in personalised accuracy, or
        for all classes alike: those that global accuracy is of, unless the recipe counts the
        answers of a net beside the model (``Recipe(world=...)``).
    run : str
        The run whose model it is; by default the latest that the store has states of.

    Returns
    -------
    Tensor
        Logits, float32 ``[n, C]``; their softmax estimates p(y | x).

    Raises
    ------
    ConfigError
        If the store does not know the client in that run, or the read-out is unknown.
    """
    runs = store.runs(client.id)
    state = store.get(run or runs[-1], client.id) if run or runs else None
    if state is None:
        where = f" in run {run}" if run else ""
        raise ConfigError(
            f"The store has no state of client {client.id}{where}: it never took part."
        )
    return predict_from(state, client.learner, client.data.log_prior, x, readout)


def _guarded(handle: Callable[[], RecordDict], message: Message, discreet: bool) -> Message:
    """Turn an exception into an error reply with a one-line reason."""
    try:
        return Message(handle(), reply_to=message)
    except Exception as error:
        strange = next((e for e in (error, error.__cause__) if _is_strange(e)), None)
        if discreet and strange is not None:
            logger.error("a message failed", exc_info=error)
            name = type(strange).__name__
            error = ConfigError(f"{name} at the client; the log of the node says more")
        else:
            log(DEBUG, "client failed", exc_info=error)
            if discreet:  # a node's operator sees what is refused
                logger.warning("refused: %s", error)
        return error_reply(error, message)


def _refusal(reply: Message) -> str | None:
    """Return why a client takes no part, of its answer to the greeting."""
    about = reply.content.config_records.get("config") if reply.has_content() else None
    return None if about is None or "refusal" not in about else str(about["refusal"])


def _is_strange(error: BaseException | None) -> bool:
    """Return whether an exception is not one of fedkt's, whose texts hold no data."""
    return error is not None and not isinstance(error, FedktError)


def _by_context(given: T | Callable[[Context], T]) -> Callable[[Context], T]:
    return given if callable(given) else lambda context: given
