"""What a node and a server of a real federation need.

The names below are imported on first use: a node imports no more than its turn needs.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME: dict[str, str] = {}
__all__: list[str] = []


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fedkt.deploy' has no attribute {name!r}")
