"""Steps: what clients do with their models, as plain data. One step a file."""

from fedkt.steps.gated_load import GatedLoad
from fedkt.steps.load import Load
from fedkt.steps.remember import Remember
from fedkt.steps.train import Beside, Data, Step, Train, Weighted, trainings, weighted

__all__ = [
    "Beside",
    "Data",
    "GatedLoad",
    "Load",
    "Remember",
    "Step",
    "Train",
    "Weighted",
    "trainings",
    "weighted",
]
