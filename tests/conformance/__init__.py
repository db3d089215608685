"""The conformance suite: laws that every strategy keeps.

It runs over every registered strategy with its default options, so a new file in
``strategies/`` is under test as soon as it is there. For a strategy of your own, which need
not be registered::

    pytest --fedkt-strategy mine.py:Mine
    pytest --fedkt-strategy "mine.py:Mine(beta=2)" --fedkt-strategy knfu

from the root of the repository, or ``pytest PATH/TO/tests/conformance --fedkt-strategy ...``
from anywhere. ``-m "not ray and not flower"`` leaves out the two slow engines.
``example_strategy.py`` is a strategy of twenty lines that keeps all the laws.

====================  =============================================================
file                  laws
====================  =============================================================
test_determinism      the seed alone decides: neither global random state nor the
                      order of the replies
test_engines          in-process, Ray with any number of workers and Flower's own
                      engine give the same bits
test_resume           a stopped run goes on as if it had never stopped
test_bytes            what travels is what the formula says, up and down
test_participation    some take part, the others keep their state; one client only
test_odd_clients      one class, one sample, less than a batch, a class nobody has
test_failures         a client that raises, is silent, or uploads rubbish
test_knowledge        mixed architectures; the knowledge changes the clients
====================  =============================================================

Two places may have to be told about a new kind of strategy, and say so when they meet one:
``formulas.py`` (the bytes of a new kind of share) and ``VARIANTS`` in ``conftest.py`` (options
that change what a strategy keeps from round to round).

``test_user_strategies`` tests the option itself.
"""
