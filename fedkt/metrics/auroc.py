"""The area under the receiver operating characteristic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from fedkt.metrics.metric import Metric
from fedkt.registry import register


@register(name="auroc")
@dataclass(frozen=True)
class AUROC(Metric):
    """Area under the ROC curve of each class against the rest, mean over the classes there are.

    Only classes count that some samples have and others have not: of two classes it is the usual
    area, and samples of a single class have none.

    References
    ----------
    Provost and Domingos, "Well-trained PETs: improving probability estimation trees", CeDER
    working paper IS-00-04, 2000; unweighted over classes.
    """

    title: ClassVar[str] = "AUROC"
    unit: ClassVar[Literal["%", ""]] = "%"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor) -> float | None:
        """Return the mean area; None where all samples are of one class; see ``Metric``."""
        from sklearn.metrics import roc_auc_score

        present = sorted(set(labels.tolist()))
        if len(present) < 2:
            return None
        scores = logits.double().log_softmax(-1).numpy()
        truth, weights = labels.numpy(), weight.numpy()
        areas = [roc_auc_score(truth == c, scores[:, c], sample_weight=weights) for c in present]
        return float(sum(areas) / len(areas))
