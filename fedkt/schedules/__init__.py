"""Schedules: numbers that change during a run, as functions of its finished part."""

from fedkt.schedules.schedule import Schedule, at, is_scheduled, settled
from fedkt.schedules.shapes import Constant, Cosine, Linear, StepDown, WarmUp

__all__ = [
    "Constant",
    "Cosine",
    "Linear",
    "Schedule",
    "StepDown",
    "WarmUp",
    "at",
    "is_scheduled",
    "settled",
]
