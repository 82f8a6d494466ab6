"""Sample quality as pure functions of features, in float64; no images, no networks."""

from couplet.metrics.distances import frechet_distance, kernel_distance
from couplet.metrics.inception_score import (
    InceptionScore,
    inception_score_ect,
    inception_score_torchmetrics,
)
from couplet.metrics.moments import Moments, MomentsAccumulator, moments
from couplet.metrics.precision_recall import PrecisionRecall, precision_recall

__all__ = [
    "InceptionScore",
    "Moments",
    "MomentsAccumulator",
    "PrecisionRecall",
    "frechet_distance",
    "inception_score_ect",
    "inception_score_torchmetrics",
    "kernel_distance",
    "moments",
    "precision_recall",
]
