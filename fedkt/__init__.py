"""fedkt: federated knowledge fusion.

Parties that can share neither data nor weights teach each other by sharing knowledge,
which a server fuses and clients distil. The names below are imported on first use, so
that ``import fedkt`` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Fused": "fedkt.knowledge",
    "Knowledge": "fedkt.knowledge",
    "Recipe": "fedkt.recipe",
    "Upload": "fedkt.knowledge",
    "Uploads": "fedkt.knowledge",
    "register": "fedkt.registry",
}
__all__ = ["Fused", "Knowledge", "Recipe", "Upload", "Uploads", "__version__", "register"]

if TYPE_CHECKING:
    from fedkt.knowledge import Fused, Knowledge, Upload, Uploads
    from fedkt.recipe import Recipe
    from fedkt.registry import register


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fedkt' has no attribute {name!r}")
