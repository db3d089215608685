"""Metrics: figures of a model's answers beside accuracy. One metric a file."""

from fedkt.metrics.auroc import AUROC
from fedkt.metrics.balanced_accuracy import BalancedAccuracy
from fedkt.metrics.brier_score import BrierScore
from fedkt.metrics.confusion_matrix import ConfusionMatrix
from fedkt.metrics.expected_calibration_error import ExpectedCalibrationError
from fedkt.metrics.log_loss import LogLoss
from fedkt.metrics.macro_f1 import MacroF1
from fedkt.metrics.metric import Facts, Measured, Metric, metric_of, metrics_of, wire_metrics
from fedkt.metrics.per_class_recall import PerClassRecall

__all__ = [
    "AUROC",
    "BalancedAccuracy",
    "BrierScore",
    "ConfusionMatrix",
    "ExpectedCalibrationError",
    "Facts",
    "LogLoss",
    "MacroF1",
    "Measured",
    "Metric",
    "PerClassRecall",
    "metric_of",
    "metrics_of",
    "wire_metrics",
]
