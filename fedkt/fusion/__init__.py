"""Fusions: from the stacked uploads of the clients to fused knowledge.

The functions are the mathematics; the classes are the same by name, with their options, for
configurations (``fedkt list fusions``).
"""

from fedkt.fusion.averaging import (
    Mean,
    MeanByCounts,
    MeanByExamples,
    PersonalisedMean,
    average,
    mean,
    mean_by_counts,
    mean_by_examples,
    personalised_mean,
)
from fedkt.fusion.filtered import FilteredMean, GeometricMedian
from fedkt.fusion.fusion import Fusion, FusionRound, WeightedMean, fused
from fedkt.fusion.knowledge_vote import KnowledgeVote
from fedkt.fusion.neighbours import SemanticNeighbours
from fedkt.fusion.robust import Median, TrimmedMean
from fedkt.fusion.trust_rules import TrustRule, trust_rule
from fedkt.fusion.trusted import TrustedMean, trusted_mean
from fedkt.fusion.voting import Vote
from fedkt.fusion.weighting import SampleWeightedMean, sample_weighted_mean

__all__ = [
    "FilteredMean",
    "Fusion",
    "FusionRound",
    "GeometricMedian",
    "KnowledgeVote",
    "Mean",
    "MeanByCounts",
    "MeanByExamples",
    "Median",
    "PersonalisedMean",
    "SampleWeightedMean",
    "SemanticNeighbours",
    "TrimmedMean",
    "TrustRule",
    "TrustedMean",
    "Vote",
    "WeightedMean",
    "average",
    "fused",
    "mean",
    "mean_by_counts",
    "mean_by_examples",
    "personalised_mean",
    "sample_weighted_mean",
    "trust_rule",
    "trusted_mean",
]
