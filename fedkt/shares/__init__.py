"""Shares: what clients upload, as plain data. One share a file."""

from fedkt.shares.gate import Gate
from fedkt.shares.predict import Form, Predict
from fedkt.shares.share import Asked, Share
from fedkt.shares.styles import Styles
from fedkt.shares.validation import Validation
from fedkt.shares.weights import Weights

__all__ = ["Asked", "Form", "Gate", "Predict", "Share", "Styles", "Validation", "Weights"]
