"""Recipes: what the clients of a method do, as plain data."""

from fedkt.readouts import Gate, Mix, Prior, Raw, ReadOut
from fedkt.recipe.recipe import Recipe
from fedkt.shares import (
    ClassCounts,
    ClassLogits,
    Features,
    Form,
    Predict,
    Prototypes,
    Share,
    Styles,
    Validation,
    Weights,
)
from fedkt.steps import Beside, Data, Load, Remember, Step, Train, Weighted, trainings, weighted

__all__ = [
    "Beside",
    "ClassCounts",
    "ClassLogits",
    "Data",
    "Features",
    "Form",
    "Gate",
    "Load",
    "Mix",
    "Predict",
    "Prior",
    "Prototypes",
    "Raw",
    "ReadOut",
    "Recipe",
    "Remember",
    "Share",
    "Step",
    "Styles",
    "Train",
    "Validation",
    "Weighted",
    "Weights",
    "trainings",
    "weighted",
]
