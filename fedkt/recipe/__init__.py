"""Recipes: what the clients of a method do, as plain data."""

from fedkt.recipe.recipe import ReadOut, Recipe
from fedkt.shares import (
    ClassCounts,
    ClassLogits,
    Features,
    Form,
    Gate,
    Predict,
    Prototypes,
    Share,
    Styles,
    Validation,
    Weights,
)
from fedkt.steps import Beside, Data, Load, Step, Train, Weighted, trainings, weighted

__all__ = [
    "Beside",
    "ClassCounts",
    "ClassLogits",
    "Data",
    "Features",
    "Form",
    "Gate",
    "Load",
    "Predict",
    "Prototypes",
    "ReadOut",
    "Recipe",
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
