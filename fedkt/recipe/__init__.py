"""Recipes: what the clients of a method do, as plain data."""

from fedkt.recipe.recipe import ReadOut, Recipe
from fedkt.recipe.steps import Beside, Data, Load, Step, Train, Weighted, weighted
from fedkt.shares import Form, Gate, Predict, Share, Styles, Validation, Weights

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
    "weighted",
]
