"""Recipes: what the clients of a method do, as plain data."""

from fedkt.recipe.recipe import ReadOut, Recipe
from fedkt.recipe.shares import Form, Gate, Predict, Share, Styles, Validation, Weights
from fedkt.recipe.steps import Beside, Data, Load, Step, Train, Weighted, weighted

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
