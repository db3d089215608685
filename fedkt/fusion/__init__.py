"""Fusions: functions from the stacked uploads of the clients to fused knowledge."""

from fedkt.fusion.averaging import average, mean, mean_by_examples, personalised_mean
from fedkt.fusion.weighting import sample_weighted_mean

__all__ = ["average", "mean", "mean_by_examples", "personalised_mean", "sample_weighted_mean"]
