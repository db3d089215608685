"""Recipes: what the clients of a method do, as plain data."""

from fedkt.recipe.recipe import ReadOut, Recipe
from fedkt.shares import Form, Gate, Predict, Share, Styles, Validation, Weights
from fedkt.steps import Beside, Data, Load, Step, Train, Weighted, trainings, weighted

__all__ = [
    "Beside",
    "Data",
    "Form",
    "Gate",
    "Load",
    "Predict",
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
