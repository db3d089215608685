"""Tests of the conformance suite (``fedkt.testing``), and what only the repository checks with it.

``outside/`` holds published methods, one complete file each, as a user would write them; the laws
are checked on them too (``fedkt_strategy_files`` in ``pyproject.toml``).
"""
