"""The conformance suite: laws that every strategy keeps.

It runs over every registered strategy with its default options, so a new file in
``strategies/`` is under test as soon as it is there. For a strategy of your own, which need
not be registered::

    pytest --fedkt-strategy mine.py:Mine
    pytest --fedkt-strategy "mine.py:Mine(beta=2)" --fedkt-strategy knfu --fedkt-level quick

from the root of the repository, or ``pytest PATH/TO/tests/conformance --fedkt-strategy ...``
from anywhere; ``check(strategy, level="quick")`` is the same as a function, of a reference, a
class or an object. ``-m "not ray and not flower"`` leaves out the two slow engines.
``example_strategy.py`` is a strategy of twenty lines that keeps all the laws.

Laws of methods are read from one recorded run of each method (``test_recorded``), which every
process makes once; laws of messages and files are checked on one method of each *kind of
exchange* (what is shared, in which phases). That is level ``quick``, the default. At level
``full``, the default for one's own strategies, every law is checked on every method, and by
runs of its own.

====================  =============================================================
file                  laws
====================  =============================================================
test_recorded         soundness, odd data, participation, bytes, determinism, going
                      on from a checkpoint, another seed, one client, and that the
                      others change a client: from one recorded run
test_determinism      the seed alone decides: neither global random state nor the
                      order of the replies
test_executors        cohorts learn what the loop learns
test_ray (_flower)    in-process, Ray with any number of workers and Flower's own
                      engine give the same bits
test_resume           a stopped run goes on as if it had never stopped
test_bytes            what travels is what the formula says, up and down
test_participation    some take part, the others keep their state; one client only
test_odd_clients      one class, one sample, less than a batch, a class nobody has
test_failures         a client that raises, is silent, or uploads rubbish
test_knowledge        mixed architectures; the knowledge changes the clients
test_target_labels    the labels of a target are never training input
====================  =============================================================

Two places may have to be told about a new kind of strategy, and say so when they meet one:
``formulas.py`` (the bytes of a new kind of share) and ``VARIANTS`` in ``conftest.py`` (options
that change what a strategy keeps from round to round).

``test_user_strategies`` tests the options, ``test_check`` the function and that level quick finds
what breaks a law.
"""

from .check import check

__all__ = ["check"]
