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
    "About": "fedkt.codecs",
    "Augmentation": "fedkt.augmentations",
    "Codec": "fedkt.codecs",
    "Dataset": "fedkt.data",
    "ClassCounts": "fedkt.shares",
    "ClassLogits": "fedkt.shares",
    "Expected": "fedkt.upload_check",
    "Experiment": "fedkt.simulations.api.study",
    "Features": "fedkt.shares",
    "Fused": "fedkt.knowledge",
    "Fusion": "fedkt.fusion",
    "FusionRound": "fedkt.fusion",
    "Head": "fedkt.objectives",
    "HeadPart": "fedkt.objectives",
    "Knowledge": "fedkt.knowledge",
    "KnowledgeStrategy": "fedkt.strategies",
    "Learner": "fedkt.clients",
    "Load": "fedkt.recipe",
    "Metric": "fedkt.metrics",
    "Net": "fedkt.objectives",
    "Optimiser": "fedkt.optimisers",
    "Predict": "fedkt.recipe",
    "Prototypes": "fedkt.shares",
    "Question": "fedkt.shares",
    "ReadOut": "fedkt.readouts",
    "Recipe": "fedkt.recipe",
    "Remember": "fedkt.recipe",
    "Schedule": "fedkt.schedules",
    "ServerNet": "fedkt.context",
    "Share": "fedkt.shares",
    "Sizes": "fedkt.shares",
    "Stack": "fedkt.knowledge",
    "Step": "fedkt.recipe",
    "Term": "fedkt.objectives",
    "Train": "fedkt.recipe",
    "TrainingOptions": "fedkt.training",
    "Transform": "fedkt.objectives",
    "TrustRule": "fedkt.fusion",
    "Unlabelled": "fedkt.data",
    "Upload": "fedkt.knowledge",
    "Uploads": "fedkt.knowledge",
    "Weights": "fedkt.recipe",
    "compare": "fedkt.simulations.api.comparing",
    "load": "fedkt.simulations.api.results",
    "pack_tokens": "fedkt.data.tokens",
    "register": "fedkt.registry",
    "simulate": "fedkt.simulations.api.simulating",
    "unpack_tokens": "fedkt.data.tokens",
}
__all__ = [
    "About",
    "Augmentation",
    "ClassCounts",
    "ClassLogits",
    "Codec",
    "Dataset",
    "Expected",
    "Experiment",
    "Features",
    "Fused",
    "Fusion",
    "FusionRound",
    "Head",
    "HeadPart",
    "Knowledge",
    "KnowledgeStrategy",
    "Learner",
    "Load",
    "Metric",
    "Net",
    "Optimiser",
    "Predict",
    "Prototypes",
    "Question",
    "ReadOut",
    "Recipe",
    "Remember",
    "Schedule",
    "ServerNet",
    "Share",
    "Sizes",
    "Stack",
    "Step",
    "Term",
    "Train",
    "TrainingOptions",
    "Transform",
    "TrustRule",
    "Unlabelled",
    "Upload",
    "Uploads",
    "Weights",
    "__version__",
    "compare",
    "load",
    "pack_tokens",
    "register",
    "simulate",
    "unpack_tokens",
]

if TYPE_CHECKING:
    from fedkt.augmentations import Augmentation
    from fedkt.clients import Learner
    from fedkt.codecs import About, Codec
    from fedkt.context import ServerNet
    from fedkt.data import Dataset, Unlabelled
    from fedkt.data.tokens import pack_tokens, unpack_tokens
    from fedkt.fusion import Fusion, FusionRound, TrustRule
    from fedkt.knowledge import Fused, Knowledge, Stack, Upload, Uploads
    from fedkt.metrics import Metric
    from fedkt.objectives import Head, HeadPart, Net, Term, Transform
    from fedkt.optimisers import Optimiser
    from fedkt.readouts import ReadOut
    from fedkt.recipe import Load, Predict, Recipe, Remember, Step, Train, Weights
    from fedkt.registry import register
    from fedkt.schedules import Schedule
    from fedkt.shares import ClassCounts, ClassLogits, Features, Prototypes, Question, Share, Sizes
    from fedkt.simulations.api.comparing import compare
    from fedkt.simulations.api.results import load
    from fedkt.simulations.api.simulating import simulate
    from fedkt.simulations.api.study import Experiment
    from fedkt.strategies import KnowledgeStrategy
    from fedkt.training import TrainingOptions
    from fedkt.upload_check import Expected


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fedkt' has no attribute {name!r}")
