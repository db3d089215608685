"""Shares: what clients upload, as plain data. One share a file."""

from fedkt.shares.class_counts import ClassCounts
from fedkt.shares.class_logits import ClassLogits
from fedkt.shares.predict import Form, Predict
from fedkt.shares.prototypes import Prototypes
from fedkt.shares.public_features import Features
from fedkt.shares.share import Asked, Question, Share
from fedkt.shares.sizes import Sizes
from fedkt.shares.styles import Styles
from fedkt.shares.validation import Validation
from fedkt.shares.weights import Weights

__all__ = [
    "Asked",
    "ClassCounts",
    "ClassLogits",
    "Features",
    "Form",
    "Predict",
    "Prototypes",
    "Question",
    "Share",
    "Sizes",
    "Styles",
    "Validation",
    "Weights",
]
