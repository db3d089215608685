"""What a part must keep, as functions that its author calls.

``check_strategy`` runs the laws that the built-in strategies are tested by; ``check_share``,
``check_term``, ``check_learner``, ``check_codec`` and ``check_fusion`` do it for other parts::

    from fedkt.testing import check_strategy

    def test_mine():
        check_strategy(Mine(beta=2), level="quick")

Wherever fedkt is installed, pytest has the option ``--fedkt-strategy mine.py:Mine``, which runs the
laws as tests of their own.

====================  =============================================================
file in ``laws/``     laws
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

Laws of methods are read from one recorded run of each method (``test_recorded``), which every
process makes once; laws of messages and files are checked on one method of each *kind of
exchange* (what is shared, in which phases). That is level ``quick``. At level ``full`` every law is
checked on every method, and by runs of its own. A strategy that cannot meet a law says so itself
(``KnowledgeStrategy.exempt``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedkt.testing.codec_laws import check_codec
    from fedkt.testing.fusion_laws import check_fusion
    from fedkt.testing.learner_laws import check_learner
    from fedkt.testing.share_laws import check_share
    from fedkt.testing.strategy_laws import check_strategy
    from fedkt.testing.term_laws import check_term

__all__ = [
    "check_codec",
    "check_fusion",
    "check_learner",
    "check_share",
    "check_strategy",
    "check_term",
]


def __getattr__(name: str) -> Any:
    """Return a function on first use: pytest imports the plugin, and so this file, everywhere."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = f"{__name__}.{name.removeprefix('check_')}_laws"
    return getattr(importlib.import_module(room), name)
