"""Augmentations: how private samples are changed at random in training. One augmentation a file."""

from fedkt.augmentations.augmentation import Augmentation, augmentations_of, augmented
from fedkt.augmentations.crop import Crop
from fedkt.augmentations.flip import Flip
from fedkt.augmentations.jitter import Jitter

__all__ = ["Augmentation", "Crop", "Flip", "Jitter", "augmentations_of", "augmented"]
