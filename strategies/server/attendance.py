"""Attendance: which nodes of a grid are there, and which clients are behind them.

The grid is asked for its nodes before every round. Those that are new are greeted, and take part
from then on if they fit. A client that leaves and comes back goes on, also under another node id;
a node is greeted again if it has been away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from flwr.serverapp import Grid

from fedkt.errors import ConfigError, FedktError, RunFailedError
from fedkt.recipe import Recipe
from fedkt.strategies.server.greeter import LEFT, Greeter
from fedkt.strategies.server.roster import LeftOut, Member, Roster, claimed, fitting, misfit
from fedkt.strategies.server.round import ServerOptions, needed

logger = logging.getLogger("fedkt")

POLL_SECONDS = 0.05, 2.0  # between two looks at the nodes: the first time, and at most
NAMED = 3  # clients that an error names


class Attendance:
    """The nodes that are there, and the clients of the run behind them.

    Parameters
    ----------
    recipe : Recipe
        Recipe of the run.
    title : str
        The method's name, for messages.
    options : ServerOptions
        Options of the run.

    Attributes
    ----------
    roster : Roster, optional
        The clients that have come so far; None before the first greeting.
    earlier : frozenset[int]
        Clients of the run before the server was started again.
    """

    def __init__(self, recipe: Recipe, title: str, options: ServerOptions) -> None:
        self._recipe, self._title, self._options = recipe, title, options
        self.roster: Roster | None = None
        self.earlier: frozenset[int] = frozenset()
        self._here: frozenset[int] = frozenset()  # nodes, when last looked at
        self._let_in: set[int] = set()  # those of them that are clients of the run
        self._left_out: dict[int, LeftOut] = {}  # the others that were greeted
        self._tries: dict[int, Tries] = {}  # at those of them that failed or did not answer

    @property
    def clients(self) -> tuple[int, ...]:
        """All clients of the run so far, ascending."""
        return tuple(sorted(self.earlier.union(self.roster or ())))

    def meet(self, grid: Grid, greet: Greeter) -> list[str]:
        """Greet the nodes that are new; return a line for each that joins or is left out.

        Raises
        ------
        ConfigError, RunFailedError
            If the run cannot start: too few clients come, answer and fit (``options.quorum``).
        """
        if self.roster is None:
            return self._open(grid, greet)
        self.look(grid)
        return self._admit(greet(self._to_greet(greet.round)), greet.round)

    def look(self, grid: Grid) -> None:
        """Ask the grid which nodes are there; those that have left are greeted when they return."""
        here = frozenset(grid.get_node_ids())
        if here != self._here:
            self._here = here
            self._let_in &= here
            kept = {n: out for n, out in self._left_out.items() if n in here}
            self._left_out = {n: out for n, out in kept.items() if not _freed(out, here)}
            self._tries = {n: tries for n, tries in self._tries.items() if n in here}

    def back(
        self, clients: Sequence[int], grid: Grid, greet: Greeter
    ) -> tuple[list[int], list[str]]:
        """Return those of some clients that are there; greet nodes that have been away.

        The second value are the lines of :meth:`meet`.
        """
        self.look(grid)
        nodes = {self.roster[c].node for c in clients if c in self.roster} if self.roster else set()
        new = sorted(nodes.intersection(self._to_greet(greet.round)))
        lines = self._admit(greet(new), greet.round)
        return [client for client in clients if self.absence(client) is None], lines

    def absence(self, client: int) -> str | None:
        """Return why no message goes to a client; None if its node is there."""
        member = self.roster.get(client) if self.roster else None
        if member is None or member.node not in self._here:
            return LEFT
        if member.node in self._let_in:
            return None
        out = self._left_out.get(member.node)
        return LEFT if out is None else f"left out: {out.reason}"

    def _to_greet(self, round_: int) -> list[int]:
        """Return the nodes whose clients are not known.

        One that does not answer costs the time of all, and one that does not fit may have been
        mended in the meantime: they are tried again after 1, 2, 4, ... rounds.
        """
        new = sorted(self._here - self._let_in)
        late = {node for node, tries in self._tries.items() if tries.next_round > round_}
        return [node for node in new if node not in late]

    # --- the first greeting ------------------------------------------------------------

    def _open(self, grid: Grid, greet: Greeter) -> list[str]:
        """Wait for the clients, greet them, and set the roster to those that fit.

        Where clients differ in facts that must agree, the largest group of equal clients stays; of
        equally large groups the one with the lowest id.
        """
        options = self._options
        nodes, notes = _wait_for_nodes(grid, options)
        answers = dict(zip(nodes, greet(nodes), strict=True))
        wait = Wait(options.wait)
        while True:
            members, left_out = _sorted_out(answers.values(), self._recipe)
            theirs = set(options.nodes.values()) if options.nodes else answers.keys()
            expected = max(options.clients, len(answers.keys() & theirs))
            if len(members) >= needed(options.quorum, expected):
                break
            if options.on_quorum_missed != "wait" or not wait.more():
                raise _too_few(len(members), expected, left_out, self._title, options)
            failed = {out.node for out in left_out if not out.unfit}
            new = sorted(n for n in grid.get_node_ids() if n not in answers or n in failed)
            answers |= dict(zip(new, greet(new), strict=True))
        self._here = frozenset(answers)
        self._let_in = {member.node for member in members}
        self.roster = Roster(members)
        return notes + self._noted(left_out, greet.round)

    # --- those that come later ----------------------------------------------------------

    def _admit(self, answers: Sequence[Member | LeftOut], round_: int) -> list[str]:
        """Let in the clients that fit the roster; return a line for each, and for the others."""
        if not answers or self.roster is None:
            return []
        came, left_out = _parted(answers)
        roster, joined, lines = dict(self.roster), list[Member](), list[str]()
        for member in sorted(came, key=lambda m: (m.client, m.node)):
            before = roster.get(member.client)
            if before is not None and before.node != member.node and before.node in self._here:
                left_out.append(claimed(member, before.node))
            elif reason := misfit(member, roster, self._recipe):
                left_out.append(LeftOut(member.node, member.client, reason))
            else:
                roster[member.client] = member
                joined.append(member)
                known = before is not None or member.client in self.earlier
                lines.append(f"client {member.client} {'is back' if known else 'joins the run'}")
        if joined:
            self.roster = self.roster.joined_by(joined)
        for member in joined:
            self._let_in.add(member.node)
            self._left_out.pop(member.node, None)
        return lines + self._noted(_unnamed(left_out, roster.values()), round_)

    def _noted(self, left_out: Sequence[LeftOut], round_: int) -> list[str]:
        """Keep the nodes left out; return a line for each that is not left out as before."""
        new = [out for out in left_out if self._left_out.get(out.node) != out]
        for out in new:
            logger.warning("left out of %s: %s", self._title, out)
        self._left_out |= {out.node: out for out in left_out}
        for out in left_out:
            self._tries[out.node] = self._tries.get(out.node, Tries()).another(round_)
        return [f"left out of the run: {out}" for out in new]


@dataclass(frozen=True)
class Tries:
    """The greetings of a node that was left out: their number, and the round of the next."""

    number: int = 0
    next_round: int = 0

    def another(self, round_: int) -> Tries:
        """Return the tries after another one in a round."""
        return Tries(self.number + 1, round_ + 2**self.number)


class Wait:
    """A time to wait, in pauses that get longer.

    Parameters
    ----------
    seconds : float
        How long at most.
    """

    def __init__(self, seconds: float) -> None:
        self._end, self._pause = time.monotonic() + seconds, POLL_SECONDS[0]

    def more(self) -> bool:
        """Pause; return False instead if the time is over."""
        if time.monotonic() > self._end:
            return False
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, POLL_SECONDS[1])
        return True


def _freed(out: LeftOut, here: frozenset[int]) -> bool:
    """Return whether a node may be what it said it is, since another has left."""
    return out.owner is not None and out.owner not in here


def _wait_for_nodes(grid: Grid, options: ServerOptions) -> tuple[list[int], list[str]]:
    """Return the nodes that have come, and a note if they are fewer than asked for."""
    wait, wanted = Wait(options.wait), max(options.clients, 1)
    theirs, said = set(options.nodes.values()), False
    while True:
        nodes = sorted(grid.get_node_ids())
        there = theirs.intersection(nodes) if theirs else nodes
        if len(there) >= wanted:
            return nodes, []
        if not said:
            logger.info("waiting for %d clients, up to %g s", wanted, options.wait)
            said = True
        if not wait.more():
            text = f"Only {len(there)} of {wanted} clients came within {options.wait:g} s."
            if len(there) < needed(options.quorum, wanted):
                raise RunFailedError(text)
            logger.warning(text)
            return nodes, [text.rstrip(".")]


def _parted(answers: Iterable[Member | LeftOut]) -> tuple[list[Member], list[LeftOut]]:
    """Return the members among answers to the greeting, and the nodes left out."""
    came, left_out = list[Member](), list[LeftOut]()
    for answer in answers:
        if isinstance(answer, Member):
            came.append(answer)
        else:
            left_out.append(answer)
    return came, left_out


def _sorted_out(
    answers: Iterable[Member | LeftOut], recipe: Recipe
) -> tuple[list[Member], list[LeftOut]]:
    """Return the members that fit each other, and the nodes left out, by node."""
    came, left_out = _parted(answers)
    members, unfit = fitting(came, recipe)
    return members, _unnamed(left_out + unfit, members)


def _unnamed(left_out: Iterable[LeftOut], members: Iterable[Member]) -> list[LeftOut]:
    """Return nodes left out, ascending, without the client ids that are others'."""
    nodes: dict[int | None, int] = {member.client: member.node for member in members}
    named = [
        replace(out, client=None) if nodes.get(out.client, out.node) != out.node else out
        for out in left_out
    ]
    return sorted(named, key=lambda out: out.node)


def _too_few(
    members: int, expected: int, left_out: Sequence[LeftOut], method: str, options: ServerOptions
) -> FedktError:
    """Return the error of a run that cannot start; a ConfigError if a client does not fit."""
    text = f"{method} cannot start"
    if left_out:
        text = f"{method} cannot run on {'; '.join(map(str, left_out[:NAMED]))}"
    if len(left_out) > NAMED:
        text += f"; and on {len(left_out) - NAMED} more"
    if options.quorum != "strict":
        least = needed(options.quorum, expected)
        text += f"; {members} of {expected} clients are left and {least} are needed"
    unfit = any(node.unfit for node in left_out)
    return ConfigError(f"{text}.") if unfit else RunFailedError(f"{text}.")
